"""The description of the jobs and of the server itself (OpenAPI 3.1)."""

from __future__ import annotations

from storage.job import JobState
from tusd_py.listing import CURSOR, MOST, USUAL
from tusd_py.openapi.parts import (
    JSON,
    LATER,
    UUID,
    Part,
    answer,
    operation,
    parameter,
    problem,
    schema,
)

_ID = parameter("job_id", "path", "The id of the upload.", UUID, required=True)
_NUMBER = {"type": "integer", "minimum": 0, "examples": [0]}
_TEXT = {"type": "string"}
_MISSING = {
    "404": problem("There is no such job, or not what was asked for of it."),
    "410": problem("The upload of this job was removed."),
    "503": problem("The storage does not answer.", LATER),
}
_BUSY = {"423": problem("Another request holds the upload.", LATER)}

_POLL = """Tell where a job stands

With `If-None-Match` an unchanged job is 304. With `Prefer: wait=N` (RFC 7240) the answer waits for
the next change, or until the job is another than `If-None-Match` names, for N seconds, 60 at most.

A job whose upload was removed is answered with 410 and its last state."""
_CHALLENGE = {"WWW-Authenticate": "Bearer."}
_STATE = {"ETag": "The state."}
_WAITED = {**_STATE, "Preference-Applied": "How long the answer would have waited."}


def jobs(*, termination: bool) -> dict[str, Part]:
    """Describe `/jobs/{id}` and what lies below."""
    cancel = {"delete": _cancel()} if termination else {}
    return {
        "/jobs/{job_id}": {"parameters": [_ID], "get": _status(), **cancel},
        "/jobs/{job_id}/result": {"parameters": [_ID], "get": _result()},
        "/jobs/{job_id}/plates/{number}/image": {"parameters": [_ID], "get": _image()},
        "/jobs/{job_id}/retry": {"parameters": [_ID], "post": _retry()},
    }


def _status() -> Part:
    headers = [
        parameter("If-None-Match", "header", "Entity tags that are known.", _TEXT),
        parameter("Prefer", "header", "`wait=N` to wait for a change.", _TEXT),
    ]
    answers = {
        **_MISSING,
        "200": answer("The job.", schema("JobResource"), headers=_WAITED),
        "304": answer("It is as it was.", headers=_WAITED),
        "410": _removed(),
    }
    return operation("jobs", "getJob", _POLL, answers, parameters=headers)


def _removed() -> Part:
    removed = answer("The upload was removed.", schema("JobResource"))
    removed["content"]["application/problem+json"] = {"schema": schema("Problem")}
    return removed


def _cancel() -> Part:
    what = """Cancel a job and remove all its traces

Video, result, pictures and records go, also while the job runs; then it is 410. The same as DELETE
of its upload."""
    return operation("jobs", "cancelJob", what, {**_MISSING, **_BUSY, "204": answer("Gone.")})


def _retry() -> Part:
    what = """Run a failed job again

That takes its video, which stays for KEEP_FAILED_SECONDS."""
    answers = {
        **_MISSING,
        "202": answer("It waits for a worker.", schema("JobResource"), headers=_STATE),
        "409": problem("It has not failed, or its video is gone."),
    }
    return operation("jobs", "retryJob", what, answers)


def _result() -> Part:
    found = answer("The plates.", schema("JobResult"))
    found["content"]["text/csv"] = {"schema": _TEXT}
    answers = {**_MISSING, "200": found, "400": problem("`format` is something else.")}
    kinds = {"type": "string", "enum": ["json", "csv"], "default": "json"}
    what = parameter("format", "query", "csv: a row for each plate (RFC 4180).", kinds)
    return operation(
        "jobs", "getResult", "Fetch the plates that were found", answers, parameters=[what]
    )


def _image() -> Part:
    number = parameter(
        "number", "path", "Of the plate in the result, from 0.", _NUMBER, required=True
    )
    answers = {**_MISSING, "200": answer("The picture.", {}, "image/jpeg")}
    what = "Show the best shot of a plate"
    return operation("jobs", "getPlateImage", what, answers, parameters=[number])


def all_jobs() -> dict[str, Part]:
    """Describe the list of all jobs."""
    what = """List and search all jobs, the newest first

For who runs the server. One request looks at 1,000 jobs at most: a page may be empty and not the
last."""
    page = answer("A page.", schema("JobPage"))
    return {
        "/jobs": {
            "get": operation(
                "jobs",
                "listJobs",
                what,
                {
                    "200": page,
                    "400": problem("A parameter is not as it has to be."),
                    "401": problem("The token is missing or wrong.", _CHALLENGE),
                    "503": _MISSING["503"],
                },
                parameters=_filters(),
                security=[{"admin": []}],
            )
        }
    }


def _filters() -> list[Part]:
    time = {"type": "string", "format": "date-time", "examples": ["2026-11-27T12:00:00Z"]}
    state = {"type": "string", "enum": [*JobState]}
    most = {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL}
    cursor = {"type": "string", "pattern": CURSOR}
    return [
        parameter("status", "query", "Any of these states.", {"type": "array", "items": state}),
        parameter("created_after", "query", "Created then or later.", time),
        parameter("created_before", "query", "Created before that.", time),
        parameter("filename", "query", "Part of the file's name, in any case.", _TEXT),
        parameter("plate", "query", "Part of a plate that was found.", _TEXT),
        parameter("limit", "query", "Jobs on a page.", most),
        parameter("cursor", "query", "What `next` of the page before said.", cursor),
    ]


def probes() -> dict[str, Part]:
    """Describe what tells of the server itself."""
    ready = {
        "type": "object",
        "required": ["ready", "redis", "disk", "workers"],
        "properties": {
            "ready": {"type": "boolean", "description": "Whether uploads can be taken."},
            "redis": {"type": "string", "examples": ["ok"]},
            "disk": {"type": "string", "examples": ["ok"]},
            "workers": {"type": ["integer", "null"], "description": "How many wait for jobs."},
        },
    }
    alive = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    page = answer("The page.", _TEXT, "text/html")
    document = answer("The document.", {"type": "object"}, JSON)
    described = [
        ("/health", "isAlive", "Answer while the process lives", {"200": answer("Yes.", alive)}),
        (
            "/ready",
            "isReady",
            "Tell whether uploads can be taken",
            {"200": answer("Yes.", ready), "503": answer("No, and why.", ready)},
        ),
        (
            "/openapi.json",
            "describe",
            "Return this document",
            {"200": document},
        ),
        (
            "/openapi-uploads.json",
            "describeUploads",
            "Tell how videos get here",
            {"200": document},
        ),
        ("/docs", "describeForPeople", "Show both documents", {"200": page}),
    ]
    return {
        path: {"get": operation("server", name, what, answers)}
        for path, name, what, answers in described
    }
