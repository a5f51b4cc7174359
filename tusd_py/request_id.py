"""One name for a request: in its answer, in its log lines, and in those of the job it leads to."""

from __future__ import annotations

import itertools
import re
import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import MutableHeaders
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

from tusd_py.headers import Headers
from tusd_py.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

NAME = "X-Request-ID"
_LOWER = NAME.lower()
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
# structlog adds variables of such names to each line; to set one is cheaper than its own way.
_REQUEST: ContextVar[str] = ContextVar(f"{STRUCTLOG_KEY_PREFIX}request")


def sent(headers: Headers) -> str | None:
    """Return the id that the client or a proxy gave the request, if it is one."""
    if _LOWER not in headers:
        return None
    values = headers.lines(_LOWER)
    return values[0] if len(values) == 1 and _SANE.fullmatch(values[0]) else None


class RequestIds:
    """Name requests, and have each log line of one bear its name."""

    def __init__(self) -> None:
        """Begin names that no other process gives."""
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def begin(self, headers: Headers) -> str:
        """Return the name of a request; the lines of this task bear it from now on."""
        name = sent(headers) or f"{self._prefix}-{next(self._numbers):x}"
        _REQUEST.set(name)
        return name


class Named:
    """Wrap an app: each answer bears its request's name, and each request has an answer."""

    def __init__(self, app: ASGIApp, ids: RequestIds) -> None:
        self._app = app
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app on one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        answer = _Answer(self._ids.begin(Headers(scope["headers"])), send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            log.exception("request.broke")
            if scope["type"] == "websocket" or answer.begun:
                raise
            broke = problem(500, "this server has made a mistake, which is in its log")
            await broke(scope, receive, answer.send)


class _Answer:
    """Add the name to what is sent first."""

    def __init__(self, name: str, send: Send) -> None:
        self.begun = False
        self._name = name
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.accept"}:
            self.begun = True
            message.setdefault("headers", [])
            MutableHeaders(scope=message)[NAME] = self._name
        await self._send(message)
