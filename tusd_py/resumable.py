"""Resumable Uploads for HTTP without I/O: the actions of `protocol`, with other headers.

draft-ietf-httpbis-resumable-upload, interop versions 3 (-01) to 8 (-09 to -11 and what came after)
and the final form, which names no version. `speaks` tells whose request it is, `Dialect.of` which
version, `Dialect.parse` reads it; `admit_append` and `check_complete` add to the rules that
`protocol.admit_*` has; the rest of `Dialect` makes the responses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tusd_py import fields, protocol
from tusd_py.fields import content_length, integer, one, parse_boolean
from tusd_py.headers import InvalidHeader, media_type, parse_key
from tusd_py.protocol import IETF, Append, Code, Create, ProtocolError, Response
from tusd_py.tus import APPEND_TYPE, Tus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.upload import Upload
    from tusd_py.headers import Checksum, Headers
    from tusd_py.protocol import Action, Limits

PARTIAL_TYPE = "application/partial-upload"
VERSIONS = range(3, 9)
_VERSION = "Upload-Draft-Interop-Version"
# The versions that brought progress by 104; the media type and Upload-Limit; freer statuses and
# max-age. The first one has its flag the other way round.
_INVERTED, _PROGRESS, _LIMITS, _LIBERAL = 3, 5, 6, 7
_CREATION_METHODS = "OPTIONS, POST, PUT, PATCH"
_UPLOAD_METHODS = "OPTIONS, HEAD, GET, PATCH, DELETE"
# They say nothing of the content: some clients label what they create with as they label what they
# append, and curl labels any body as a form's.
_NO_LABELS = frozenset({PARTIAL_TYPE, APPEND_TYPE, "application/x-www-form-urlencoded"})
_DIGEST = "content-digest"
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"

# Where the drafts want another status than tus: a client of theirs gives up after 4xx and resumes
# after 5xx.
_STATUS_OF = dict.fromkeys((Code.LOCKED, Code.TAKEN_OVER, Code.STALLED), Code.UNAVAILABLE)
_STATUS_OF[Code.CHECKSUM_MISMATCH] = Code.INVALID_HEADER


class Problem(Enum):
    """Name the problem types (RFC 9457) of the drafts: the end of its URI and its title."""

    MISMATCHING_OFFSET = "mismatching-upload-offset", "Mismatching Upload Offset"
    INCONSISTENT_LENGTH = "inconsistent-upload-length", "Inconsistent Upload Length Values"
    COMPLETED_UPLOAD = "completed-upload", "Completed Upload"
    # draft-ietf-httpapi-digest-fields-problem-types
    MISMATCHING_DIGEST = "digest-mismatching-values", "Mismatching Digest Values"


class ProblemError(ProtocolError):
    """Refuse a request with a problem that its code, always 400, does not tell."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(Code.INVALID_HEADER, detail)
        self.problem = problem


_PROBLEM_OF = {
    Code.MISMATCHED_OFFSET: Problem.MISMATCHING_OFFSET,
    Code.CHECKSUM_MISMATCH: Problem.MISMATCHING_DIGEST,
}


def speaks(method: str, headers: Headers) -> bool:
    """Tell whether a request is of this dialect.

    `Tus-Resumable` means tus, whatever iOS adds to it. See `unmarked` for what the final form
    leaves open.
    """
    if "tus-resumable" in headers:
        return False
    if _is_marked(headers):
        return True
    if method == "PATCH":
        return media_type(one(headers, "content-type") or "") == PARTIAL_TYPE
    return method in {"OPTIONS", "HEAD", "DELETE"}


def unmarked(headers: Headers) -> bool:
    """Tell whether a request names no dialect at all: then the upload's own is meant."""
    return "tus-resumable" not in headers and not _is_marked(headers)


def _is_marked(headers: Headers) -> bool:
    flags = (one(headers, name) for name in ("upload-complete", "upload-incomplete"))
    return _announced(headers) is not None or any(
        parse_boolean(flag or "") is not None for flag in flags
    )


def _announced(headers: Headers) -> int | None:
    version = integer(headers, _VERSION.lower())
    return version if version in VERSIONS else None


