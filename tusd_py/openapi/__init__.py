"""The description of the whole API, made of the models: OpenAPI 3.1, and a page to read it."""

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
    from starlette.requests import Request

    from tusd_py.origin import Origin

# The program's own.
VERSION = "0.1.0"
_ABOUT = """Takes large videos by resumable uploads and reads the licence plates in them.

An upload is created and filled with tus 1.0.0, with the IETF's Resumable Uploads for HTTP, or by
one form; its id, the last part of its address, is the id of its job. Whoever knows an id may use
it. A job is watched live at `/jobs/{id}/events` (server-sent events) or `/jobs/{id}/ws` (a
WebSocket), many at `/events?jobs={id},{id}`: these go on as long as the job does, which nothing
here can describe. Every answer bears an `X-Request-ID`: the one that was sent with the request, or
a new one."""
_TAGS = {
    "jobs": "What became of an upload: watch it, fetch its result, cancel it, try it again.",
    "uploads": "tus 1.0.0 (https://tus.io/protocols/resumable-upload).",
    "form": "The old endpoint: one request, one video.",
    "server": "Whether it lives, and what it can do.",
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
    """Build the document but for `servers`: where clients reach us, each tells."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "tusd-py", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(offered),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "admin": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The ADMIN_TOKEN of the server.",
                }
            },
        },
    }


def _paths(offered: Offered) -> dict[str, Any]:
    return {
        **(all_jobs() if offered.listing else {}),
        **jobs(termination=offered.termination),
        **files(
            offered.files,
            offered.most_bytes,
            termination=offered.termination,
            download=offered.download,
        ),
        **form(),
        **probes(),
    }


def _schemas() -> dict[str, Any]:
    models = (JobResource, JobPage, JobResult, JobStatus, Problem)
    _, definitions = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


class Described:
    """Serve `/openapi.json` and `/docs`."""

    def __init__(self, offered: Offered, origin: Origin) -> None:
        self._offered = offered
        self._origin = origin
        self._made: dict[str, Any] | None = None

    async def json(self, request: Request) -> Response:
        """Return the document."""
        text = json.dumps(self._document(request), ensure_ascii=False)
        return Response(text, media_type="application/json")

    async def page(self, request: Request) -> Response:
        """Return the document for people."""
        headers = {"content-security-policy": _PAGE_POLICY, "x-content-type-options": "nosniff"}
        return Response(page_of(self._document(request)), media_type="text/html", headers=headers)

    def _document(self, request: Request) -> dict[str, Any]:
        reach = self._origin.of(request.scope, Headers(request.scope["headers"]))
        if self._made is None:
            # It takes some milliseconds, in which nobody else is served.
            self._made = document(self._offered)
        return {**self._made, "servers": [{"url": reach.base or "/"}]}
