"""The job resource: what became of an upload, for services that poll."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import to_thread
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from storage.errors import JournalDamaged, StorageError, UploadGone, UploadNotFound
from storage.job import Job, JobState
from tusd_py.protocol import is_upload_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from storage.interfaces import DataStore, InfoStore


class JobStatus(BaseModel):
    """Say where a job stands."""

    job_id: str
    """The id of the upload, a UUID."""
    status: JobState
    """uploading, pending, processing, completed, failed or cancelled."""
    progress: float = Field(ge=0, le=1)
    """Share of the current state that is done; it never falls inside a state."""
    message: str
    """The same for people."""

    @classmethod
    def of(cls, job: Job) -> JobStatus:
        return cls(
            job_id=job.id, status=job.state, progress=round(job.progress, 4), message=job.message
        )


class Jobs:
    """Serve `GET /jobs/{id}` and `GET /jobs/{id}/result`."""

    def __init__(self, info: InfoStore, data: DataStore) -> None:
        self._info = info
        self._data = data

    async def status(self, request: Request) -> Response:
        """Return the job; 410 with its last state once its upload was removed."""
        try:
            job = await self._find(request.path_params["job_id"])
        except StorageError as error:
            return _refused(error)
        status = 410 if job.state is JobState.CANCELLED else 200
        return _json(JobStatus.of(job), status)

    async def result(self, request: Request) -> Response:
        """Return the analysis; 404 while there is none."""
        try:
            job = await self._find(request.path_params["job_id"])
            if job.state is not JobState.COMPLETED:
                return problem(410 if job.state is JobState.CANCELLED else 404, job.message)
            result = await to_thread.run_sync(self._data.result, job.id)
        except StorageError as error:
            return _refused(error)
        if result is None:
            return problem(404, "the result of this job is no longer here")
        return Response(result, media_type="application/json", headers=_NO_STORE)

    async def _find(self, job_id: str) -> Job:
        if not is_upload_id(job_id):
            raise UploadNotFound
        job = await self._info.job(job_id)
        if job is None:
            upload, ended = await to_thread.run_sync(self._data.recover, job_id)
            await self._info.restore(upload, ended)
            # A partial upload has none.
            job = await self._info.job(job_id)
        if job is None:
            raise UploadNotFound
        return job


_NO_STORE = {"cache-control": "no-store"}


def _refused(error: StorageError) -> Response:
    if isinstance(error, UploadNotFound):
        return problem(404, "there is no such job")
    if isinstance(error, UploadGone):
        return problem(410, "the upload of this job was removed")
    if isinstance(error, JournalDamaged):
        return problem(410, "the files of this job are damaged")
    return problem(503, "the storage does not answer just now: try again", {"retry-after": "1"})


def _json(body: BaseModel, status: int) -> Response:
    return Response(
        body.model_dump_json(), status, media_type="application/json", headers=_NO_STORE
    )


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer in the form of RFC 9457."""
    return JSONResponse(
        {"status": int(status), "detail": detail},
        status,
        headers={**_NO_STORE, **(headers or {})},
        media_type="application/problem+json",
    )
