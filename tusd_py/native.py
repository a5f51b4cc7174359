"""Requests carried out inside uvicorn's protocol class, past ASGI and the routes.

`Front` says which; they are the same ones, carried out by the same coroutine, as the app's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from storage.bell import Bell
from tusd_py.exchange import GRACE_SECONDS, Body, BodyEnd, complete_headers
from tusd_py.framing import build_head
from tusd_py.headers import Headers
from tusd_py.request_id import RequestIds
from tusd_py.straight import Straight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from storage.interfaces import FileSink, Sink
    from tusd_py.ingest import HttpProtocol
    from tusd_py.protocol import Response
    from tusd_py.receiver import Receiver

    Handle = Callable[["NativeExchange"], Awaitable[None]]

log = structlog.get_logger()

# A body of at most so many bytes is waited for a moment, lest each piece of it take its own way.
_SMALL = 64 * 1024
# Of which at least so much is to come takes the straight way to its file.
_LARGE = 128 * 1024


@dataclass(frozen=True, slots=True)
class Front:
    """Tell the protocol class what it may do without the app.

    `find` returns what carries out a request of a method and a target, or None where the app shall.
    `cors` returns what a page of another origin needs in an answer. Bodies move as `Body` does,
    large ones by `receiver` if there is one.
    """

    find: Callable[[bytes, bytes], Handle | None]
    cors: Callable[[Headers], Sequence[tuple[str, str]]]
    chunk_size: int
    stall: float
    receiver: Receiver | None = None
    ids: RequestIds = field(default_factory=RequestIds)


class NativeExchange:
    """Adapt a request as the parser tells it (tusd_py.exchange.Exchange).

    To uvicorn's protocol class it is the cycle of this request: `body`, `more_body`,
    `message_event` and what follows are what that looks at.
    """

    can_trail = True

    def __init__(
        self,
        protocol: HttpProtocol,
        front: Front,
        method: str,
        headers: Headers,
        trailers: Sequence[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
    ) -> None:
        """Take the list to which trailer fields will be added."""
        self.method = method
        self.headers = headers
        self.where = protocol.where
        self.body = bytearray()
        self.more_body = True
        self.response_started = self.response_complete = self.disconnected = False
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = protocol.expect_100_continue
        self.message_event = Bell()
        self._protocol = protocol
        self._transport = protocol.transport
        self._front = front
        self._trailers = trailers
        self._later: Body | None = None
        self._straight: Straight | None = None
        self._ended: BodyEnd | None = None
        self._broken = self._late = False
        self._name = ""
        self._length = int(headers.one("content-length") or 0)

    @property
    def trailers(self) -> Headers:
        return Headers(self._trailers if self._body_end is BodyEnd.DONE else ())

    @property
    def _body_end(self) -> BodyEnd | None:
        return self._ended if self._later is None else self._later.ended

    @property
    def is_large(self) -> bool:
        """Tell whether the body may go straight to a file: no parser need read it."""
        # One in chunks has no length, and one in TLS has other bytes on the wire.
        there = self._front.receiver is not None and self.where["scheme"] == "http"
        return there and self._length >= _LARGE

    # What the protocol class calls

    async def run_asgi(self, handle: Handle) -> None:
        """Carry the request out."""
        self._name = self._front.ids.begin(self.headers)
        try:
            await handle(self)
        except Exception:
            log.exception("request.broke")
        if self._straight is not None:
            self._straight.close()
        # Circles would stay until the collector comes.
        self._later = self._straight = None
        if self.disconnected:
            self._protocol.let_go()
        elif not self.response_complete:
            self._transport.close()

    def break_off(self) -> None:
        """End the body where it is: what follows cannot be read."""
        self._broken = True
        self.message_event.set()

    # The body

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        if self._later is None and self._straight is None:
            if self.more_body and 0 < limit <= _SMALL:
                await self._await_small()
            if not self.more_body and self._take_whole(sink, limit):
                return BodyEnd.DONE
            self._choose_way(sink)
        if self._later is not None:
            return await self._later.move(sink, limit, stop)
        return await self._move_straight(sink, limit, stop)

    def _choose_way(self, sink: Sink) -> None:
        front, here = self._front, len(self.body)
        apt = self.is_large and self._length - here >= _LARGE and not self._is_over()
        receiver = front.receiver if apt else None
        # To ask a protocol for all of its methods costs more than all else here.
        if receiver is None or not receiver.has_room or not hasattr(sink, "splice"):
            self._later = Body(self._receive, chunk_size=front.chunk_size, stall=front.stall)
            return
        self._protocol.flow.pause_reading()
        self._say_continue()
        connection = self._transport.get_extra_info("socket").fileno()
        self._straight = Straight(receiver, connection, self.body, self._length, front.stall)

    async def _move_straight(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        assert self._straight is not None  # noqa: S101  for mypy
        end = await self._straight.move(cast("FileSink", sink), limit, stop)
        if end is BodyEnd.DONE:
            self._ended = end
            self._protocol.pass_body()
        elif end is BodyEnd.DISCONNECTED:
            self._protocol.eof_received()
        return end

    def _take_whole(self, sink: Sink, limit: int) -> bool:
        """Take a body that is here to its end, without a detour."""
        if len(self.body) > limit or not sink.take([bytes(self.body)]):
            return False
        self.body = bytearray()
        self._ended = BodyEnd.DONE
        return True

    async def _await_small(self) -> None:
        if self._has_come():
            return
        timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._is_late)
        self._ask_for_more()
        while not self._has_come() and not self._late:
            self.message_event.clear()
            await self.message_event.wait()
        timer.cancel()

    def _is_late(self) -> None:
        self._late = True
        self.message_event.set()

    def _has_come(self) -> bool:
        return not self.more_body or self._is_over()

    def _is_over(self) -> bool:
        return self.disconnected or self._broken

    def _ask_for_more(self) -> None:
        self._say_continue()
        self._protocol.flow.resume_reading()

    def _say_continue(self) -> None:
        if self.waiting_for_100_continue and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.waiting_for_100_continue = False

    async def _receive(self) -> tuple[bytes, BodyEnd | None]:
        """Return the next part: all that came, before the peer's end is told."""
        while not self.body and not self._has_come():
            self._ask_for_more()
            self.message_event.clear()
            await self.message_event.wait()
        body, self.body = bytes(self.body), bytearray()
        if not self.more_body:
            return body, BodyEnd.DONE
        return body, None if body else BodyEnd.DISCONNECTED

    # The answer

    async def interim(self, response: Response) -> None:
        # One that does not read gets no news, rather than holding up its own upload.
        deaf = self._protocol.flow.write_paused or self._protocol.parser.get_http_version() == "1.0"
        if deaf or self.response_started or self._is_over():
            return
        raw = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
        self._transport.write(build_head(response.status, raw))

    async def cut(self) -> None:
        self.disconnected = True
        self._protocol.pipeline.clear()
        self._transport.close()
        await self._forget()

    async def respond(self, response: Response) -> None:
        if self._protocol.flow.write_paused and not self.disconnected:
            await self._protocol.flow.drain()
        if self._later is not None or self._straight is not None:
            await self._forget()
        if self.disconnected:
            return
        if self._broken:
            self.disconnected = True
            self._protocol.send_refusal()
            return
        self.response_started = True
        self._transport.write(self._build(response))
        self.response_complete = True
        if not self.keep_alive and not self.more_body:
            self._transport.close()
        self._protocol.on_response_complete()

    async def _forget(self) -> None:
        if self._straight is not None:
            self._straight.close()
        if self._later is not None:
            await self._later.forget()

    def _build(self, response: Response) -> bytes:
        fields = complete_headers(response, self.method, unread=self.more_body)
        fields.append(("x-request-id", self._name))
        if "origin" in self.headers:
            fields += self._front.cors(self.headers)
        closing = self.more_body or response.headers.get("Connection") == "close"
        self.keep_alive = self.keep_alive and not closing
        if not self.keep_alive and not closing:
            fields.append(("connection", "close"))
        head = ""
        for name, value in fields:
            head += f"{name.lower()}: {value}\r\n"
        if head.count("\n") != len(fields) or head.count("\r") != len(fields):
            raise RuntimeError(f"expected header fields of a line each, got {fields}")
        before = STATUS_LINE[response.status]
        for default in self._protocol.server_state.default_headers:
            before += b"%b: %b\r\n" % default
        body = b"" if self.method == "HEAD" else response.body
        return b"%b%b\r\n%b" % (before, head.encode("latin-1"), body)
