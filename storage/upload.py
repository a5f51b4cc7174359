"""The record of an upload and its codec; pure."""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from storage.errors import RecordTooNew

if TYPE_CHECKING:
    from collections.abc import Mapping

# Records, journals and results carry it; a newer one than this is refused in a sentence.
VERSION = 1
PARTIAL = "partial"
FIRST_SEGMENT = ((0, 0),)
_OPTIONAL = ("metadata", "concat", "repr_digest", "fingerprint", "request_id")


@dataclass(frozen=True, slots=True)
class Part:
    """Describe the bytes of a finished partial upload: how many, and where its files begin."""

    length: int
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """Describe one upload as the stores hold it.

    Times are seconds since the epoch. A `length` of None is not known yet. `metadata` is the
    `Upload-Metadata` header as received, so that it is echoed byte for byte. `offset` is what a
    client may rely on. `segments` are the files it lies in: the number of each, and the offset at
    which it begins. `concat` is the `Upload-Concat` header as received, `repr_digest` the
    `Repr-Digest` of its creation. `dialect` is the one that created it. `fingerprint` stands for
    the request that an Idempotency-Key named it by, `request_id` is the `X-Request-ID` that its
    client gave the creation.
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
    dialect: str = "tus"
    repr_digest: str | None = None
    fingerprint: str | None = None
    request_id: str | None = None

    @property
    def partial(self) -> bool:
        """Tell whether it is only a part of others, which is never analysed by itself."""
        return self.concat == PARTIAL

    @property
    def final(self) -> bool:
        """Tell whether it is put together from parts."""
        return self.concat is not None and self.concat != PARTIAL

    @property
    def waiting(self) -> bool:
        """Tell whether it is a final one that lacks parts still."""
        return self.final and not self.complete

    @property
    def perishable(self) -> bool:
        """Tell whether it goes when its time has come; a final one waits as long as its parts."""
        return self.partial or not (self.complete or self.final)

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the ids of what a final one is made of, in their order."""
        urls = (self.concat or "").partition(";")[2].split()
        return tuple(id_of(url) for url in urls)

    @property
    def described(self) -> dict[str, str]:
        """Return what the metadata says, by its keys; what it is not sound in is left out."""
        elements = (element.strip(" \t") for element in (self.metadata or "").split(","))
        pairs = (element.partition(" ") for element in elements if element)
        return {key: text for key, _, value in pairs if (text := _decoded(value)) is not None}

    def joined(self, parts: Mapping[str, Part]) -> Upload:
        """Return the final upload as it stands with all of its parts.

        The file `number` of the upload is then the file `number // n` of the part
        `number % n`, where n is how many different parts there are.
        """
        order = {part_id: index for index, part_id in enumerate(dict.fromkeys(self.parts))}
        segments: list[tuple[int, int]] = []
        offset = 0
        for part_id in self.parts:
            part = parts[part_id]
            segments += [
                (order[part_id] + nth * len(order), offset + start)
                for nth, start in enumerate(part.starts)
            ]
            offset += part.length
        return replace(self, offset=offset, length=offset, complete=True, segments=tuple(segments))

    def at(self, offset: int, length: int | None, expires_at: float, *, complete: bool) -> Upload:
        """Return the upload as it stands when it has come so far."""
        # As replace, which takes several times as long; every request does this.
        return Upload(
            self.id,
            length,
            self.metadata,
            self.created_at,
            expires_at,
            offset,
            complete,
            self.token,
            self.segments,
            self.concat,
            self.dialect,
            self.repr_digest,
            self.fingerprint,
            self.request_id,
        )

    def is_behind(self, journal: Upload) -> bool:
        """Tell whether this record lacks what the journal of its upload says."""
        unfinished = journal.complete and not self.complete
        return self.token < journal.token or self.offset < journal.offset or unfinished

    def to_hash(self) -> dict[str, str]:
        """Build the fields of the Redis hash."""
        fields = {
            "id": self.id,
            "created_at": str(self.created_at),
            "expires_at": str(self.expires_at),
            "offset": str(self.offset),
            "complete": "1" if self.complete else "0",
            "token": str(self.token),
            "dialect": self.dialect,
            "version": str(VERSION),
        }
        if self.length is not None:
            fields["length"] = str(self.length)
        for name in _OPTIONAL:
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        if (files := self.files) is not None:
            fields["segments"] = files
        return fields

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
            dialect=fields.get("dialect", "tus"),
            repr_digest=fields.get("repr_digest"),
            fingerprint=fields.get("fingerprint"),
            request_id=fields.get("request_id"),
        )

    def _fields(self) -> dict[str, Any]:
        # As asdict, which copies whatever lies deeper.
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def files(self) -> str | None:
        """Return `segments` as the hash has them; nearly always it is one file, which it omits."""
        if self.segments == FIRST_SEGMENT:
            return None
        return ",".join(f"{number}:{start}" for number, start in self.segments)

    def to_json(self) -> dict[str, Any]:
        """Build the journal's first line."""
        fields = self._fields() | {"version": VERSION}
        if self.request_id is None:
            # Few have one, and each journal would say so.
            del fields["request_id"]
        return fields

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Upload:
        """Parse the journal's first line; raise RecordTooNew."""
        _check_version(value["version"])
        segments = tuple((number, start) for number, start in value["segments"])
        return cls(**_without(value, "version") | {"segments": segments})


def id_of(url: str) -> str:
    """Return the id of an upload: the last part of its URL."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2]


def _decoded(value: str) -> str | None:
    try:
        return b64decode(value).decode(errors="replace")
    except (binascii.Error, ValueError):
        return None


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
