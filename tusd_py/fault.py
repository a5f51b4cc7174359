"""What the old endpoint says: every answer and every refusal, as its document has them."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from storage.errors import (
    LockLost,
    RecordBehind,
    StorageError,
    UploadExists,
    UploadGone,
    UploadLocked,
    UploadNotFound,
)
from storage.job import MB
from tusd_py import protocol
from tusd_py.multipart import FileTooLarge
from tusd_py.protocol import Code, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger()

_JSON = {"Content-Type": "application/json", "Cache-Control": "no-store"}
# What a status comes with.
_BESIDE = {405: {"Allow": "POST"}, 503: {"Retry-After": "1"}}
_LIMIT = "File too large. Maximum size is {most}MB. Current size exceeds limit."


class Fault(Enum):
    """Name every refusal of this endpoint, with its status and sentence."""

    INVALID = 400, "expected a form with a part named file"
    EMPTY = 400, "Uploaded file is empty"
    NOT_A_VIDEO = 400, Code.NOT_A_VIDEO.sentence
    CUT = 400, "the body ended before its length"
    METHOD = 405, "expected POST"
    STALLED = 408, "the body brought nothing for too long: send it again"
    TAKEN = 409, "there is a job of this id already: look at it, or send another X-Job-ID"
    BUSY = 409, "the same request is being carried out: wait for it"
    KEY_REUSED = 409, "this Idempotency-Key stands for another request"
    LOST = 409, "another request has taken this upload over: send it again"
    GONE = 410, "this upload was removed"
    TOO_LARGE = 413, _LIMIT
    NOT_A_FORM = 415, "expected multipart/form-data"
    ENDING = 503, "the server is about to end: send it again"
    UNAVAILABLE = 503, "the storage does not answer just now: send it again"
    FULL = 507, Code.STORAGE_FULL.sentence

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        self.sentence = sentence


class FormError(Exception):
    """Refuse a form."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(detail or fault.sentence)
        self.fault = fault


_FAULTS: dict[type[StorageError], Fault] = {
    LockLost: Fault.LOST,
    RecordBehind: Fault.LOST,
    UploadLocked: Fault.LOST,
    UploadGone: Fault.GONE,
    UploadNotFound: Fault.UNAVAILABLE,
    UploadExists: Fault.TAKEN,
}


def accepted(job_id: str, size: int, url: str) -> Response:
    """Answer a form whose file of `size` bytes became a job, which `url` tells more of."""
    message = (
        f"Video processing job created ({size / MB:.2f}MB uploaded). "
        "Use the job_id to check status."
    )
    document = {"job_id": job_id, "status": "pending", "message": message, "status_url": url}
    return _answer(200, document)


def refused(error: Exception, most: int) -> Response:
    """Answer a form that cannot be taken; `most` is how many bytes a file may have."""
    fault = _fault(error)
    detail, reason = _sentence(error, fault, most), str(error)
    ours = fault.status >= 500  # noqa: PLR2004  the rest is everyday
    # Of a store the inner words stay in the log, of a client its outer ones are enough.
    said = reason if isinstance(error, StorageError) else detail
    (log.warning if ours else log.debug)("form.refused", status=fault.status, reason=said)
    return _answer(fault.status, {"detail": detail, "status_code": fault.status})


def _sentence(error: Exception, fault: Fault, most: int) -> str:
    if fault is Fault.TOO_LARGE:
        return fault.sentence.format(most=_megabytes(most))
    if isinstance(error, StorageError) and fault is not Fault.FULL:
        return fault.sentence
    return str(error)


def _fault(error: Exception) -> Fault:
    if isinstance(error, FormError):
        return error.fault
    if isinstance(error, FileTooLarge):
        return Fault.TOO_LARGE
    if isinstance(error, StorageError):
        code = protocol.as_protocol_error(error).code
        return (
            Fault.FULL if code is Code.STORAGE_FULL else _FAULTS.get(type(error), Fault.UNAVAILABLE)
        )
    return Fault.INVALID


def _megabytes(size: int) -> str:
    """Write a number of MB with as many digits as it takes, two behind the point at most."""
    found = f"{size / MB:.2f}".rstrip("0").rstrip(".")
    return f"{size / MB:.2g}" if found == "0" else found


def _answer(status: int, document: Mapping[str, object]) -> Response:
    headers = _JSON | _BESIDE.get(status, {})
    return Response(status, headers, json.dumps(document).encode())
