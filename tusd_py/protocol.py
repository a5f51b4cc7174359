"""What both dialects share, without I/O: actions, rules, refusals.

A Speaker (`tus.Tus`, `resumable.Dialect`) reads a request to an action and words its answer;
`admit_*` checks the action against the upload. No function here touches a socket, a file or a
clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from processing.options import InvalidOption, Options
from storage import errors as storage_errors
from storage.upload import PARTIAL, Upload
from tusd_py.headers import parse_metadata
from tusd_py.sniff import may_be_video

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tusd_py.headers import Checksum, Headers

TUS, IETF = "tus", "ietf"
_UPLOAD_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class Code(Enum):
    """Name every refusal, with its status and sentence: the only place a status is chosen.

    Section 2.8 of the wire notes: clients retry 409, 423 and 5xx, and start from zero when HEAD
    answers anything but 2xx or 423.
    """

    UNSUPPORTED_VERSION = 412, "this server speaks tus 1.0.0: send Tus-Resumable: 1.0.0"
    FINAL_IS_FIXED = 403, "a final upload is made of its parts: nothing can be added to it"
    METHOD_NOT_ALLOWED = 405, "this method is not allowed here"
    INVALID_HEADER = 400, "a header is not as the protocol wants it"
    INVALID_CONTENT_TYPE = 415, "the body of this request is not of the type it must have"
    NOT_A_VIDEO = 415, "File must be a video (mp4, avi, mov, mkv, webm, flv)"
    KEY_REUSED = 409, "this Idempotency-Key stands for another request"
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
    #: Whether what is not a video is refused.
    video: bool = False
    #: Whether the server can read trailers.
    trailers: bool = True
    #: Whether an upload that is gone is answered as one that never was.
    gone_as_not_found: bool = False
    #: Whether finished uploads can be downloaded.
    download: bool = True

    def allow(self, methods: str) -> str:
        """Return those of an `Allow` that the configuration leaves."""
        withheld = {"DELETE": not self.termination, "GET": not self.download}
        return ", ".join(name for name in methods.split(", ") if not withheld.get(name))


@dataclass(frozen=True, slots=True)
class Discover:
    """Ask what the server can do."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create an upload; `body` when its first bytes come along.

    `length` is None while the client does not know it, `content_length` for a chunked body.
    `completes` is what a request says of itself; None: complete when all of `length` is here (tus).
    `trailer` names the field behind the body that will hold its checksum. `repr_digest` is the
    header of that name as received, `wanted` the digests asked for. `key` is the Idempotency-Key.
    """

    length: int | None
    metadata: str | None
    body: bool
    content_length: int | None
    completes: bool | None = None
    checksum: Checksum | None = None
    partial: bool = False
    trailer: str | None = None
    repr_digest: str | None = None
    wanted: tuple[str, ...] = ()
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Create an upload of partial ones, finished or not; `parts` are their ids in order."""

    parts: tuple[str, ...]
    concat: str
    metadata: str | None
    key: str | None = None


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
    trailer: str | None = None
    repr_digest: str | None = None
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terminate:
    """Remove an upload."""

    upload_id: str


Action = Discover | Create | Concatenate | Head | Append | Terminate


@dataclass(frozen=True, slots=True)
class Response:
    """Answer a request."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Speaker(Protocol):
    """Speak one dialect: read requests, word answers. `now` is in seconds since the epoch."""

    @property
    def name(self) -> str:
        """TUS or IETF."""

    def parse(self, method: str, upload_id: str | None, headers: Headers) -> Action:
        """Read a request to the creation URL (`upload_id` None) or to an upload.

        Raises:
            ProtocolError: it is not a request of this protocol.
        """

    def admit_append(self, action: Append, upload: Upload) -> None:
        """Check what this dialect wants otherwise than `admit_append`, before that."""

    def replays(self, action: Append, upload: Upload) -> bool:
        """Tell whether a client that lost the last answer asks for it again."""

    def parse_trailer(self, trailers: Headers) -> Checksum | None:
        """Read the checksum that came behind a body; raise ProtocolError."""

    def discovered(self, limits: Limits) -> Response:
        """Answer OPTIONS."""

    def interim(self, upload: Upload, location: str, limits: Limits, now: float) -> Response | None:
        """Announce an upload that was created, before its body is read."""

    def progress(self, upload: Upload) -> Response | None:
        """Tell in between how far a body has come."""

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
        """Answer a creation; `final` is what a complete upload comes to, `body` if some came."""

    def appended(
        self,
        upload: Upload,
        location: str,
        limits: Limits,
        now: float,
        final: Response | None = None,
    ) -> Response:
        """Answer PATCH."""

    def stands_at(self, upload: Upload, limits: Limits, now: float) -> Response:
        """Answer HEAD."""

    def terminated(self) -> Response:
        """Answer DELETE."""

    def refused(
        self,
        error: ProtocolError,
        limits: Limits,
        *,
        head: bool,
        action: Action | None = None,
        upload: Upload | None = None,
    ) -> Response:
        """Answer a request that cannot be carried out; HEAD never sees a 5xx.

        Clients take one as "the upload is lost" and start from zero. `action` and `upload` are
        given where it got so far.
        """


def is_upload_id(text: str) -> bool:
    """Tell whether `text` is an id as we make them: nothing else ever reaches a store."""
    return _UPLOAD_ID.fullmatch(text) is not None


def admit_create(
    action: Create,
    upload_id: str,
    now: float,
    limits: Limits,
    *,
    dialect: str = TUS,
    fingerprint: str | None = None,
    token: int = 0,
    request_id: str | None = None,
) -> Upload:
    """Check a creation and make its record; raise ProtocolError."""
    _check_size(action.length, action.content_length if action.body else 0, 0, limits)
    _check_metadata(action.metadata, limits)
    return Upload(
        id=upload_id,
        length=action.length,
        metadata=action.metadata,
        created_at=now,
        expires_at=now + limits.expiration,
        concat=PARTIAL if action.partial else None,
        dialect=dialect,
        repr_digest=action.repr_digest,
        fingerprint=fingerprint,
        token=token,
        request_id=request_id,
    )


def _check_metadata(metadata: str | None, limits: Limits) -> None:
    """Check what it says of the video, and of its analysis; nearly always that is nothing."""
    text = metadata or ""
    if limits.video and not may_be_video(parse_metadata(text)):
        raise ProtocolError(Code.NOT_A_VIDEO)
    if "frame_skip" in text or "min_confidence" in text:
        said = {key: value.decode(errors="replace") for key, value in parse_metadata(text).items()}
        try:
            Options.parse(said)
        except InvalidOption as error:
            raise ProtocolError(Code.INVALID_HEADER, f"upload-metadata: {error}") from None


def admit_final(
    action: Concatenate, parts: Sequence[Upload], upload_id: str, now: float, limits: Limits
) -> Upload:
    """Check a concatenation against its parts as they stand and make its record."""
    for part in parts:
        admit_head(part, now)
        if not part.partial:
            expected = "upload-concat: expected partial uploads, got one that is not partial"
            raise ProtocolError(Code.INVALID_HEADER, expected)
    _check_metadata(action.metadata, limits)
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
        raise ProtocolError(Code.METHOD_NOT_ALLOWED, Allow="OPTIONS, GET, HEAD, PATCH, DELETE")


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
    if isinstance(error, storage_errors.NoRoom):
        return ProtocolError(Code.STORAGE_FULL, str(error))
    return ProtocolError(_STORAGE_CODES.get(type(error), Code.UNAVAILABLE))
