"""How a request of the API is refused: a problem of RFC 9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from storage.errors import (
    JournalDamaged,
    RecordTooNew,
    StorageError,
    UploadGone,
    UploadLocked,
    UploadNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

NO_STORE = {"cache-control": "no-store"}
_SENTENCES = {404: "there is nothing at this address", 405: "this method is not allowed here"}


class Problem(BaseModel):
    """Say why a request was refused (RFC 9457)."""

    type: str = Field("about:blank", description="A URI that names the kind of problem.")
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(ge=400, le=599, description="The status code.", examples=[404])
    detail: str = Field(description="What was wrong.", examples=["there is no such job"])


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a problem whose detail is this sentence."""
    said = Problem(title=HTTPStatus(status).phrase, status=int(status), detail=detail)
    return JSONResponse(
        said.model_dump(),
        status,
        headers={**NO_STORE, **(headers or {})},
        media_type="application/problem+json",
    )


async def unfound(request: Request, error: Exception) -> Response:
    """Answer where no route takes a request, or not with its method."""
    del request
    if not isinstance(error, HTTPException):
        raise error
    detail = _SENTENCES.get(error.status_code, error.detail)
    return problem(error.status_code, detail, error.headers)


def refused(error: StorageError) -> Response:
    """Say of a job what went wrong in a store; its inner words stay in the log."""
    if isinstance(error, UploadNotFound):
        return problem(404, "there is no such job")
    if isinstance(error, UploadGone):
        return problem(410, "the upload of this job was removed")
    if isinstance(error, JournalDamaged):
        return problem(410, "the files of this job are damaged")
    if isinstance(error, UploadLocked):
        held = "another request holds the upload of this job: try again"
        return problem(423, held, {"retry-after": "1"})
    if isinstance(error, RecordTooNew):
        return problem(503, str(error), {"retry-after": "60"})
    return problem(503, "the storage does not answer just now: try again", {"retry-after": "1"})
