"""One request and its answer, as `uploads.carry_out` sees them: headers in, body moved, response.

`AsgiExchange` works under any ASGI server; what only ours can do it finds in the scope's
extensions, and does without elsewhere.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from storage.leases import run_to_the_end
from tusd_py.headers import Headers
from tusd_py.protocol import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import Receive as AsgiReceive
    from starlette.types import Scope, Send

    from storage.interfaces import Sink

    Receive = Callable[[], Awaitable[tuple[bytes, "BodyEnd | None"]]]

# Seconds after which bytes that trickle in are handed on, so that progress shows and a crash
# costs a slow client little.
_PULSE = 1.0
# What is read of a body nobody wants, so that the client sees the answer and not a reset.
_DRAIN_BYTES = 256 * 1024
_DRAIN_SECONDS = 1.0
# How long, and for how much, a body that was told to stop may still end by itself: of two equal
# requests the one that has nearly arrived is not worth sending again.
GRACE_SECONDS = 0.03
_GRACE_BYTES = 2**20
# Turns of the event loop in which what the kernel holds already comes through.
_TURNS = 4

# ASGI extensions of our protocol class (tusd_py.ingest). A message of the name is accepted: a 1xx
# response; the end of the connection. The third has `fields`, to which trailers are added.
INFORMATIONAL = "http.response.informational"
CUT = "tusd.http.cut"
# Also a message: the answer goes on as long as somebody listens, and takes what is sent within so
# many `seconds`.
PATIENCE = "tusd.http.patience"
TRAILERS = "tusd.http.request.trailers"


class BodyEnd(Enum):
    """Tell why moving a body came to a halt."""

    #: The limit or the pulse was reached; more may follow.
    MORE = auto()
    #: That was all of it.
    DONE = auto()
    #: The peer went away in mid-body.
    DISCONNECTED = auto()
    #: Nothing came for too long.
    STALLED = auto()
    #: The holder of the upload was asked to let go.
    STOPPED = auto()


class _Grace:
    """Bound what a body that was told to stop may still bring."""

    def __init__(self, until: float) -> None:
        """Wait until this time of the loop for what comes, and not at all for too much."""
        self._until = until
        self.left = _GRACE_BYTES

    async def wait(self, receiving: asyncio.Task[None]) -> bool:
        """Tell whether a piece has come in time."""
        if self.left <= 0:
            return False
        remaining = self._until - asyncio.get_running_loop().time()
        if remaining > 0:
            await asyncio.wait({receiving}, timeout=remaining)
        # A busy machine may have slept over it all.
        for _ in range(_TURNS):
            if not receiving.done():
                await asyncio.sleep(0)
        return receiving.done()


class Exchange(Protocol):
    """Give a request's headers, move its body and take its response."""

    @property
    def headers(self) -> Headers:
        """The request's header fields."""

    @property
    def can_trail(self) -> bool:
        """Tell whether trailer fields of a body can be had here."""

    @property
    def trailers(self) -> Headers:
        """The trailer fields of a chunked body, once `move_body` has answered DONE; else none."""

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        """Move up to `limit` bytes of the body to the sink.

        Whatever the answer, every byte taken from the peer was written, and no system call on
        the sink is still running. Errors of the sink come through. A `limit` of 0 finds out
        whether there is more. A body that is told to stop, but ends within a moment, is DONE.
        """

    async def interim(self, response: Response) -> None:
        """Send a 1xx response at once, where the server and the peer can; else do nothing."""

    async def respond(self, response: Response) -> None:
        """Send the final response; what is left of the body is not waited for."""

    async def cut(self) -> None:
        """End the connection without an answer, or with a 503 where that cannot be done."""


