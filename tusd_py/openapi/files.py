"""The description of how videos come here: tus 1.0.0, and the old endpoint (OpenAPI 3.1)."""

from __future__ import annotations

from tusd_py.form import PATH
from tusd_py.openapi.parts import (
    LATER,
    PROBLEM,
    UUID,
    Part,
    answer,
    operation,
    parameter,
    problem,
    text,
)
from tusd_py.tus import APPEND_TYPE, TUS_VERSION

_ID = parameter("upload_id", "path", "The last part of the upload's address.", UUID, required=True)
_PAIR = r"[!-+\--~]+( ([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)?"
_METADATA = {
    "type": "string",
    "pattern": f"^({_PAIR}(,{_PAIR})*)?$",
    "examples": ["filename Y2Fycy5tcDQ=,frame_skip Mg=="],
}


def _refusal() -> Part:
    said = text("A header is not as the protocol has it, or the upload does not allow this.")
    # A request that names no dialect may be answered in the other one.
    said["content"][PROBLEM] = {"schema": {"type": "object"}}
    return said


_OFFSET = {"Upload-Offset": "Bytes that are here."}
_CREATED = {"Location": "Where it is.", "Upload-Expires": "Until when it stays unfinished."}
_REFUSED = {
    "4XX": _refusal(),
    "503": text("The storage does not answer.", LATER),
    "507": text("The disk has no room."),
}


def _version() -> Part:
    kind = {"type": "string", "enum": [TUS_VERSION]}
    return parameter("Tus-Resumable", "header", "The version of tus.", kind, required=True)


def files(path: str, most: int, *, termination: bool, download: bool) -> dict[str, Part]:
    """Describe the uploads below a path, of so many bytes at most."""
    one: Part = {"parameters": [_ID], "head": _head(), "patch": _patch(most)}
    if download:
        one["get"] = _download()
    if termination:
        one["delete"] = _terminate()
    return {
        f"{path}/": {"options": _discover(), "post": _create(most)},
        f"{path}/{{upload_id}}": one,
    }


def _discover() -> Part:
    can = {
        "Tus-Version": "The version of tus.",
        "Tus-Extension": "Its extensions.",
        "Tus-Max-Size": "Bytes that an upload may have.",
        "Tus-Checksum-Algorithm": "For Upload-Checksum.",
    }
    answers = {"200": answer("So much.", headers=can)}
    return operation("uploads", "discover", "Tell what the server can do", answers)


def _create(most: int) -> Part:
    what = """Create an upload

Its first bytes may come along (`application/offset+octet-stream`). Instead of the length there may
be `Upload-Defer-Length: 1`; `Upload-Concat` and `Idempotency-Key` are known too. In
`Upload-Metadata`, `filename` and `filetype` describe the video, `frame_skip` and `min_confidence`
are for its analysis. Without `Tus-Resumable` but with `Upload-Complete` the request is of the
IETF's protocol."""
    length = {"type": "integer", "minimum": 0, "maximum": most, "examples": [1032249]}
    made = answer("It is created.", headers=_CREATED)
    made["links"] = {
        "append": {
            "operationId": "append",
            "parameters": {"upload_id": "$response.header.Location#regex:([^/]+)$"},
        },
    }
    headers = [
        _version(),
        parameter("Upload-Length", "header", "Bytes in all.", length, required=True),
        parameter("Upload-Metadata", "header", "Keys with base64 values.", _METADATA),
    ]
    answers = {**_REFUSED, "201": made}
    return operation("uploads", "create", what, answers, parameters=headers)


def _head() -> Part:
    what = """Ask from where to go on

A request that brings bytes is asked to let the upload go: to watch one, there is its job."""
    known = {**_OFFSET, "Upload-Length": "Bytes in all.", "Upload-Metadata": "As it was sent."}
    answers = {
        "200": answer("Here (tus).", headers=known),
        "204": answer("Here (IETF).", headers=known),
        "4XX": answer("It is not here, or it is held by somebody."),
    }
    version = _version()
    return operation("uploads", "getOffset", what, answers, parameters=[version])


def _patch(most: int) -> Part:
    offset = {"type": "integer", "minimum": 0, "maximum": most, "examples": [0]}
    headers = [
        _version(),
        parameter("Upload-Offset", "header", "Where they go.", offset, required=True),
    ]
    body = {
        "description": "Bytes that follow on that offset.",
        "required": True,
        "content": {APPEND_TYPE: {"schema": {}}},
    }
    answers = {**_REFUSED, "204": answer("They are stored.", headers=_OFFSET)}
    what = "Append bytes"
    return operation("uploads", "append", what, answers, parameters=headers, requestBody=body)


def _download() -> Part:
    what = """Download a finished upload

Ranges and preconditions are those of RFC 9110. A video goes when its result is there, unless
KEEP_UPLOADS_SECONDS says otherwise; then it is 410."""
    whole = answer("The bytes.", {}, "application/octet-stream", {"ETag": "It never changes."})
    whole["content"]["video/*"] = {"schema": {}}
    answers = {
        "200": whole,
        "204": answer("How far an unfinished one is (IETF).", headers=_OFFSET),
        "206": answer("A part of them.", {}, "application/octet-stream"),
        "304": answer("They are as they were."),
        "4XX": problem("It is not here, not finished, or not what the request is about."),
        "503": problem("The storage does not answer.", LATER),
    }
    return operation("uploads", "download", what, answers)


def _terminate() -> Part:
    answers = {**_REFUSED, "204": answer("It is gone, and so is its job.")}
    version = _version()
    what = "Remove an upload with all its traces"
    return operation("uploads", "terminate", what, answers, parameters=[version])


def form() -> dict[str, Part]:
    """Describe the old endpoint."""
    what = """Send a video in a form

It cannot be resumed. The id is told at the end, unless `X-Job-ID` (a UUID) or an `Idempotency-Key`
names the job beforehand. Fields may come in any order."""
    said = {"detail": {"type": "string"}, "status_code": {"type": "integer"}}
    refusal = {"type": "object", "properties": said, "required": [*said]}
    names = ("job_id", "status", "message", "status_url")
    accepted = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": [*names],
    }
    answers = {
        "200": answer("It waits for a worker.", accepted),
        "4XX": answer("It cannot be taken, and nothing of it is left.", refusal),
        "503": answer("The storage does not answer.", refusal, headers=LATER),
        "507": answer("The disk has no room.", refusal),
    }
    body = {"required": True, "content": {"multipart/form-data": {"schema": _fields()}}}
    return {PATH: {"post": operation("form", "processVideo", what, answers, requestBody=body)}}


def _fields() -> Part:
    return {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {
                "type": "string",
                "contentMediaType": "video/*",
                "description": "A video, which its first bytes must tell, such as these.",
                "pattern": "^([ -~]{4}ftypisom|RIFF[ -~]{4}AVI |FLV).{52}",
            },
            "frame_skip": {
                "type": "integer",
                "minimum": 1,
                "maximum": 1000,
                "description": "Every so many frames one is analysed.",
                "examples": [2],
            },
            "min_confidence": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "Plates of less confidence are left out.",
                "examples": [0.3],
            },
        },
    }
