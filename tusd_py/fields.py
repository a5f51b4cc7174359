"""Parse the header fields of the IETF's world: structured fields, digests, dispositions.

RFC 9651, RFC 9530, RFC 6266 with RFC 8187. What cannot be read is None where the specification
wants it ignored, and InvalidHeader where it may not pass unseen.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote_to_bytes

import http_sf

from tusd_py.headers import Checksum, InvalidHeader, parse_metadata, parse_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusd_py.headers import Headers

#: The digests of RFC 9530 that are not deprecated, with their sizes in bytes, best one first.
DIGEST_SIZES = {"sha-512": 64, "sha-256": 32}
#: The largest Integer of RFC 9651, section 3.3.1.
MAX_INTEGER = 10**15 - 1

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  RFC 9110's token, no secret
_TYPE = re.compile(rf"{_TOKEN}[ \t]*")
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*')
_EXTENDED = re.compile(
    r"(utf-8|iso-8859-1)'[a-z0-9-]*'((?:%[0-9a-f]{2}|[!#$&+\-.^_`|~0-9a-z])+)", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def one(headers: Headers, name: str) -> str | None:
    """Return an Item's field; unlike lines are joined, which no Item is (RFC 9651, section 4.2)."""
    try:
        return headers.one(name)
    except InvalidHeader:
        return headers.joined(name, ", ")


def integer(headers: Headers, name: str) -> int | None:
    """Return a field's non-negative Integer; None where it did not come or has to be ignored."""
    return parse_integer(one(headers, name) or "")


def content_length(headers: Headers) -> int | None:
    """Return the size of a request's body; None for one that is chunked or absent."""
    value = headers.one("content-length")
    return None if value is None else parse_number("content-length", value)


def parse_boolean(value: str) -> bool | None:
    """Parse an Item whose value is a Boolean; None for anything else."""
    item = _item(value)
    return item if isinstance(item, bool) else None


def parse_integer(value: str) -> int | None:
    """Parse an Item whose value is a non-negative Integer; None for anything else."""
    item = _item(value)
    # To Python a Boolean is an integer too.
    return item if type(item) is int and item >= 0 else None


def _item(value: str) -> object:
    try:
        item = http_sf.parse(value.encode("latin-1"), tltype="item")
    except http_sf.StructuredFieldError:
        return None
    return cast("tuple[object, object]", item)[0]


def _dictionary(value: str) -> dict[str, object]:
    """Parse a Dictionary to its values without parameters; raise ValueError."""
    parsed = http_sf.parse(value.encode("latin-1"), tltype="dictionary")
    members = cast("dict[str, tuple[object, object]]", parsed)
    return {key: member[0] for key, member in members.items()}


def build_limits(limits: Mapping[str, float]) -> str:
    """Build a Dictionary of Integers, such as `Upload-Limit`; too large ones are cut down."""
    return http_sf.ser({key: int(min(value, MAX_INTEGER)) for key, value in limits.items()})


def parse_digests(name: str, value: str) -> dict[str, bytes]:
    """Parse `Content-Digest` or `Repr-Digest` to digests by algorithm; unknown ones are left out.

    Raises:
        InvalidHeader: it cannot be read; whoever sends a digest wants it checked.
    """
    try:
        members = _dictionary(value)
    except http_sf.StructuredFieldError:
        raise InvalidHeader(name, "a dictionary of digests", value) from None
    return {
        algorithm: _digest(name, algorithm, members[algorithm])
        for algorithm in DIGEST_SIZES
        if algorithm in members
    }


def _digest(name: str, algorithm: str, value: object) -> bytes:
    size = DIGEST_SIZES[algorithm]
    if not isinstance(value, bytes) or len(value) != size:
        raise InvalidHeader(name, f"{size} bytes as the value of {algorithm}", str(value))
    return value


def content_checksum(headers: Headers) -> Checksum | None:
    """Return the best digest of `Content-Digest` as what a body is checked by."""
    name = "content-digest"
    digests = parse_digests(name, headers.joined(name, ", ") or "")
    # hashlib writes the names without a hyphen.
    found = [Checksum(algorithm.replace("-", ""), digests[algorithm]) for algorithm in digests]
    return found[0] if found else None


def build_digests(digests: Mapping[str, bytes]) -> str:
    """Build `Content-Digest` or `Repr-Digest` of digests by algorithm."""
    return http_sf.ser(dict(digests))


def parse_wanted_digests(value: str) -> tuple[str, ...]:
    """Parse `Want-Repr-Digest` to the algorithms we know, the most wanted first."""
    try:
        members = _dictionary(value)
    except http_sf.StructuredFieldError:
        return ()
    weights = {name: parsed for name, parsed in members.items() if type(parsed) is int}
    known = [name for name in DIGEST_SIZES if weights.get(name, 0) > 0]
    return tuple(sorted(known, key=weights.__getitem__, reverse=True))


def parse_filename(value: str) -> str | None:
    """Parse the file's name out of a `Content-Disposition`; None where it is malformed.

    Only its last path segment is taken (RFC 6266, section 4.3).
    """
    parameters = _parameters(value)
    name = _extended(parameters.get("filename*", "")) or _plain(parameters.get("filename", ""))
    name = re.split(r"[/\\]", name)[-1]
    return None if name in {"", ".", ".."} or _CONTROL.search(name) else name


def _parameters(value: str) -> dict[str, str]:
    """Split a header's parameters; none at all when one of them is malformed or comes twice."""
    kind = _TYPE.match(value)
    at = kind.end() if kind else -1
    parameters: dict[str, str] = {}
    while 0 <= at < len(value):
        found = _PARAMETER.match(value, at)
        if not found or found[1].lower() in parameters:
            return {}
        quoted = found[3]
        text = found[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters[found[1].lower()] = text
        at = found.end()
    return parameters


def _extended(value: str) -> str:
    """Decode RFC 8187's `charset'language'percent-encoded`."""
    found = _EXTENDED.fullmatch(value)
    try:
        return unquote_to_bytes(found[2]).decode(found[1]) if found else ""
    except UnicodeDecodeError:
        return ""


def _plain(value: str) -> str:
    # Many clients put UTF-8 there as it is.
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def build_metadata(headers: Headers, filetype: str) -> str | None:
    """Build `Upload-Metadata` of a representation's headers; pairs the client sent itself win."""
    given = headers.joined("upload-metadata") or ""
    try:
        known = parse_metadata(given)
    except InvalidHeader:
        # It is no field of that protocol: tus-js-client sends it all the same.
        given, known = "", {}
    found = {
        "filename": parse_filename(one(headers, "content-disposition") or "") or "",
        "filetype": filetype,
        # The coding stays with the bytes: offset and length count what was sent.
        "contentencoding": one(headers, "content-encoding") or "",
    }
    pairs = [
        f"{key} {base64.b64encode(value.encode()).decode()}"
        for key, value in found.items()
        if value and key not in known
    ]
    return ",".join([given, *pairs] if given else pairs) or None
