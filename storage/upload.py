"""The record of an upload and its codec; pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from storage.errors import RecordTooNew

if TYPE_CHECKING:
    from collections.abc import Mapping

# Records, journals and results carry it; a newer one than this is refused in a sentence.
VERSION = 1
PARTIAL = "partial"
FIRST_SEGMENT = ((0, 0),)


@dataclass(frozen=True, slots=True)
class Upload:
    """Describe one upload as the stores hold it.

    Times are seconds since the epoch. A `length` of None is not known yet. `metadata` is the
    `Upload-Metadata` header as received, so that it is echoed byte for byte. `offset` is what a
    client may rely on. `segments` are the files it lies in: the number of each, and the offset at
    which it begins. `concat` is the `Upload-Concat` header as received.
    """

    id: str
    length: int | None
    metadata: str | None
    created_at: float
    expires_at: float
    offset: int = 0
    complete: bool = False
    token: int = 0
    segments: tuple[tuple[int, int], ...] = FIRST_SEGMENT
    concat: str | None = None

    @property
    def partial(self) -> bool:
        """Tell whether it is only a part of others, which is never analysed by itself."""
        return self.concat == PARTIAL

    @property
    def final(self) -> bool:
        """Tell whether it was put together from parts."""
        return self.concat is not None and self.concat != PARTIAL

    def is_behind(self, journal: Upload) -> bool:
        """Tell whether this record lacks what the journal of its upload says."""
        unfinished = journal.complete and not self.complete
        return self.token < journal.token or self.offset < journal.offset or unfinished

    def to_hash(self) -> dict[str, str]:
        """Build the fields of the Redis hash."""
        fields = {name: str(value) for name, value in asdict(self).items() if value is not None}
        segments = ",".join(f"{number}:{start}" for number, start in self.segments)
        fields |= {"complete": str(int(self.complete)), "version": str(VERSION)}
        # Nearly always one file; Redis need not remember that.
        return _without(fields, "segments") | ({"segments": segments} if self._parted else {})

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Upload:
        """Parse the fields of the Redis hash; raise RecordTooNew."""
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
            segments=_segments(fields.get("segments")),
            concat=fields.get("concat"),
        )

    @property
    def _parted(self) -> bool:
        return self.segments != FIRST_SEGMENT

    def to_json(self) -> dict[str, Any]:
        """Build the journal's first line."""
        return asdict(self) | {"version": VERSION}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Upload:
        """Parse the journal's first line; raise RecordTooNew."""
        _check_version(value["version"])
        segments = tuple((number, start) for number, start in value["segments"])
        return cls(**_without(value, "version") | {"segments": segments})


def _segments(text: str | None) -> tuple[tuple[int, int], ...]:
    if text is None:
        return FIRST_SEGMENT
    pairs = (part.split(":") for part in text.split(","))
    return tuple((int(number), int(start)) for number, start in pairs)


def _without(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def _check_version(version: int) -> None:
    if version > VERSION:
        raise RecordTooNew(
            f"this record has version {version}, this program knows up to {VERSION}: upgrade it"
        )
