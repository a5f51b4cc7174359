"""Watch jobs live: server-sent events and a WebSocket, which tell the same (docs/events.md).

Each watcher is told what is new when it takes it, so a slow one costs no more than a quick one.
"""

from __future__ import annotations

import asyncio
import random
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import parse_qs

from storage.bell import Bell
from tusd_py.exchange import CUT, PATIENCE
from tusd_py.headers import Headers
from tusd_py.news import Watcher
from tusd_py.problems import problem
from tusd_py.protocol import is_upload_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from tusd_py.feeds import Feeds
    from tusd_py.news import Event
    from tusd_py.origin import Origin

T = TypeVar("T")

# Jobs that one connection watches.
MOST_JOBS = 50
# Seconds. What is silent for longer is taken for dead on the way, and what takes nothing is cut.
_HEARTBEAT = 15.0
_STALL = 60.0
# Milliseconds until a client whose connection broke comes again: not all of them at once.
_RETRY_MS = (1000, 3000)
# Of RFC 6455: the job has ended; this server is about to end, come again.
_ENDED = 1000
_RESTART = 1012


class Connection(Protocol):
    """Carry events to one client."""

    async def refuse(self, response: Response) -> None:
        """Answer with a response instead of events."""

    async def begin(self) -> bool:
        """Say that events will follow; False where the client does not want them."""

    async def tell(self, events: Sequence[Event]) -> None:
        """Send events; where there are none, see that the line is not taken for dead."""

    async def end(self, code: int) -> None:
        """Say that no more will come; `code` is a WebSocket's."""

    async def cut(self) -> None:
        """Let go of who takes nothing."""

    async def gone(self) -> None:
        """Return when the client has gone."""


class Stream:
    """Send server-sent events as the body of a response (WHATWG HTML, section 9.2)."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._asgi = scope, receive, send
        self._send = send
        self._receive = receive
        self._extensions: Mapping[str, object] = scope.get("extensions") or {}

    async def refuse(self, response: Response) -> None:
        await response(*self._asgi)

    async def begin(self) -> bool:
        if PATIENCE in self._extensions:
            await self._send({"type": PATIENCE, "seconds": _STALL})
        await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM})
        await self._write(f"retry: {random.randint(*_RETRY_MS)}\n\n")  # noqa: S311  no secret
        return bool(self._asgi[0]["method"] != "HEAD")

    async def tell(self, events: Sequence[Event]) -> None:
        text = "".join(f"id: {id_}\nevent: {name}\ndata: {data}\n\n" for id_, name, data in events)
        await self._write(text or ":\n\n")

    async def _write(self, text: str) -> None:
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def end(self, code: int) -> None:
        del code
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def cut(self) -> None:
        if CUT in self._extensions:
            await self._send({"type": CUT})

    async def gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Else nginx would gather events before it passes them on.
    (b"x-accel-buffering", b"no"),
    (b"connection", b"close"),
]


class Socket:
    """Send events as text frames of a WebSocket: what it receives means nothing."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._asgi = scope, receive, send
        self._send = send
        self._receive = receive
        self._extensions: Mapping[str, object] = scope.get("extensions") or {}

    async def refuse(self, response: Response) -> None:
        if response.status_code == HTTPStatus.NO_CONTENT:
            await self.begin()
            await self.end(_ENDED)
        elif "websocket.http.response" in self._extensions:
            await response(*self._asgi)
        else:
            await self._send({"type": "websocket.close"})

    async def begin(self) -> bool:
        await self._send({"type": "websocket.accept"})
        return True

    async def tell(self, events: Sequence[Event]) -> None:
        # Pings are the server's business.
        for id_, name, data in events:
            text = f'{{"id":"{id_}","event":"{name}","data":{data}}}'
            await self._send({"type": "websocket.send", "text": text})

    async def end(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})

    async def cut(self) -> None:
        if CUT in self._extensions:
            await self._send({"type": CUT})

    async def gone(self) -> None:
        while (await self._receive())["type"] != "websocket.disconnect":
            pass


class Watching:
    """Serve watchers, by ASGI, until their jobs end, they go, or `stop` is called."""

    def __init__(self, feeds: Feeds, origin: Origin) -> None:
        self._feeds = feeds
        self._origin = origin
        self._bells: set[asyncio.Event] = set()
        self._closing = False

    def stop(self) -> None:
        """End every connection, now and from now on: the process shuts down."""
        self._closing = True
        for bell in self._bells:
            bell.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client: events of the job in the path, or of those that the query names."""
        way = Socket if scope["type"] == "websocket" else Stream
        connection: Connection = way(scope, receive, send)
        ids = _ids(scope)
        if isinstance(ids, str):
            await connection.refuse(problem(400, ids))
            return
        bell = Bell()
        self._bells.add(bell)
        try:
            async with self._feeds.of(ids, bell) as feeds:
                await self._serve(Watcher(feeds, self._base(scope), _seen(scope)), connection, bell)
        finally:
            self._bells.discard(bell)

    def _base(self, scope: Scope) -> str:
        scheme = scope.get("scheme", "http").replace("ws", "http")
        return self._origin.of({**scope, "scheme": scheme}, Headers(scope["headers"])).base

    async def _serve(self, watcher: Watcher, connection: Connection, bell: asyncio.Event) -> None:
        if refusal := watcher.refusal():
            await connection.refuse(refusal)
            return
        gone = asyncio.create_task(connection.gone())
        gone.add_done_callback(lambda _: bell.set())
        try:
            listens = await _in_time(connection.begin())
            while listens and not gone.done() and not self._closing:
                bell.clear()
                await _in_time(connection.tell(watcher.news()))
                if watcher.ended:
                    break
                await _wait(bell)
            if not gone.done():
                await _in_time(connection.end(_ENDED if watcher.ended else _RESTART))
        except _StalledError:
            await connection.cut()
        except OSError:
            # It went while something was sent (ASGI 2.4).
            return
        finally:
            gone.cancel()


class _StalledError(Exception):
    """A client takes nothing any more."""


async def _in_time(step: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(_STALL):
            return await step
    except TimeoutError:
        raise _StalledError from None


async def _wait(bell: asyncio.Event) -> None:
    # Much less than asyncio.timeout, for who is told something many times a second.
    timer = asyncio.get_running_loop().call_later(_HEARTBEAT, bell.set)
    try:
        await bell.wait()
    finally:
        timer.cancel()


def _ids(scope: Scope) -> list[str] | str:
    """Return the jobs that are to be watched, or what is wrong with them."""
    if job_id := scope["path_params"].get("job_id"):
        # One that is no id is of no job, and found missing.
        return [job_id]
    named = _query(scope, "jobs")
    ids = [*dict.fromkeys(one.strip() for one in named.split(",") if one.strip())]
    if not 0 < len(ids) <= MOST_JOBS:
        return f"jobs: expected 1 to {MOST_JOBS} ids with commas between them, got {len(ids)}"
    wrong = next((one for one in ids if not is_upload_id(one)), None)
    return ids if wrong is None else f"jobs: expected ids of jobs, got {wrong[:60]!a}"


def _seen(scope: Scope) -> str:
    """Return the id of the event that the client saw last: of some it stands in the address."""
    lines = Headers(scope["headers"]).lines("last-event-id")
    return lines[0] if lines else _query(scope, "last_event_id")


def _query(scope: Scope, name: str) -> str:
    values = parse_qs(scope["query_string"].decode("latin-1")).get(name, [])
    return ",".join(values)