def admit_append(action: Append, upload: Upload) -> None:
    """Check what `protocol.admit_append` takes otherwise; between `admit_head` and that.

    Raises:
        ProtocolError: it does not fit the upload.
    """
    if action.offset != upload.offset:
        raise ProtocolError(Code.MISMATCHED_OFFSET, Upload_Offset=str(upload.offset))
    if upload.complete and not replays(action, upload):
        raise ProblemError(Problem.COMPLETED_UPLOAD, "this upload is complete: nothing fits on it")
    length = upload.length if action.length is None else action.length
    if length is not None and (length < upload.offset or upload.length not in {None, length}):
        declared = "nothing" if upload.length is None else upload.length
        detail = f"{length} is not the length: declared was {declared}, here are {upload.offset}"
        raise ProblemError(Problem.INCONSISTENT_LENGTH, detail)


def replays(action: Append, upload: Upload) -> bool:
    """Tell whether a client that lost the final response asks for it again.

    A `content_length` of None is for the caller to find empty. The drafts allow it from -12 on;
    before, the client was left without a result.
    """
    again = upload.complete and action.completes is True and action.offset == upload.offset
    return again and not action.content_length


def check_complete(action: Create | Append, offset: int, length: int | None) -> None:
    """Check, after the whole body, that an upload which it completes is all there."""
    if action.completes and length is not None and offset != length:
        detail = f"expected {length} bytes, as was declared, got {offset} with the last of them"
        raise ProblemError(Problem.INCONSISTENT_LENGTH, detail)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Speak one version; `announced` when the client named it, which a 104 asks for."""

    version: int
    announced: bool = True
    name: str = IETF

    @classmethod
    def of(cls, headers: Headers) -> Dialect:
        """Tell a request's version; the final form has the rules of the newest one."""
        version = _announced(headers)
        if version is not None:
            return cls(version)
        oldest = "upload-incomplete" in headers and "upload-complete" not in headers
        return cls(_INVERTED if oldest else VERSIONS[-1], announced=False)

    def parse(self, method: str, upload_id: str | None, headers: Headers) -> Action:
        """Read a request to the creation URL (`upload_id` None) or to an upload.

        Raises:
            ProtocolError: it is not a request of this protocol.
        """
        try:
            if method == "OPTIONS":
                return protocol.Discover()
            allowed = _CREATION_METHODS if upload_id is None else _UPLOAD_METHODS
            if method not in allowed.split(", "):
                raise ProtocolError(Code.METHOD_NOT_ALLOWED, Allow=allowed)
            if upload_id is None:
                return self._parse_create(headers)
            return self._parse(method, upload_id, headers)
        except InvalidHeader as error:
            raise ProtocolError(Code.INVALID_HEADER, str(error)) from error

    def _parse(self, method: str, upload_id: str, headers: Headers) -> Action:
        if not protocol.is_upload_id(upload_id):
            raise ProtocolError(Code.NOT_FOUND)
        if method == "PATCH":
            return self._parse_append(upload_id, headers)
        if self.version < _LIMITS:
            for name in ("upload-offset", self._flag.lower()):
                if name in headers:
                    raise InvalidHeader(name, f"nothing with {method}", one(headers, name) or "")
        return protocol.Terminate(upload_id) if method == "DELETE" else protocol.Head(upload_id)

    def _parse_create(self, headers: Headers) -> Create:
        completes = self._completes(headers, required=True)
        size = content_length(headers)
        key = headers.one("idempotency-key")
        return Create(
            _length(headers, 0, size, completes=completes),
            _metadata(headers),
            body=True,
            content_length=size,
            completes=completes,
            checksum=fields.content_checksum(headers),
            trailer=_trailer(headers),
            repr_digest=_repr_digest(headers),
            wanted=_wanted(headers),
            key=None if key is None else parse_key(key),
        )

    def _parse_append(self, upload_id: str, headers: Headers) -> Append:
        labelled = media_type(one(headers, "content-type") or "") == PARTIAL_TYPE
        if self.version >= _LIMITS and not labelled:
            detail = f"the body of this request must be {PARTIAL_TYPE}"
            raise ProtocolError(Code.INVALID_CONTENT_TYPE, detail, Accept_Patch=PARTIAL_TYPE)
        offset = integer(headers, "upload-offset")
        if offset is None:
            came = one(headers, "upload-offset") or "nothing"
            raise InvalidHeader("upload-offset", "a non-negative integer", came)
        # Up to version 5 only what does not complete has to say so.
        completes = self._completes(headers, required=self.version >= _LIMITS)
        size = content_length(headers)
        return Append(
            upload_id,
            offset,
            size,
            length=_length(headers, offset, size, completes=completes),
            completes=completes,
            checksum=fields.content_checksum(headers),
            trailer=_trailer(headers),
            repr_digest=_repr_digest(headers),
            wanted=_wanted(headers),
        )

    def admit_append(self, action: Append, upload: Upload) -> None:
        admit_append(action, upload)

    def replays(self, action: Append, upload: Upload) -> bool:
        return replays(action, upload)

    def parse_trailer(self, trailers: Headers) -> Checksum | None:
        try:
            return fields.content_checksum(trailers)
        except InvalidHeader as error:
            raise ProtocolError(Code.INVALID_HEADER, str(error)) from error

    @property
    def _flag(self) -> str:
        return "Upload-Incomplete" if self.version == _INVERTED else "Upload-Complete"

    def _completes(self, headers: Headers, *, required: bool) -> bool:
        name = self._flag.lower()
        came = one(headers, name)
        if came is None and not required:
            return True
        value = parse_boolean(came or "")
        if value is None:
            # To ignore it would make it an ordinary request, which is not ours to carry out.
            raise InvalidHeader(name, "?0 or ?1", came or "nothing")
        return value is not (self.version == _INVERTED)

    def discovered(self, limits: Limits) -> Response:
        """Answer OPTIONS, for both protocols: a bare one may come from a client of either."""
        headers = {**Tus().discovered(limits).headers, "Accept-Patch": PARTIAL_TYPE}
        age = {self._age: limits.expiration}
        headers["Upload-Limit"] = fields.build_limits(
            {"min-size": 0, "max-size": limits.max_size} | age
        )
        return Response(200, headers)

    def interim(self, upload: Upload, location: str, limits: Limits, now: float) -> Response | None:
        """Announce the upload with a 104 as soon as it exists; None for who may not get one."""
        return self._interim({"Location": location} | self._limit(upload, limits, now))

    def progress(self, upload: Upload) -> Response | None:
        """Tell with a 104 how far a body has come; version 5 brought it."""
        if self.version < _PROGRESS:
            return None
        return self._interim({"Upload-Offset": str(upload.offset)})

    def _interim(self, headers: Mapping[str, str]) -> Response | None:
        if not self.announced:
            return None
        return Response(104, {**headers, _VERSION: str(self.version)})

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
        """Answer a creation; `final` is what a complete upload comes to, with its own headers."""
        del body
        final = final if upload.complete and final is not None else Response(201)
        # The result may name a Location of its own: the upload's was in the 104.
        headers = {"Location": location, **final.headers, **self._state(upload)}
        return Response(final.status, headers | self._limit(upload, limits, now), final.body)

    def appended(
        self,
        upload: Upload,
        location: str,
        limits: Limits,
        now: float,
        final: Response | None = None,
    ) -> Response:
        """Answer PATCH; what completes is answered as the creation would have been."""
        if upload.complete:
            return self.created(upload, location, limits, now, final)
        # Up to -05 it had to be 201; Upload-Offset is what tus-js-client needs in all versions.
        status = 201 if self.version < _LIBERAL else 204
        return Response(status, self._state(upload) | self._limit(upload, limits, now))

    def stands_at(self, upload: Upload, limits: Limits, now: float) -> Response:
        """Answer HEAD, and GET where it asks for the same."""
        headers = self._state(upload) | self._limit(upload, limits, now)
        if upload.length is not None:
            headers["Upload-Length"] = str(upload.length)
        return Response(204, headers | {"Cache-Control": "no-store"})

    def terminated(self) -> Response:
        """Answer DELETE."""
        return Response(204)

    def refused(
        self,
        error: ProtocolError,
        limits: Limits,
        *,
        head: bool,
        action: Action | None = None,
        upload: Upload | None = None,
    ) -> Response:
        """Answer a request that cannot be carried out; `action` and `upload` where it got so far.

        HEAD never sees a 5xx.
        """
        problem = _problem_of(error, action, upload)
        status = self._status(error, problem, head=head)
        headers = {
            name: value for name, value in error.headers.items() if not name.startswith("Tus-")
        }
        if "Allow" in headers:
            # GET asks as HEAD does, of an upload that goes on.
            headers["Allow"] = replace(limits, download=True).allow(headers["Allow"])
        if upload is not None and error.code is not Code.GONE:
            headers.setdefault("Upload-Offset", str(upload.offset))
        if not head and not isinstance(action, protocol.Terminate):
            # It says whose answer this is: of the protocol, not of what the upload was meant for.
            headers |= self._completeness(complete=False)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            headers |= self._limit(None, limits, 0)
        if status in {HTTPStatus.LOCKED, HTTPStatus.SERVICE_UNAVAILABLE}:
            headers["Retry-After"] = "1"
        if head:
            return Response(status, headers | {"Cache-Control": "no-store"})
        headers["Content-Type"] = "application/problem+json"
        return Response(status, headers, _body(status, error, problem, action))

    def _status(self, error: ProtocolError, problem: Problem | None, *, head: bool) -> int:
        if head and error.code in {Code.LOCKED, Code.TAKEN_OVER, Code.STALLED, Code.UNAVAILABLE}:
            return Code.LOCKED.status
        if error.code is Code.GONE and self.version < _LIBERAL:
            # Up to -05 whatever is not active had to be 404.
            return Code.NOT_FOUND.status
        if problem in {Problem.INCONSISTENT_LENGTH, Problem.COMPLETED_UPLOAD}:
            return Code.INVALID_HEADER.status
        return _STATUS_OF.get(error.code, error.code).status

    @property
    def _age(self) -> str:
        return "max-age" if self.version >= _LIBERAL else "expires"

    def _limit(self, upload: Upload | None, limits: Limits, now: float) -> dict[str, str]:
        if self.version < _LIMITS:
            return {}
        members: dict[str, float] = {"min-size": 0, "max-size": limits.max_size}
        if upload is not None and not upload.complete:
            members[self._age] = max(0.0, upload.expires_at - now)
        return {"Upload-Limit": fields.build_limits(members)}

    def _state(self, upload: Upload) -> dict[str, str]:
        return self._completeness(complete=upload.complete) | {"Upload-Offset": str(upload.offset)}

    def _completeness(self, *, complete: bool) -> dict[str, str]:
        return {self._flag: f"?{int(complete is not (self.version == _INVERTED))}"}


