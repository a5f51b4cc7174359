"""tus 1.0.0 without I/O: what a request asks for, whether it may, and what it is answered.

https://tus.io/protocols/resumable-upload. `parse` reads a request, `admit_*` checks it against
the upload, the builders at the end make the responses. No function here touches a socket, a file
or a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from storage import errors as storage_errors
from storage.upload import PARTIAL, Upload, id_of
from tusd_py.headers import (
    Checksum,
    Headers,
    InvalidHeader,
    build_date,
    media_type,
    parse_checksum,
    parse_final,
    parse_metadata,
    parse_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TUS_VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
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


class Code(Enum):
    """Name every refusal, with its status and sentence: the only place a status is chosen.

    Section 2.8 of the wire notes: clients retry 409, 423 and 5xx, and start from zero when HEAD
    answers anything but 2xx or 423.
    """

    UNSUPPORTED_VERSION = 412, "this server speaks tus 1.0.0: send Tus-Resumable: 1.0.0"
    FINAL_IS_FIXED = 403, "a final upload is made of its parts: nothing can be added to it"
    METHOD_NOT_ALLOWED = 405, "this method is not allowed here"
    INVALID_HEADER = 400, "a header is not as the protocol wants it"
    INVALID_CONTENT_TYPE = 415, f"the body of this request must be {APPEND_TYPE}"
    NOT_FOUND = 404, "there is no such upload"
    GONE = 410, "this upload was removed or has expired"
    MISMATCHED_OFFSET = 409, "Upload-Offset is not where this upload stands"
    TOO_LARGE = 413, "the upload is larger than this server takes"
    BODY_TOO_LONG = 413, "the body is longer than what is left of the upload"
    CHECKSUM_MISMATCH = 460, "the body is not what its checksum says: send it again"
    LOCKED = 423, "another request holds this upload: try again"
    TAKEN_OVER = 423, "this request had to let the upload go: ask for its offset and go on"
    STALLED = 423, "the body brought nothing for too long: go on from the offset"
    STORAGE_FULL = 507, "the disk has no room for this"
    UNAVAILABLE = 503, "the storage does not answer just now: try again"
    DAMAGED = 410, "the files of this upload are damaged: begin anew"
    HEADERS_TOO_LARGE = 431, "Upload-Metadata is too long"

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        self.sentence = sentence


class ProtocolError(Exception):
    """Refuse a request; `headers` are those the specification wants beside the status."""

    def __init__(self, code: Code, detail: str = "", **headers: str) -> None:
        super().__init__(detail or code.sentence)
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Hold what the configuration allows: bytes and seconds."""

    max_size: int
    expiration: float
    termination: bool = True


@dataclass(frozen=True, slots=True)
class Discover:
    """Ask what the server can do."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create an upload; `body` when its first bytes come along.

    `length` is None while the client does not know it, `content_length` for a chunked body.
    `completes` is what a request says of itself; None: complete when all of `length` is here (tus).
    """

    length: int | None
    metadata: str | None
    body: bool
    content_length: int | None
    completes: bool | None = None
    checksum: Checksum | None = None
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Create an upload of partial ones, finished or not; `parts` are their ids in order."""

    parts: tuple[str, ...]
    concat: str
    metadata: str | None


@dataclass(frozen=True, slots=True)
class Head:
    """Ask where an upload stands."""

    upload_id: str


@dataclass(frozen=True, slots=True)
class Append:
    """Add bytes at `offset`; `length` declares it, the rest is as in Create."""

    upload_id: str
    offset: int
    content_length: int | None
    length: int | None = None
    completes: bool | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class Terminate:
    """Remove an upload."""

    upload_id: str


Action = Discover | Create | Concatenate | Head | Append | Terminate


@dataclass(frozen=True, slots=True)
class Response:
    """Answer a request; `Tus-Resumable` is on every one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def parse(method: str, upload_id: str | None, headers: Headers) -> Action:
    """Read a request to the creation URL (`upload_id` None) or to an upload.

    Raises:
        ProtocolError: it is not a request of this protocol.
    """
    try:
        method = _overridden(method, headers)
        if method == "OPTIONS":
            return Discover()
        _check_method(method, upload_id)
        _check_version(headers)
        return _parse_create(headers) if upload_id is None else _parse(method, upload_id, headers)
    except InvalidHeader as error:
        raise ProtocolError(Code.INVALID_HEADER, str(error)) from error


def _overridden(method: str, headers: Headers) -> str:
    # Only from POST: a preflight is OPTIONS, and nobody needs to turn a GET into something else.
    override = headers.one("x-http-method-override") if method == "POST" else None
    return override.upper() if override else method


