"""tus 1.0.0 without I/O: what a request asks for, whether it may, and what it is answered.

https://tus.io/protocols/resumable-upload. `parse` reads a request, `admit_*` checks it against
the upload, the builders at the end make the responses. No function here touches a socket, a file
or a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from storage import errors as storage_errors
from storage.upload import Upload
from tusd_py.headers import (
    Headers,
    InvalidHeader,
    build_date,
    media_type,
    parse_metadata,
    parse_number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

TUS_VERSION = "1.0.0"
EXTENSIONS = ("creation", "creation-with-upload", "expiration", "termination")
APPEND_TYPE = "application/offset+octet-stream"
_UPLOAD_METHODS = "OPTIONS, HEAD, PATCH, DELETE"
_CREATION_METHODS = "OPTIONS, POST"


class Code(Enum):
    """Name every refusal, with its status and sentence: the only place a status is chosen.

    Section 2.8 of the wire notes: clients retry 409, 423 and 5xx, and start from zero when HEAD
    answers anything but 2xx or 423.
    """

    UNSUPPORTED_VERSION = 412, "this server speaks tus 1.0.0: send Tus-Resumable: 1.0.0"
    METHOD_NOT_ALLOWED = 405, "this method is not allowed here"
    INVALID_HEADER = 400, "a header is not as the protocol wants it"
    INVALID_CONTENT_TYPE = 415, f"the body of this request must be {APPEND_TYPE}"
    NOT_FOUND = 404, "there is no such upload"
    GONE = 410, "this upload was removed or has expired"
    MISMATCHED_OFFSET = 409, "Upload-Offset is not where this upload stands"
    TOO_LARGE = 413, "the upload is larger than Tus-Max-Size"
    BODY_TOO_LONG = 413, "the body is longer than what is left of the upload"
    LOCKED = 423, "another request holds this upload: try again"
    TAKEN_OVER = 423, "this request had to let the upload go: ask for its offset and go on"
    STALLED = 423, "the body brought nothing for too long: go on from the offset"
    STORAGE_FULL = 507, "the disk has no room for this"
    UNAVAILABLE = 503, "the storage does not answer just now: try again"
    DAMAGED = 500, "the files of this upload are damaged"

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


@dataclass(frozen=True, slots=True)
class Discover:
    """Ask what the server can do."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create an upload of `length` bytes; `body` when the first of them come along."""

    length: int
    metadata: str | None
    body: bool
    content_length: int | None


@dataclass(frozen=True, slots=True)
class Head:
    """Ask where an upload stands."""

    upload_id: str


@dataclass(frozen=True, slots=True)
class Append:
    """Add bytes at `offset`; `content_length` is None for a chunked body."""

    upload_id: str
    offset: int
    content_length: int | None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Terminate:
    """Remove an upload."""

    upload_id: str


Action = Discover | Create | Head | Append | Terminate


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
    if method not in allowed.split(", "):
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
    content_length = _number(headers, "content-length")
    return Append(upload_id, offset, content_length, _number(headers, "upload-length"))


def _parse_create(headers: Headers) -> Create:
    length = _number(headers, "upload-length")
    if length is None:
        raise InvalidHeader("upload-length", "a non-negative integer", "nothing")
    metadata = headers.joined("upload-metadata")
    parse_metadata(metadata or "")
    # Any other body is not ours to read (a form, say): it is ignored, the upload is created.
    body = media_type(headers.one("content-type") or "") == APPEND_TYPE
    return Create(length, metadata or None, body, _number(headers, "content-length"))


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
    if action.length > limits.max_size:
        raise ProtocolError(Code.TOO_LARGE, Tus_Max_Size=str(limits.max_size))
    if action.body and (action.content_length or 0) > action.length:
        raise ProtocolError(Code.BODY_TOO_LONG)
    return Upload(
        id=upload_id,
        length=action.length,
        metadata=action.metadata,
        created_at=now,
        expires_at=now + limits.expiration,
    )


def admit_append(action: Append, upload: Upload, now: float) -> None:
    """Check an append against the upload as it stands; raise ProtocolError."""
    admit_head(upload, now)
    if action.offset != upload.offset:
        # TUSKit's file upload heals itself from this header, whatever the status.
        raise ProtocolError(Code.MISMATCHED_OFFSET, Upload_Offset=str(upload.offset))
    if action.length is not None and action.length != upload.length:
        raise ProtocolError(
            Code.INVALID_HEADER,
            f"upload-length: expected {upload.length}, as it was created, got {action.length}",
        )
    if (action.content_length or 0) > upload.length - upload.offset:
        raise ProtocolError(Code.BODY_TOO_LONG)


def admit_head(upload: Upload, now: float) -> None:
    """Check that the upload has not expired; a complete one never does."""
    if not upload.complete and upload.expires_at <= now:
        raise ProtocolError(Code.GONE)


def discovered(limits: Limits) -> Response:
    """Answer OPTIONS; 200, as the public conformance suite wants it."""
    headers = {
        "Tus-Version": TUS_VERSION,
        "Tus-Extension": ",".join(EXTENSIONS),
        "Tus-Max-Size": str(limits.max_size),
    }
    return _response(200, headers)


def created(upload: Upload, location: str, *, with_offset: bool) -> Response:
    """Answer a creation."""
    headers = {"Location": location} | _expires(upload)
    if with_offset:
        headers["Upload-Offset"] = str(upload.offset)
    return _response(201, headers)


def stands_at(upload: Upload) -> Response:
    """Answer HEAD."""
    headers = {
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
        "Cache-Control": "no-store",
    }
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
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
    return {} if upload.complete else {"Upload-Expires": build_date(upload.expires_at)}


def _response(status: int, headers: Mapping[str, str], body: bytes = b"") -> Response:
    return Response(status, {"Tus-Resumable": TUS_VERSION, **headers}, body)
