"""Parse what headers say; each parser raises InvalidHeader with what was expected and what came."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# 19 digits hold every length below 2**63; int() alone would take "+5" and "1_0".
_NUMBER = re.compile(r"[0-9]{1,19}")
_KEY_LEAST, _KEY_MOST = 16, 255
_KEY = re.compile(rf"[ -~]{{{_KEY_LEAST},{_KEY_MOST}}}")
_QUOTED_KEY = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_METADATA_KEY = re.compile(r"[!-+\--~]+")


class InvalidHeader(ValueError):
    """A header says something else than its specification allows."""

    def __init__(self, name: str, expected: str, came: str) -> None:
        shown = came if len(came) <= 100 else f"{came[:100]}..."  # noqa: PLR2004  one line of text
        super().__init__(f"{name}: expected {expected}, got {shown!a}")


class Headers:
    """Hold the header fields of one request, names in lower case, values as received."""

    __slots__ = ("_fields", "_repeated")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        """Take ASGI's list of pairs."""
        self._fields: dict[str, str] = {}
        # All values of those that came more than once.
        self._repeated: dict[str, list[str]] = {}
        fields = self._fields
        for raw_name, raw_value in raw:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1").strip(" \t")
            if name in fields:
                self._repeated.setdefault(name, [fields[name]]).append(value)
            else:
                fields[name] = value

    def __contains__(self, name: str) -> bool:
        """Tell whether the header came at all."""
        return name in self._fields

    def one(self, name: str) -> str | None:
        """Return a header that may come once; equal repetitions, as proxies make them, count once.

        Raises:
            InvalidHeader: it came with unlike values.
        """
        if self._repeated and len(set(self._repeated.get(name, ()))) > 1:
            raise InvalidHeader(name, "one value", ", ".join(self._repeated[name]))
        return self._fields.get(name)

    def number(self, name: str) -> int | None:
        """Return a header that is a number (`parse_number`), or None; raise InvalidHeader."""
        value = self.one(name) if self._repeated else self._fields.get(name)
        return None if value is None else parse_number(name, value)

    def lines(self, name: str) -> list[str]:
        """Return the values of every line of a name."""
        if name in self._repeated:
            return self._repeated[name]
        return [self._fields[name]] if name in self._fields else []

    def joined(self, name: str, separator: str = ",") -> str | None:
        """Return a header that may be spread over several lines (RFC 9110, section 5.3)."""
        if name in self._repeated:
            return separator.join(self._repeated[name])
        return self._fields.get(name)

    def listed(self, name: str) -> set[str]:
        """Return the elements of a header that lists names, in lower case."""
        if name not in self._fields:
            return set()
        elements = (self.joined(name) or "").split(",")
        return {element.strip(" \t").lower() for element in elements} - {""}


def parse_number(name: str, value: str) -> int:
    """Parse a non-negative integer of at most 19 ASCII digits."""
    if not _NUMBER.fullmatch(value):
        raise InvalidHeader(name, "a non-negative integer", value)
    return int(value)


def parse_metadata(value: str) -> dict[str, bytes]:
    """Parse `Upload-Metadata` (tus 1.0.0, creation): pairs of key and base64 value.

    Empty means none: tuspy sends exactly that.
    """
    if not value:
        return {}
    pairs: dict[str, bytes] = {}
    for element in value.split(","):
        key, encoded = _split_pair(element.strip(" \t"))
        if key in pairs:
            raise InvalidHeader("upload-metadata", "each key once", key)
        pairs[key] = _decode("upload-metadata", encoded)
    return pairs


def _split_pair(element: str) -> tuple[str, str]:
    key, _, encoded = element.partition(" ")
    if not _METADATA_KEY.fullmatch(key) or " " in encoded:
        raise InvalidHeader("upload-metadata", "pairs of an ASCII key and a base64 value", element)
    return key, encoded


def _decode(name: str, encoded: str) -> bytes:
    try:
        # What b64decode does when it is to validate, past its detours.
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise InvalidHeader(name, "a base64 value", encoded) from None


@dataclass(frozen=True, slots=True)
class Checksum:
    """Hold what `Upload-Checksum` says of a body: the algorithm's name and the digest."""

    algorithm: str
    digest: bytes


def parse_checksum(value: str) -> Checksum:
    """Parse `Upload-Checksum` (tus 1.0.0, checksum): an algorithm and a base64 digest."""
    algorithm, separator, encoded = value.partition(" ")
    if not separator or not algorithm:
        raise InvalidHeader("upload-checksum", "an algorithm and a base64 digest", value)
    return Checksum(algorithm, _decode("upload-checksum", encoded))


def parse_key(value: str) -> str:
    """Parse `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a String, or bare.

    Whoever knows it counts as the same caller, so it may not be guessed.
    """
    quoted = _QUOTED_KEY.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if not _KEY.fullmatch(key):
        expected = f"{_KEY_LEAST} to {_KEY_MOST} printable ASCII characters"
        raise InvalidHeader("idempotency-key", expected, value)
    return key


def parse_final(value: str) -> list[str]:
    """Parse `Upload-Concat` of a final upload (tus 1.0.0, concatenation): its parts' addresses."""
    kind, separator, urls = value.partition(";")
    if kind != "final" or not separator or not urls.split():
        raise InvalidHeader("upload-concat", "partial, or final; and the uploads it is of", value)
    return urls.split()


def media_type(value: str) -> str:
    """Return the essence of a `Content-Type`: type and subtype, lower case, no parameters."""
    return value.partition(";")[0].strip().lower()


def build_date(seconds: float) -> str:
    """Build an HTTP date (RFC 9110, section 5.6.7) of seconds since the epoch."""
    return _build_date(int(seconds))


@lru_cache(maxsize=1024)
def _build_date(seconds: int) -> str:
    # Uploads that are written at once expire at once.
    return formatdate(seconds, usegmt=True)