def _check_method(method: str, upload_id: str | None) -> None:
    allowed = _CREATION_METHODS if upload_id is None else _UPLOAD_METHODS
    # GET is a download, and no matter of this protocol.
    if method not in allowed.split(", ") or method == "GET":
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
    if media_type(headers.one("content-type") or "") != APPEND_TYPE:
        raise ProtocolError(Code.INVALID_CONTENT_TYPE)
    offset = _number(headers, "upload-offset")
    if offset is None:
        raise InvalidHeader("upload-offset", "a non-negative integer", "nothing")
    return Append(
        upload_id,
        offset,
        _number(headers, "content-length"),
        length=_number(headers, "upload-length"),
        checksum=_checksum(headers),
    )


def _parse_create(headers: Headers) -> Create | Concatenate:
    metadata = headers.joined("upload-metadata")
    if len(metadata or "") > _METADATA_MOST:
        raise ProtocolError(Code.HEADERS_TOO_LARGE)
    parse_metadata(metadata or "")
    concat = headers.one("upload-concat")
    if concat is not None and concat != PARTIAL:
        return _parse_final(concat, metadata or None, headers)
    length = _parse_length(headers)
    kind = media_type(headers.one("content-type") or "")
    body = kind == APPEND_TYPE
    if not body and kind not in _IGNORED_TYPES and _has_body(headers):
        raise ProtocolError(Code.INVALID_CONTENT_TYPE)
    return Create(
        length,
        metadata or None,
        body,
        _number(headers, "content-length"),
        checksum=_checksum(headers) if body else None,
        partial=concat is not None,
    )


def _parse_final(concat: str, metadata: str | None, headers: Headers) -> Concatenate:
    if "upload-length" in headers or "upload-defer-length" in headers:
        raise InvalidHeader("upload-concat", "no length beside final", concat)
    if _has_body(headers):
        raise ProtocolError(Code.FINAL_IS_FIXED)
    host = headers.one("host") or ""
    urls = parse_final(concat)
    return Concatenate(tuple(_part(url, host) for url in urls), concat, metadata)


def _part(url: str, host: str) -> str:
    """Return the id of a partial upload: a path, or an address under the host that was asked."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidHeader("upload-concat", "addresses of uploads", url) from None
    if parts.netloc not in {"", host} or parts.query or parts.fragment:
        raise InvalidHeader("upload-concat", f"uploads of {host}", url)
    upload_id = id_of(url)
    if not is_upload_id(upload_id):
        raise ProtocolError(Code.NOT_FOUND)
    return upload_id


def _parse_length(headers: Headers) -> int | None:
    length, deferred = _number(headers, "upload-length"), headers.one("upload-defer-length")
    if deferred is None and length is None:
        raise InvalidHeader("upload-length", "a non-negative integer", "nothing")
    if deferred is not None and length is not None:
        raise InvalidHeader("upload-defer-length", "nothing beside Upload-Length", deferred)
    if deferred not in {None, "1"}:
        raise InvalidHeader("upload-defer-length", "1", str(deferred))
    return length


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or bool(_number(headers, "content-length"))


def _checksum(headers: Headers) -> Checksum | None:
    value = headers.one("upload-checksum")
    if value is None:
        return None
    checksum = parse_checksum(value)
    if checksum.algorithm not in ALGORITHMS:
        raise InvalidHeader("upload-checksum", f"one of {', '.join(ALGORITHMS)}", value)
    return checksum


def _number(headers: Headers, name: str) -> int | None:
    value = headers.one(name)
    return None if value is None else parse_number(name, value)


def is_upload_id(text: str) -> bool:
    """Tell whether `text` is an id as we make them: nothing else ever reaches a store."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def admit_create(action: Create, upload_id: str, now: float, limits: Limits) -> Upload:
    """Check a creation and make its record; raise ProtocolError."""
    _check_size(action.length, action.content_length if action.body else 0, 0, limits)
    return Upload(
        id=upload_id,
        length=action.length,
        metadata=action.metadata,
        created_at=now,
        expires_at=now + limits.expiration,
        concat=PARTIAL if action.partial else None,
    )


def admit_final(
    action: Concatenate, parts: Sequence[Upload], upload_id: str, now: float, limits: Limits
) -> Upload:
    """Check a concatenation against its parts as they stand and make its record."""
    for part in parts:
        admit_head(part, now)
        if not part.partial:
            expected = "upload-concat: expected partial uploads, got one that is not partial"
            raise ProtocolError(Code.INVALID_HEADER, expected)
    _check_size(sum(part.length or part.offset for part in parts), 0, 0, limits)
    known = [part.length for part in parts if part.length is not None]
    return Upload(
        id=upload_id,
        length=sum(known) if len(known) == len(parts) else None,
        metadata=action.metadata,
        created_at=now,
        expires_at=now + limits.expiration,
        concat=action.concat,
    )


