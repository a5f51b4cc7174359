"""The record of an upload and its codec; pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Records, journals and results carry it; a newer one than this is refused in a sentence.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Upload:
    """Describe one upload as the stores hold it.

    Times are seconds since the epoch. A `length` of None is not known yet. `metadata` is the
    `Upload-Metadata` header as received, so that it is echoed byte for byte. `offset` is what a
    client may rely on.
    """

    id: str
    length: int | None
    metadata: str | None
    created_at: float
    expires_at: float
    offset: int = 0
    complete: bool = False
    token: int = 0

    def to_hash(self) -> dict[str, str]:
        """Build the fields of the Redis hash."""
        fields = {name: str(value) for name, value in asdict(self).items() if value is not None}
        return fields | {"complete": str(int(self.complete)), "version": str(VERSION)}

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Upload:
        """Parse the fields of the Redis hash; raise ValueError for a version from the future."""
        _check_version(int(fields["version"]))
        return cls(
            id=fields["id"],
            length=int(fields["length"]) if "length" in fields else None,
            metadata=fields.get("metadata"),
            created_at=float(fields["created_at"]),
            expires_at=float(fields["expires_at"]),
            offset=int(fields["offset"]),
            complete=fields["complete"] == "1",
            token=int(fields["token"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Build the journal's first line."""
        return asdict(self) | {"version": VERSION}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Upload:
        """Parse the journal's first line; raise ValueError for a version from the future."""
        _check_version(value["version"])
        return cls(**{name: item for name, item in value.items() if name != "version"})


def _check_version(version: int) -> None:
    if version > VERSION:
        raise ValueError(
            f"this record has version {version}, this program knows up to {VERSION}: upgrade it"
        )
