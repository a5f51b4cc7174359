"""The jobs, for clients that poll: where each stands, its result, and what can be done with it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from anyio import to_thread
from starlette.responses import Response

from storage.errors import JobNotRetried, RecordTooNew, StorageError, UploadNotFound
from storage.job import JobState
from tusd_py.headers import Headers
from tusd_py.polling import Polling, Together, parse_wait
from tusd_py.problems import NO_STORE, problem, refused
from tusd_py.protocol import is_upload_id
from tusd_py.resource import JobResource
from tusd_py.table import csv_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from storage.interfaces import DataStore, InfoStore
    from storage.job import Job
    from storage.upload import Upload
    from tusd_py.origin import Origin

# No video shows so many plates.
_PLATE_DIGITS = 6


class _Asked(NamedTuple):
    """Say what job a client asks for, and behind what it wants addresses."""

    job_id: str
    base: str


class _Seen(NamedTuple):
    """Hold a job as it was read, and how the client sees it."""

    job: Job
    body: bytes
    etag: str


class Jobs:
    """Serve `/jobs/{id}` and what lies below; `stop` it when the server is to end."""

    def __init__(
        self,
        info: InfoStore,
        data: DataStore,
        origin: Origin,
        polling: Polling,
        *,
        remove: Callable[[str], Awaitable[None]],
        retry: Callable[[str], Awaitable[None]],
    ) -> None:
        """`remove` takes an upload away with all of its traces; `retry` begins a job anew."""
        self._info = info
        self._data = data
        self._origin = origin
        self._polling = polling
        self._remove = remove
        self._retry = retry
        self._together = Together(self._see)

    async def job(self, request: Request) -> Response:
        """Answer GET with the job, and cancel it on DELETE."""
        try:
            if request.method == "DELETE":
                return await self._cancel(request.path_params["job_id"])
            return await self._status(request)
        except StorageError as error:
            return refused(error)

    async def _status(self, request: Request) -> Response:
        headers = Headers(request.scope["headers"])
        known, wait = _tags(headers), parse_wait(headers)
        asked = self._asked(request, headers)
        if wait:
            seen = await self._awaited(asked, known, wait, request)
        else:
            seen = await self._see(asked)
        fields = {**NO_STORE, "vary": "Prefer"}
        if wait:
            fields["preference-applied"] = f"wait={wait}"
        if seen.job.state is JobState.CANCELLED:
            return _json(seen.body, 410, fields)
        fields["etag"] = seen.etag
        if known and {"*", seen.etag} & known:
            return Response(status_code=304, headers=fields)
        return _json(seen.body, 200, fields)

    def _asked(self, request: Request, headers: Headers) -> _Asked:
        return _Asked(request.path_params["job_id"], self._origin.of(request.scope, headers).base)

    async def _awaited(self, asked: _Asked, known: set[str], wait: int, request: Request) -> _Seen:
        """Wait for what the client does not know; without a tag, for the next change."""
        if not known:
            before = await self._see(asked)
            if before.job.state.terminal:
                return before
            known = {before.etag}
        return await self._polling.until(
            asked.job_id,
            lambda: self._together.read(asked),
            lambda seen: not {"*", seen.etag} & known,
            wait,
            request,
        )

    async def _see(self, asked: _Asked) -> _Seen:
        job = await self.find(asked.job_id)
        upload = await self._upload(job)
        body = JobResource.of_upload(job, upload, asked.base).model_dump_json().encode()
        digest = hashlib.sha256(body).hexdigest()[:32]
        return _Seen(job, body, f'"{digest}"')

    async def _upload(self, job: Job) -> Upload | None:
        if job.state is JobState.CANCELLED:
            return None
        try:
            return await self._info.find(job.id)
        except RecordTooNew:
            # Where the job stands is known all the same.
            return None

    async def _cancel(self, job_id: str) -> Response:
        job = await self.find(job_id)
        if job.state is JobState.CANCELLED:
            return problem(410, "the upload of this job was removed")
        await self._remove(job_id)
        return Response(status_code=204, headers=NO_STORE)

    async def retry(self, request: Request) -> Response:
        """Run a failed job again; 409 with the reason where that cannot be."""
        try:
            job = await self.find(request.path_params["job_id"])
            if job.state is JobState.CANCELLED:
                return problem(410, "the upload of this job was removed")
            await self._retry(job.id)
            seen = await self._see(self._asked(request, Headers(request.scope["headers"])))
        except JobNotRetried as error:
            return problem(409, str(error))
        except StorageError as error:
            return refused(error)
        return _json(seen.body, 202, {**NO_STORE, "etag": seen.etag})

    async def result(self, request: Request) -> Response:
        """Return the analysis as JSON or CSV; 404 while there is none."""
        wanted = request.query_params.get("format", "json")
        if wanted not in {"json", "csv"}:
            return problem(400, f"format: expected json or csv, got {wanted[:40]!r}")
        try:
            job, result = await self._result(request.path_params["job_id"])
        except StorageError as error:
            return refused(error)
        if result is None:
            return _no_result(job)
        if wanted == "json":
            return _json(result, 200)
        name = f'attachment; filename="plates-{job.id}.csv"'
        return Response(
            csv_of(json.loads(result)["plates"]),
            headers={**NO_STORE, "content-disposition": name},
            media_type="text/csv; charset=utf-8; header=present",
        )

    async def _result(self, job_id: str) -> tuple[Job, bytes | None]:
        job = await self.find(job_id)
        if job.state is not JobState.COMPLETED:
            return job, None
        return job, await to_thread.run_sync(self._data.result, job.id)

    async def image(self, request: Request) -> Response:
        """Return the best shot of a plate, counted from 0 in the order of the result."""
        number = request.path_params["number"]
        try:
            job, result = await self._result(request.path_params["job_id"])
            if result is None:
                return _no_result(job)
            count = len(json.loads(result)["plates"])
            if not _is_number(number) or int(number) >= count:
                return problem(404, f"this job found {count} plates, counted from 0")
            image = await to_thread.run_sync(self._data.crop, job.id, int(number))
        except StorageError as error:
            return refused(error)
        if image is None:
            return problem(404, "there is no picture of this plate")
        headers = {**NO_STORE, "x-content-type-options": "nosniff"}
        return Response(image, headers=headers, media_type="image/jpeg")

    async def find(self, job_id: str) -> Job:
        """Return a job, whose record is rebuilt where Redis lacks it; raise StorageError."""
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


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _PLATE_DIGITS


def _no_result(job: Job) -> Response:
    if job.state is JobState.COMPLETED:
        return problem(404, "the result of this job is no longer here")
    return problem(410 if job.state is JobState.CANCELLED else 404, job.message)


def _tags(headers: Headers) -> set[str]:
    """Return the tags of If-None-Match, which are compared weakly (RFC 9110, section 13.1.2)."""
    listed = (headers.joined("if-none-match") or "").split(",")
    return {tag.strip(" \t").removeprefix("W/") for tag in listed} - {""}


def _json(body: bytes, status: int, headers: Mapping[str, str] = NO_STORE) -> Response:
    return Response(body, status, media_type="application/json", headers=headers)