class Body:
    """Move the body of a request piece by piece, as a server hands it out."""

    def __init__(self, receive: Receive, *, chunk_size: int, stall: float) -> None:
        """Gather `chunk_size` bytes a write; a body that brings nothing for `stall` s stalls.

        `receive` waits for the next piece, and says with it why there will be no other.
        """
        self.ended: BodyEnd | None = None
        self._receive = receive
        self._chunk_size = chunk_size
        self._stall = stall
        self._left = b""
        self._receiving: asyncio.Task[None] | None = None
        self._grace: _Grace | None = None

    async def move(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        """Move up to `limit` bytes (Exchange.move_body)."""
        stopped: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            return await self._move(sink, limit, stopped)
        finally:
            stopped.cancel()

    async def _move(self, sink: Sink, limit: int, stopped: asyncio.Task[Any]) -> BodyEnd:
        pulse = asyncio.get_running_loop().time() + _PULSE
        batch: list[bytes] = []
        gathered = moved = 0
        end: BodyEnd | None = None
        while end is None:
            if not self._left:
                end = await self._fill(stopped, pulse if moved else None)
            taken, self._left = self._left[: limit - moved], self._left[limit - moved :]
            batch.append(taken)
            gathered += len(taken)
            moved += len(taken)
            if self._left:
                end = BodyEnd.MORE
            elif end is None:
                end = self.ended
            if gathered >= self._chunk_size or end is not None:
                if not sink.take(batch):
                    await run_to_the_end(sink.write, batch)
                batch, gathered = [], 0
        return end

    async def _fill(self, stopped: asyncio.Task[Any], pulse: float | None) -> BodyEnd | None:
        """Wait for the next piece; return why there is none."""
        if self.ended is not None:
            return self.ended
        if self._receiving is None:
            # Kept over calls: a receive that is cancelled could lose what it had in hand.
            self._receiving = asyncio.create_task(self._receive_piece())
        if not stopped.done():
            now = asyncio.get_running_loop().time()
            timeout = self._stall if pulse is None else max(0.0, pulse - now)
            await asyncio.wait(
                {self._receiving, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        if stopped.done():
            # Asked first: a fast sender always has something ready.
            return await self._fill_late(self._receiving)
        if self._receiving.done():
            self._take(self._receiving)
            return None
        return BodyEnd.STALLED if pulse is None else BodyEnd.MORE

    async def _fill_late(self, receiving: asyncio.Task[None]) -> BodyEnd | None:
        """Take what is there or comes within the grace of a stop."""
        if self._grace is None:
            self._grace = _Grace(asyncio.get_running_loop().time() + GRACE_SECONDS)
        if not await self._grace.wait(receiving):
            return BodyEnd.STOPPED
        self._take(receiving)
        self._grace.left -= len(self._left)
        return None

    def _take(self, receiving: asyncio.Task[None]) -> None:
        self._receiving = None
        receiving.result()

    async def _receive_piece(self) -> None:
        self._left, self.ended = await self._receive()

    async def drain(self) -> None:
        """Read a little of what nobody wants: closing on unread bytes would reset the answer."""
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0 and self.ended is None:
                    if self._receiving is None:
                        self._receiving = asyncio.create_task(self._receive_piece())
                    await asyncio.shield(self._receiving)
                    self._receiving = None
                    left -= max(1, len(self._left))
        except TimeoutError:
            pass

    async def forget(self) -> None:
        """Wait for nothing any more, from nobody."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait({self._receiving})
        # Who brings the pieces has this body: a circle that only the collector would find.
        with suppress(AttributeError):
            del self._receive


def expects_body(headers: Headers) -> bool:
    """Tell whether a request has a body (RFC 9112, section 6.3)."""
    return "transfer-encoding" in headers or headers.one("content-length") not in {None, "0"}


def complete_headers(response: Response, method: str, *, unread: bool) -> list[tuple[str, str]]:
    """Return the header fields of a final response, with those that its body needs."""
    headers = list(response.headers.items())
    # 204 has no content, and what HEAD would have to name is the length of the upload.
    if response.status != 204 and method != "HEAD":  # noqa: PLR2004
        headers.append(("content-length", str(len(response.body))))
    if unread and "Connection" not in response.headers:
        headers.append(("connection", "close"))
    return headers


def unavailable() -> Response:
    """Build the answer of a server that would rather end the connection."""
    return Response(503, {"Retry-After": "1", "Connection": "close"})


def _raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]


class AsgiExchange:
    """Adapt an ASGI request (Exchange)."""

    def __init__(
        self, scope: Scope, receive: AsgiReceive, send: Send, *, chunk_size: int, stall: float
    ) -> None:
        """Move the body as `Body` does."""
        self.headers = Headers(scope["headers"])
        self._extensions = scope.get("extensions") or {}
        self.can_trail = TRAILERS in self._extensions
        self._method = scope["method"]
        self._receive = receive
        self._send = send
        self._body = Body(self._receive_piece, chunk_size=chunk_size, stall=stall)
        self._responded = False

    @property
    def trailers(self) -> Headers:
        whole = self._body.ended is BodyEnd.DONE
        return Headers(self._extensions.get(TRAILERS, {}).get("fields", ()) if whole else ())

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        return await self._body.move(sink, limit, stop)

    async def _receive_piece(self) -> tuple[bytes, BodyEnd | None]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return b"", BodyEnd.DISCONNECTED
        return message.get("body", b""), None if message.get("more_body") else BodyEnd.DONE

    async def interim(self, response: Response) -> None:
        gone = self._body.ended is BodyEnd.DISCONNECTED
        if INFORMATIONAL not in self._extensions or self._responded or gone:
            return
        raw = _raw(response.headers.items())
        await self._send({"type": INFORMATIONAL, "status": response.status, "headers": raw})

    async def cut(self) -> None:
        if CUT not in self._extensions:
            await self.respond(unavailable())
            return
        self._responded = True
        await self._send({"type": CUT})
        await self._body.forget()

    async def respond(self, response: Response) -> None:
        self._responded = True
        unread = self._body.ended is None and expects_body(self.headers)
        raw = _raw(complete_headers(response, self._method, unread=unread))
        await self._send({"type": "http.response.start", "status": response.status, "headers": raw})
        if unread:
            await self._send(
                {"type": "http.response.body", "body": response.body, "more_body": True}
            )
            await self._body.drain()
        await self._send({"type": "http.response.body", "body": b"" if unread else response.body})
        await self._body.forget()
