"""tus 1.0.0 without I/O: how a request is read and what it is answered.

https://tus.io/protocols/resumable-upload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.upload import PARTIAL, id_of
from tusd_py.headers import (
    Checksum,
    InvalidHeader,
    build_date,
    media_type,
    parse_checksum,
    parse_final,
    parse_key,
    parse_metadata,
)
from tusd_py.origin import Origin, Reach
from tusd_py.protocol import (
    TUS,
    Action,
    Append,
    Code,
    Concatenate,
    Create,
    Discover,
    Head,
    Limits,
    ProtocolError,
    Response,
    Terminate,
    is_upload_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.upload import Upload
    from tusd_py.headers import Headers

TUS_VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "checksum-trailer",
    "termination",
    "concatenation",
    "concatenation-unfinished",
)
ALGORITHMS = ("sha1", "md5", "crc32", "crc32c", "sha256", "sha512", "blake2b")
# Bytes. Every record and every HEAD carries them.
_METADATA_MOST = 16 * 1024
APPEND_TYPE = "application/offset+octet-stream"
# Beside a creation these are not ours to read: the upload is created without them.
_IGNORED_TYPES = frozenset(("", "application/x-www-form-urlencoded", "multipart/form-data"))
_UPLOAD_METHODS = "OPTIONS, GET, HEAD, PATCH, DELETE"
_CREATION_METHODS = "OPTIONS, POST"
_METHODS = {
    listed: frozenset(listed.split(", ")) - {"GET"}
    for listed in (_UPLOAD_METHODS, _CREATION_METHODS)
}
_WANTED_TYPE = f"the body of this request must be {APPEND_TYPE}"
_CHECKSUM = "upload-checksum"


@dataclass(frozen=True, slots=True)
class Tus:
    """Speak tus 1.0.0 (protocol.Speaker); `reach` tells which addresses are ours."""

    reach: Reach | None = None
    name: str = TUS

    def parse(self, method: str, upload_id: str | None, headers: Headers) -> Action:
        try:
            # Only from POST: a preflight is OPTIONS, and nobody turns a GET into something else.
            if method == "POST":
                method = (headers.one("x-http-method-override") or method).upper()
            if method == "OPTIONS":
                return Discover()
            _check_method(method, upload_id)
            if headers.joined("tus-resumable") != TUS_VERSION:
                _check_version(headers)
            if upload_id is None:
                return _parse_create(headers, self.reach or Origin().of({}, headers))
            return _parse(method, upload_id, headers)
        except InvalidHeader as error:
            raise ProtocolError(Code.INVALID_HEADER, str(error)) from error

    def admit_append(self, action: Append, upload: Upload) -> None:
        """Want nothing beyond what all want."""

    def replays(self, action: Append, upload: Upload) -> bool:
        # One with bytes in it is refused for them.
        return upload.complete and action.offset == upload.offset

    def parse_trailer(self, trailers: Headers) -> Checksum | None:
        try:
            return _checksum(trailers)
        except InvalidHeader as error:
            raise ProtocolError(Code.INVALID_HEADER, str(error)) from error

    def discovered(self, limits: Limits) -> Response:
        """Answer OPTIONS; 200, as the public conformance suite wants it."""
        missing = {
            "termination": not limits.termination,
            "checksum-trailer": not limits.trailers,
        }
        headers = {
            "Tus-Version": TUS_VERSION,
            "Tus-Extension": ",".join(name for name in EXTENSIONS if not missing.get(name)),
            "Tus-Max-Size": str(limits.max_size),
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        }
        return _response(200, headers)

    def interim(self, upload: Upload, location: str, limits: Limits, now: float) -> None:
        """Say nothing before the end."""

    def progress(self, upload: Upload) -> None:
        """Say nothing before the end."""

    def created(
        self,
        upload: Upload,
        location: str,
        limits: Limits,
        now: float,
        final: Response | None = None,
        *,
        body: bool = True,
    ) -> Response:
        del limits, now, final
        headers = {"Location": location} | _expires(upload)
        if body:
            headers["Upload-Offset"] = str(upload.offset)
        return _response(201, headers)

    def appended(
        self,
        upload: Upload,
        location: str,
        limits: Limits,
        now: float,
        final: Response | None = None,
    ) -> Response:
        del location, limits, now, final
        return _response(204, {"Upload-Offset": str(upload.offset)} | _expires(upload))

    def stands_at(self, upload: Upload, limits: Limits, now: float) -> Response:
        del limits, now
        # A final upload has no offset before it is put together.
        headers = {"Cache-Control": "no-store"}
        if not upload.waiting:
            headers["Upload-Offset"] = str(upload.offset)
        if upload.length is not None:
            headers["Upload-Length"] = str(upload.length)
        elif not upload.waiting:
            headers["Upload-Defer-Length"] = "1"
        if upload.metadata:
            headers["Upload-Metadata"] = upload.metadata
        if upload.concat:
            headers["Upload-Concat"] = upload.concat
        return _response(200, headers | _expires(upload))

    def terminated(self) -> Response:
        return _response(204, {})

    def refused(
        self,
        error: ProtocolError,
        limits: Limits,
        *,
        head: bool,
        action: Action | None = None,
        upload: Upload | None = None,
    ) -> Response:
        del action, upload
        status = error.code.status
        temporary = status in {Code.LOCKED.status, Code.UNAVAILABLE.status}
        if head and status == Code.UNAVAILABLE.status:
            status = Code.LOCKED.status
        headers = dict(error.headers) | {"Content-Type": "text/plain; charset=utf-8"}
        if "Allow" in headers:
            headers["Allow"] = limits.allow(headers["Allow"])
        if temporary:
            headers["Retry-After"] = "1"
        if head:
            headers["Cache-Control"] = "no-store"
        return _response(status, headers, b"" if head else f"{error}\n".encode())


def _check_method(method: str, upload_id: str | None) -> None:
    allowed = _CREATION_METHODS if upload_id is None else _UPLOAD_METHODS
    # GET is a download, and no matter of this protocol.
    if method not in _METHODS[allowed]:
        raise ProtocolError(Code.METHOD_NOT_ALLOWED, Allow=allowed)


def _check_version(headers: Headers) -> None:
    version = headers.joined("tus-resumable")
    # A proxy or HTTP/2 may join equal lines to one.
    if version is None or {part.strip() for part in version.split(",")} != {TUS_VERSION}:
        raise ProtocolError(Code.UNSUPPORTED_VERSION, Tus_Version=TUS_VERSION)


def _parse(method: str, upload_id: str, headers: Headers) -> Action:
    if not is_upload_id(upload_id):
        raise ProtocolError(Code.NOT_FOUND)
    if method == "HEAD":
        return Head(upload_id)
    if method == "DELETE":
        return Terminate(upload_id)
    kind = headers.one("content-type") or ""
    if kind != APPEND_TYPE and media_type(kind) != APPEND_TYPE:
        raise ProtocolError(Code.INVALID_CONTENT_TYPE, _WANTED_TYPE)
    offset = headers.number("upload-offset")
    if offset is None:
        raise InvalidHeader("upload-offset", "a non-negative integer", "nothing")
    return Append(
        upload_id,
        offset,
        headers.number("content-length"),
        length=headers.number("upload-length"),
        checksum=_checksum(headers),
        trailer=_trailer(headers),
    )


def _parse_create(headers: Headers, reach: Reach) -> Create | Concatenate:
    metadata = headers.joined("upload-metadata")
    if len(metadata or "") > _METADATA_MOST:
        raise ProtocolError(Code.HEADERS_TOO_LARGE)
    parse_metadata(metadata or "")
    key = headers.one("idempotency-key")
    key = None if key is None else parse_key(key)
    concat = headers.one("upload-concat")
    if concat is not None and concat != PARTIAL:
        parts = _parse_final(concat, headers, reach)
        return Concatenate(parts, concat, metadata or None, key)
    length = _parse_length(headers)
    kind = media_type(headers.one("content-type") or "")
    body = kind == APPEND_TYPE
    if not body and kind not in _IGNORED_TYPES and _has_body(headers):
        raise ProtocolError(Code.INVALID_CONTENT_TYPE, _WANTED_TYPE)
    return Create(
        length,
        metadata or None,
        body,
        headers.number("content-length"),
        checksum=_checksum(headers) if body else None,
        partial=concat is not None,
        trailer=_trailer(headers) if body else None,
        key=key,
    )


def _parse_final(concat: str, headers: Headers, reach: Reach) -> tuple[str, ...]:
    if "upload-length" in headers or "upload-defer-length" in headers:
        raise InvalidHeader("upload-concat", "no length beside final", concat)
    if _has_body(headers):
        raise ProtocolError(Code.FINAL_IS_FIXED)
    return tuple(_part(url, reach) for url in parse_final(concat))


def _part(url: str, reach: Reach) -> str:
    """Return the id of a partial upload: a path, or an address under which we are reached."""
    if not reach.owns(url):
        raise InvalidHeader("upload-concat", "uploads of this server", url)
    upload_id = id_of(url)
    if not is_upload_id(upload_id):
        raise ProtocolError(Code.NOT_FOUND)
    return upload_id


def _parse_length(headers: Headers) -> int | None:
    length, deferred = headers.number("upload-length"), headers.one("upload-defer-length")
    if deferred is None and length is None:
        raise InvalidHeader("upload-length", "a non-negative integer", "nothing")
    if deferred is not None and length is not None:
        raise InvalidHeader("upload-defer-length", "nothing beside Upload-Length", deferred)
    if deferred not in {None, "1"}:
        raise InvalidHeader("upload-defer-length", "1", str(deferred))
    return length


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or bool(headers.number("content-length"))


def _checksum(headers: Headers) -> Checksum | None:
    value = headers.one(_CHECKSUM)
    if value is None:
        return None
    checksum = parse_checksum(value)
    if checksum.algorithm not in ALGORITHMS:
        raise InvalidHeader(_CHECKSUM, f"one of {', '.join(ALGORITHMS)}", value)
    return checksum


def _trailer(headers: Headers) -> str | None:
    """Tell whether the checksum will come behind the body (checksum-trailer)."""
    if _CHECKSUM not in headers.listed("trailer"):
        return None
    if _CHECKSUM in headers:
        raise InvalidHeader("trailer", f"no {_CHECKSUM} beside the header of that name", _CHECKSUM)
    return _CHECKSUM


def _expires(upload: Upload) -> dict[str, str]:
    if not upload.perishable:
        return {}
    return {"Upload-Expires": build_date(upload.expires_at)}


def _response(status: int, headers: Mapping[str, str], body: bytes = b"") -> Response:
    return Response(status, {"Tus-Resumable": TUS_VERSION, **headers}, body)
