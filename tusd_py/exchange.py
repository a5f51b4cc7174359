"""One request and its answer, as `uploads.carry_out` sees them: headers in, body moved, response.

`AsgiExchange` works under any ASGI server.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from anyio import to_thread

from tusd_py.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from storage.interfaces import Sink
    from tusd_py.protocol import Response

T = TypeVar("T")

# Seconds after which bytes that trickle in are handed on, so that progress shows and a crash
# costs a slow client little.
_PULSE = 1.0
# What is read of a body nobody wants, so that the client sees the answer and not a reset.
_DRAIN_BYTES = 256 * 1024
_DRAIN_SECONDS = 1.0


async def run_to_the_end(step: Callable[..., T], *args: Any) -> T:
    """Run a step in a thread; a request that is cancelled meanwhile waits until it has ended.

    Nobody may close a file, or let go of an upload, under a system call that still runs.
    """
    task = asyncio.create_task(to_thread.run_sync(step, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        raise


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


class Exchange(Protocol):
    """Give a request's headers, move its body and take its response."""

    @property
    def headers(self) -> Headers:
        """The request's header fields."""

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        """Move up to `limit` bytes of the body to the sink.

        Whatever the answer, every byte taken from the peer was written, and no system call on
        the sink is still running. Errors of the sink come through. A `limit` of 0 finds out
        whether there is more.
        """

    async def respond(self, response: Response) -> None:
        """Send the final response; what is left of the body is not waited for."""


class AsgiExchange:
    """Adapt an ASGI request (Exchange)."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, chunk_size: int, stall: float
    ) -> None:
        """Gather `chunk_size` bytes a write; a body that brings nothing for `stall` s stalls."""
        self.headers = Headers(scope["headers"])
        self._method = scope["method"]
        self._receive = receive
        self._send = send
        self._chunk_size = chunk_size
        self._stall = stall
        self._left = b""
        self._ended = False
        self._receiving: asyncio.Task[Any] | None = None
        self._end = BodyEnd.DONE

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
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
            elif end is None and self._ended:
                end = self._end
            if gathered >= self._chunk_size or end is not None:
                await run_to_the_end(sink.write, batch)
                batch, gathered = [], 0
        return end

    async def _fill(self, stopped: asyncio.Task[Any], pulse: float | None) -> BodyEnd | None:
        """Wait for the next piece; return why there is none."""
        if self._ended:
            return self._end
        if stopped.done():
            # Asked first: a fast sender always has something ready.
            return BodyEnd.STOPPED
        if self._receiving is None:
            # Kept over calls: a receive that is cancelled could lose what it had in hand.
            self._receiving = asyncio.create_task(self._receive_piece())
        now = asyncio.get_running_loop().time()
        timeout = self._stall if pulse is None else max(0.0, pulse - now)
        await asyncio.wait(
            {self._receiving, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if self._receiving.done():
            task, self._receiving = self._receiving, None
            task.result()
            return None
        if stopped.done():
            return BodyEnd.STOPPED
        return BodyEnd.STALLED if pulse is None else BodyEnd.MORE

    async def _receive_piece(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._ended, self._end = True, BodyEnd.DISCONNECTED
            return
        self._left = message.get("body", b"")
        self._ended = not message.get("more_body", False)

    async def respond(self, response: Response) -> None:
        unread = not self._ended and self._expects_body()
        headers = [(name.lower(), value) for name, value in response.headers.items()]
        # 204 has no content, and what HEAD would have to name is the length of the upload.
        if response.status != 204 and self._method != "HEAD":  # noqa: PLR2004
            headers.append(("content-length", str(len(response.body))))
        if unread:
            headers.append(("connection", "close"))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": response.status, "headers": raw})
        if unread:
            await self._send(
                {"type": "http.response.body", "body": response.body, "more_body": True}
            )
            await self._drain()
        await self._send({"type": "http.response.body", "body": b"" if unread else response.body})
        await self._forget_receive()

    def _expects_body(self) -> bool:
        length = self.headers.one("content-length")
        return "transfer-encoding" in self.headers or length not in {None, "0"}

    async def _drain(self) -> None:
        """Read a little of what nobody wants: closing on unread bytes would reset the answer."""
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0 and not self._ended:
                    if self._receiving is None:
                        self._receiving = asyncio.create_task(self._receive_piece())
                    await asyncio.shield(self._receiving)
                    self._receiving = None
                    left -= max(1, len(self._left))
        except TimeoutError:
            pass

    async def _forget_receive(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait({self._receiving})