def _problem_of(
    error: ProtocolError, action: Action | None, upload: Upload | None
) -> Problem | None:
    if isinstance(error, ProblemError):
        return error.problem
    if error.code is Code.BODY_TOO_LONG:
        if upload is not None and upload.complete:
            return Problem.COMPLETED_UPLOAD
        # Without a declared length the body is beyond what the server takes.
        declared = getattr(action, "length", None), getattr(upload, "length", None)
        return None if declared == (None, None) else Problem.INCONSISTENT_LENGTH
    return _PROBLEM_OF.get(error.code)


def _body(
    status: int, error: ProtocolError, problem: Problem | None, action: Action | None
) -> bytes:
    """Build the problem details (RFC 9457)."""
    members: dict[str, Any] = {"title": HTTPStatus(status).phrase}
    if problem is not None:
        fragment, title = problem.value
        members = {"type": _PROBLEMS + fragment, "title": title}
    members |= {"status": status, "detail": str(error)}
    if problem is Problem.MISMATCHING_OFFSET:
        members["expected-offset"] = int(error.headers["Upload-Offset"])
        if isinstance(action, Append):
            members["provided-offset"] = action.offset
    return json.dumps(members).encode()


def _length(headers: Headers, offset: int, size: int | None, *, completes: bool) -> int | None:
    """Tell the length of the upload from what the request says of it in two ways."""
    declared = integer(headers, "upload-length")
    if not completes or size is None:
        return declared
    implied = offset + size
    if declared not in {None, implied}:
        detail = f"Upload-Length is {declared}, but the body ends at {implied}"
        raise ProblemError(Problem.INCONSISTENT_LENGTH, detail)
    return implied


def _metadata(headers: Headers) -> str | None:
    kind = media_type(one(headers, "content-type") or "")
    return fields.build_metadata(headers, "" if kind in _NO_LABELS else kind)


def _trailer(headers: Headers) -> str | None:
    """Tell whether the digest will come behind the body (RFC 9530, section 2)."""
    return _DIGEST if _DIGEST in headers.listed("trailer") and _DIGEST not in headers else None


def _repr_digest(headers: Headers) -> str | None:
    """Return `Repr-Digest` if something of it can be checked."""
    value = headers.joined("repr-digest", ", ")
    return value if fields.parse_digests("repr-digest", value or "") else None


def _wanted(headers: Headers) -> tuple[str, ...]:
    return fields.parse_wanted_digests(headers.joined("want-repr-digest", ", ") or "")