def admit_append(action: Append, upload: Upload, now: float, limits: Limits) -> int | None:
    """Check an append against the upload as it stands; return the length it then has.

    Raises:
        ProtocolError: it does not fit.
    """
    admit_head(upload, now)
    if upload.final:
        raise ProtocolError(Code.FINAL_IS_FIXED)
    if action.offset != upload.offset:
        # TUSKit's file upload heals itself from this header, whatever the status.
        raise ProtocolError(Code.MISMATCHED_OFFSET, Upload_Offset=str(upload.offset))
    length = _declared(action.length, upload)
    _check_size(length, action.content_length, upload.offset, limits)
    return length


def _declared(length: int | None, upload: Upload) -> int | None:
    if length is None or length == upload.length:
        return upload.length
    if upload.length is not None:
        came = f"expected {upload.length}, as it was declared, got {length}"
        raise ProtocolError(Code.INVALID_HEADER, f"upload-length: {came}")
    if length < upload.offset:
        came = f"expected {upload.offset} or more, as so much is here, got {length}"
        raise ProtocolError(Code.INVALID_HEADER, f"upload-length: {came}")
    return length


def _check_size(length: int | None, content_length: int | None, at: int, limits: Limits) -> None:
    most = limits.max_size
    if (length or 0) > most:
        raise ProtocolError(Code.TOO_LARGE, Tus_Max_Size=str(most))
    if at + (content_length or 0) > (most if length is None else length):
        raise ProtocolError(Code.BODY_TOO_LONG, Tus_Max_Size=str(most))


def admit_head(upload: Upload, now: float) -> None:
    """Check that the upload has not expired; a complete one never does, unless it is partial."""
    if upload.perishable and upload.expires_at <= now:
        raise ProtocolError(Code.GONE)


def admit_terminate(limits: Limits) -> None:
    """Check that clients may remove uploads."""
    if not limits.termination:
        allowed = _UPLOAD_METHODS.removesuffix(", DELETE")
        raise ProtocolError(Code.METHOD_NOT_ALLOWED, Allow=allowed)


def discovered(limits: Limits) -> Response:
    """Answer OPTIONS; 200, as the public conformance suite wants it."""
    headers = {
        "Tus-Version": TUS_VERSION,
        "Tus-Extension": ",".join(
            name for name in EXTENSIONS if limits.termination or name != "termination"
        ),
        "Tus-Max-Size": str(limits.max_size),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return _response(200, headers)


def created(upload: Upload, location: str, *, with_offset: bool) -> Response:
    """Answer a creation."""
    headers = {"Location": location} | _expires(upload)
    if with_offset:
        headers["Upload-Offset"] = str(upload.offset)
    return _response(201, headers)


def stands_at(upload: Upload) -> Response:
    """Answer HEAD; a final upload has no offset before it is put together."""
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


def appended(upload: Upload) -> Response:
    """Answer PATCH."""
    return _response(204, {"Upload-Offset": str(upload.offset)} | _expires(upload))


def terminated() -> Response:
    """Answer DELETE."""
    return _response(204, {})


_STORAGE_CODES: dict[type[storage_errors.StorageError], Code] = {
    storage_errors.UploadNotFound: Code.NOT_FOUND,
    storage_errors.UploadGone: Code.GONE,
    storage_errors.UploadLocked: Code.LOCKED,
    storage_errors.LockLost: Code.TAKEN_OVER,
    storage_errors.RecordBehind: Code.TAKEN_OVER,
    storage_errors.StorageFull: Code.STORAGE_FULL,
    storage_errors.JournalDamaged: Code.DAMAGED,
}


def as_protocol_error(error: storage_errors.StorageError) -> ProtocolError:
    """Say in the protocol's terms what went wrong in a store; its inner words stay in the log."""
    return ProtocolError(_STORAGE_CODES.get(type(error), Code.UNAVAILABLE))


def refused(error: ProtocolError, *, head: bool) -> Response:
    """Answer a request that cannot be carried out.

    HEAD never sees a 5xx: clients take it as "the upload is lost" and start from zero.
    """
    status = error.code.status
    temporary = status in {423, 503}
    if head and status == Code.UNAVAILABLE.status:
        status = Code.LOCKED.status
    headers = dict(error.headers) | {"Content-Type": "text/plain; charset=utf-8"}
    if temporary:
        headers["Retry-After"] = "1"
    if head:
        headers["Cache-Control"] = "no-store"
    return _response(status, headers, b"" if head else f"{error}\n".encode())


def _expires(upload: Upload) -> dict[str, str]:
    if not upload.perishable:
        return {}
    return {"Upload-Expires": build_date(upload.expires_at)}


def _response(status: int, headers: Mapping[str, str], body: bytes = b"") -> Response:
    return Response(status, {"Tus-Resumable": TUS_VERSION, **headers}, body)
