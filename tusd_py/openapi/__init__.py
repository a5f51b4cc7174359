"""The description of the API, made of the models: two of OpenAPI 3.1, and a page to read both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from tusd_py.headers import Headers
from tusd_py.listing import JobPage
from tusd_py.openapi.files import files, form
from tusd_py.openapi.jobs import all_jobs, jobs, probes
from tusd_py.openapi.page import page_of
from tusd_py.openapi.result import JobResult
from tusd_py.problems import Problem
from tusd_py.resource import JobResource, JobStatus

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.requests import Request

    from tusd_py.origin import Origin

# Their addresses, from one another.
JOBS = "openapi.json"
UPLOADS = "openapi-uploads.json"
# The program's own.
VERSION = "0.1.0"
_ABOUT = """Takes large videos by resumable uploads and reads the licence plates in them.

This is about jobs; how videos get here stands in `/openapi-uploads.json`. The id of an upload is
the id of its job, and whoever knows an id may use it. A job is watched live at `/jobs/{id}/events`
(server-sent events) or `/jobs/{id}/ws` (a WebSocket), many at `/events?jobs={id},{id}`: these go on
as long as the job does, which nothing here can describe. Every answer bears an `X-Request-ID`: the
one that was sent with the request, or a new one."""
_ABOUT_UPLOADS = """How videos get to tusd-py, whose jobs stand in `/openapi.json`.

An upload is created and filled with tus 1.0.0, with the IETF's Resumable Uploads for HTTP, or by
one form; its id, the last part of its address, is the id of its job. The answers are those of these
protocols: 412 to another version of tus, 409 to a wrong offset, 410 once an upload was removed."""
_TAGS = {
    "jobs": "What became of an upload: watch it, fetch its result, cancel it, try it again.",
    "server": "Whether it lives, and what it can do.",
}
_UPLOAD_TAGS = {
    "uploads": "tus 1.0.0 (https://tus.io/protocols/resumable-upload).",
    "form": "The old endpoint: one request, one video.",
}
# A page of ours loads nothing, and nobody frames it.
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Offered:
    """Say what of the API the settings leave."""

    files: str
    most_bytes: int
    listing: bool
    termination: bool
    download: bool


def document(offered: Offered) -> dict[str, Any]:
    """Describe jobs and server, but for `servers`: where clients reach us, each tells."""
    admin = {"type": "http", "scheme": "bearer", "description": "The ADMIN_TOKEN of the server."}
    return {
        **_head("tusd-py", _ABOUT, _TAGS),
        "externalDocs": {"description": "How videos get here", "url": UPLOADS},
        "paths": {
            **(all_jobs() if offered.listing else {}),
            **jobs(termination=offered.termination),
            **probes(),
        },
        "components": {
            "schemas": _schemas(JobResource, JobPage, JobResult, JobStatus, Problem),
            "securitySchemes": {"admin": admin},
        },
    }


def uploads_document(offered: Offered) -> dict[str, Any]:
    """Describe how videos get here, but for `servers`."""
    described = files(
        offered.files,
        offered.most_bytes,
        termination=offered.termination,
        download=offered.download,
    )
    return {
        **_head("tusd-py: uploads", _ABOUT_UPLOADS, _UPLOAD_TAGS),
        "externalDocs": {"description": "Jobs", "url": JOBS},
        "paths": {**described, **form()},
        "components": {"schemas": _schemas(Problem)},
    }


def _head(title: str, about: str, tags: dict[str, str]) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION, "description": about},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
    }


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    _, definitions = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


class Described:
    """Serve `/openapi.json`, `/openapi-uploads.json` and `/docs`."""

    def __init__(self, offered: Offered, origin: Origin) -> None:
        self._offered = offered
        self._origin = origin
        self._made: dict[str, dict[str, Any]] = {}

    async def json(self, request: Request) -> Response:
        """Return the document about jobs."""
        return self._json(JOBS, request)

    async def uploads(self, request: Request) -> Response:
        """Return the document about uploads."""
        return self._json(UPLOADS, request)

    async def page(self, request: Request) -> Response:
        """Return both documents for people."""
        del request
        headers = {"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"}
        return Response(page_of(self._documents()), media_type="text/html", headers=headers)

    def _json(self, name: str, request: Request) -> Response:
        reach = self._origin.of(request.scope, Headers(request.scope["headers"]))
        told = {**self._documents()[name], "servers": [{"url": reach.base or "/"}]}
        return Response(json.dumps(told, ensure_ascii=False), media_type="application/json")

    def _documents(self) -> dict[str, dict[str, Any]]:
        if not self._made:
            # It takes some milliseconds, in which nobody else is served.
            self._made = {
                JOBS: document(self._offered),
                UPLOADS: uploads_document(self._offered),
            }
        return self._made
