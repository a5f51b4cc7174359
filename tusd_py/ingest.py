"""uvicorn's HTTP protocol class, with what it lacks: bounds, 1xx, trailers, cuts, kept bytes.

It reads HTTP/1.1 as RFC 9112 has it; what is no such request is refused here, before any app.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tusd_py.crowd import Use
from tusd_py.exchange import CUT, INFORMATIONAL, PATIENCE, TRAILERS
from tusd_py.framing import HEAD_MOST, Refused, build_head, check_head, head_too_long
from tusd_py.headers import Headers
from tusd_py.native import NativeExchange
from tusd_py.websocket import be_patient, let_go

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from tusd_py.crowd import Crowd
    from tusd_py.native import Front, Handle

# What is read of a request that was refused, so that the peer sees the answer and not a reset.
_LINGER_BYTES = 256 * 1024
_LINGER_SECONDS = 1.0
# How the paths end at which a WebSocket may be asked for.
_SOCKETS = b"/ws"
# A clock that is rounded may show so much less.
_MOMENT = 0.005


class HttpProtocol(HttpToolsProtocol):
    """Serve one connection.

    A request that cannot be read is answered after those before it, then the connection ends.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_timeout: float = 60.0,
        front: Front | None = None,
        crowd: Crowd | None = None,
    ) -> None:
        """Wait at most `head_timeout` seconds for a request to tell what it wants.

        What `front` finds is carried out here; the app does the rest. `crowd` bounds how many
        connections there are.
        """
        super().__init__(config, server_state, app_state, _loop)
        self._served: ASGIApp = config.loaded_app
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        # Bytes of the head, or of the trailers, so far; and since the parser last told anything.
        self._head = self._silent = 0
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._request: _Request | NativeExchange | None = None
        self._front = front
        self._crowd = crowd
        self._since = self.loop.time()
        self._in_body = False
        self._refused: Refused | None = None
        self._linger_left: int | None = None
        self._idle_since: float | None = None
        self._at_end = self._is_watched = False
        # What an ASGI scope says of every request of a connection.
        self.where: Mapping[str, Any] = {}

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.where = {
            "scheme": self.scheme,
            "root_path": self.root_path,
            "client": self.client,
        }
        # uvicorn keeps there what its `http` option makes.
        guests: Any = self.connections
        if self._crowd is None or self._crowd.admits(self, guests):
            self._await_head()
        else:
            full = "expected fewer connections: try again"
            self._refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, full))

    @property
    def idle(self) -> tuple[Use, float] | None:
        """Tell what it is good for, and since when it is here (tusd_py.crowd.Guest)."""
        if self._refused is not None or self.transport.is_closing():
            return None
        if self._is_busy():
            return (Use.WATCHED, self._since) if self._is_watched else None
        return (Use.NOTHING if self._request is None else Use.ANSWERED), self._since

    def leave(self) -> None:
        """Close; there is nobody to tell why."""
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if not self._is_busy():
            self.let_go()

    def let_go(self) -> None:
        """Keep nothing of a request when the connection is gone: in a circle it would stay."""
        self.app = self.cycle = self._request = None  # type: ignore[assignment]

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer what has arrived: a peer that has said all may still listen."""
        self._at_end = True
        if self._linger_left is not None or self.scheme == "https":
            return None
        if self._in_body:
            self._refuse(Refused(HTTPStatus.BAD_REQUEST, "the body ended before its length"))
        elif self._is_busy():
            self.cycle.keep_alive = False
        return self._is_busy() and not self._is_watched

    def be_watched(self, seconds: float) -> None:
        """Let go of a peer that goes, or takes nothing for so long, though it has no answer yet."""
        self._is_watched = True
        be_patient(self.transport, seconds)

    def data_received(self, data: bytes) -> None:
        if self._linger_left is not None:
            self._linger_left -= len(data)
            if self._linger_left <= 0:
                self.transport.close()
            return
        if self._refused is not None:
            return
        self._idle_since = None
        self._silent += len(data)
        try:
            self._feed(memoryview(data))
            if self._silent > HEAD_MOST:
                self._refuse_silence()
        except Refused as refused:
            self._refuse(refused)
        except httptools.HttpParserError as error:
            cause = error.__context__
            bad = Refused(HTTPStatus.BAD_REQUEST, f"expected an HTTP/1.1 request: {error}")
            self._refuse(cause if isinstance(cause, Refused) else bad)
        else:
            if not self._in_body and (self._head or self._silent):
                self._await_head()

    def _feed(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self._cancel_timers()
                    self.handle_websocket_upgrade()
                    self.let_go()
                    return
                data = data[upgrade.args[0] :]
                self._read_as_plain()
            else:
                return

    def _read_as_plain(self) -> None:
        """Read a request again without its wish to go on in a protocol that we do not speak.

        It may be ignored (RFC 9110, section 7.8), but the parser would take the body for that.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self._parse_anew()
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _parse_anew(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _should_upgrade(self) -> bool:
        # Where no socket is, the wish is ignored.
        is_there = self.url.partition(b"?")[0].endswith(_SOCKETS)
        asks = is_there and self.parser.get_method() == b"GET" and not self._is_busy()
        return asks and super()._should_upgrade()

    def _is_busy(self) -> bool:
        """Tell whether a request still has to be answered."""
        return self._request is not None and not self.cycle.response_complete

    # What the parser tells

    def on_message_begin(self) -> None:
        # As uvicorn does, but for the scope: only the app wants one.
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._head = self._silent = 0
        self._trailers = None

    def on_url(self, url: bytes) -> None:
        self._silent = 0
        self._head += len(url)
        if self._head > HEAD_MOST:
            raise head_too_long()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._silent = 0
        self._head += len(name) + len(value) + 4
        if self._head > HEAD_MOST:
            raise head_too_long()
        if self._trailers is None:
            self.headers.append((name.lower(), value))
        else:
            # The request has been read: nothing that comes now changes what it said.
            self._trailers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._head_timer is not None:
            self._cancel_timers()
        self._head = self._silent = 0
        method, version = self.parser.get_method(), self.parser.get_http_version()
        headers = Headers(self.headers)
        self.expect_100_continue = check_head(method, version, headers)
        upgrades = self.parser.should_upgrade()
        if upgrades and not self._should_upgrade():
            return
        trailers: list[tuple[bytes, bytes]] = []
        self._trailers = trailers
        if self._front is not None and not upgrades:
            handle = self._front.find(method, self.url)
            if handle is not None:
                keep_alive = version != "1.0" and self.parser.should_keep_alive()
                exchange = NativeExchange(
                    self, self._front, method.decode(), headers, trailers, keep_alive=keep_alive
                )
                self._carry_out(exchange, handle)
                return
        self._hand_over()

    def _carry_out(self, exchange: NativeExchange, handle: Handle) -> None:
        """Begin a request here, in its turn."""
        before: Any = self.cycle
        # uvicorn only looks at what both have, and calls `run_asgi` with the second.
        self.cycle = self._request = exchange  # type: ignore[assignment]
        self._in_body = True
        turn: Any = (exchange, handle)
        if exchange.is_large:
            self.flow.pause_reading()
        if before is None or before.response_complete:
            self._start_asgi_task(*turn)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(turn)

    def _hand_over(self) -> None:
        """Begin a request of the app's."""
        came = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = came
        self.scope["headers"] = self.headers
        self.scope["extensions"] = {CUT: {}, PATIENCE: {}, TRAILERS: {"fields": self._trailers}}
        if self.parser.get_http_version() != "1.0":
            self.scope["extensions"][INFORMATIONAL] = {}
        self.app = request = _Request(self, self._served)
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            request.cycle, self._request, self._in_body = self.cycle, request, True

    def on_chunk_header(self) -> None:
        """Note that a chunk begins."""
        self._silent = 0

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and not self._should_upgrade():
            return
        self._head = self._silent = 0
        self._in_body = False
        super().on_message_complete()

    def pass_body(self) -> None:
        """Go on behind a body whose rest somebody took from the connection past the parser."""
        self._parse_anew()
        self.on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._await_request()
        if self.pipeline:
            # As many wait as came at once, not as many as a peer cares to send.
            self.flow.pause_reading()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._linger()
        elif self._refused is not None and not self._is_busy():
            self.send_refusal()

    def _refuse_silence(self) -> None:
        if self._in_body and not self._head:
            raise Refused(HTTPStatus.BAD_REQUEST, "expected a chunk, got endless extensions of one")
        raise head_too_long()

    # Refusals

    def _refuse(self, refused: Refused) -> None:
        """Answer with a refusal when it is its turn; nothing that comes after it is read."""
        self._refused = refused
        if self._request is not None and self._in_body and self._is_busy():
            self._request.break_off()
        elif not self._is_busy():
            self.send_refusal()

    def send_refusal(self) -> None:
        """Write the refusal and end the connection."""
        if self._refused is None or self.transport.is_closing():
            return
        body = b"" if self.parser.get_method() == b"HEAD" else f"{self._refused}\n".encode()
        fields = [
            *self.server_state.default_headers,
            (b"Tus-Resumable", b"1.0.0"),
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", str(len(body)).encode()),
            (b"Connection", b"close"),
            *self._fields_of_front(),
        ]
        if self._refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
            fields.append((b"Retry-After", b"1"))
        self.transport.write(build_head(self._refused.status, fields) + body)
        self._linger()

    def _fields_of_front(self) -> list[tuple[bytes, bytes]]:
        """Name the request, and let a page of another origin read why it was refused."""
        if self._front is None:
            return []
        # As far as the head was read.
        headers = Headers(self.headers or ())
        fields = [(b"X-Request-ID", self._front.ids.begin(headers).encode())]
        if "origin" in headers:
            fields += [(one.encode(), value.encode()) for one, value in self._front.cors(headers)]
        return fields

    def _linger(self) -> None:
        """Close, but read a little first: closing on unread bytes would reset the answer."""
        self._cancel_timers()
        self._unset_keepalive_if_required()
        if self._at_end or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._linger_left = _LINGER_BYTES
        self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        self.transport.write_eof()
        self.flow.resume_reading()

    # Time

    def _await_request(self) -> None:
        self._idle_since = self.loop.time()
        # One timer looks now and then; to set one at each answer would cost more than some answers.
        if self.timeout_keep_alive_task is None:
            wait = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(wait, self._look_for_requests)

    def _look_for_requests(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                left + _MOMENT, self._look_for_requests
            )

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_busy():
            self._await_head()
        elif self._head or self._silent:
            late = "expected the whole head of a request, got a part of it"
            self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, late))
        else:
            self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._linger_timer = None


class _Request:
    """Run the app on one request: the ASGI app that uvicorn's cycle calls."""

    cycle: RequestResponseCycle

    def __init__(self, protocol: HttpProtocol, app: ASGIApp) -> None:
        self._protocol = protocol
        self._app = app
        self._broken = self._ended = self._endless = False

    def break_off(self) -> None:
        """End the body where it is: what follows cannot be read."""
        self._broken = True
        self.cycle.message_event.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with what uvicorn's `receive` and `send` lack."""
        self._receive, self._send = receive, send
        try:
            await self._app(scope, self.receive, self.send)
        finally:
            if self.cycle.disconnected:
                self._protocol.let_go()

    async def receive(self) -> Message:
        """Return the next part of the body: all that came, before the peer's end is told."""
        if self._broken and not self.cycle.body:
            return {"type": "http.disconnect"}
        message = await self._receive()
        cycle = self.cycle
        left = cycle.body or not (cycle.more_body or self._ended)
        if message["type"] == "http.disconnect" and left and not cycle.response_complete:
            message = {
                "type": "http.request",
                "body": bytes(cycle.body),
                "more_body": cycle.more_body,
            }
            cycle.body = bytearray()
        self._ended = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Take a message of the app."""
        cycle = self.cycle
        if message["type"] == INFORMATIONAL:
            self._inform(message)
        elif message["type"] == CUT:
            self._cut()
        elif message["type"] == PATIENCE:
            self._protocol.be_watched(message["seconds"])
        elif self._broken and not cycle.response_started:
            self._swallow(message)
        else:
            if cycle.scope["http_version"] == "1.0":
                self._end_by_closing(message)
            await self._send(self._closing(message))

    def _end_by_closing(self, message: Message) -> None:
        """Send what has no length without chunks: HTTP/1.0 has none (RFC 9112, section 6.1)."""
        cycle = self.cycle
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message["headers"]):
                self._endless, cycle.keep_alive = True, False
                cycle.chunked_encoding, cycle.expected_content_length = False, sys.maxsize
        elif self._endless and not message.get("more_body", False):
            cycle.expected_content_length = len(message.get("body", b""))

    def _inform(self, message: Message) -> None:
        cycle = self.cycle
        # One that does not read gets no news, rather than holding up its own upload.
        if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
            return
        if cycle.scope["http_version"] != "1.0" and not self._broken:
            cycle.transport.write(build_head(message["status"], message["headers"]))

    def _cut(self) -> None:
        self.cycle.disconnected = True
        self._protocol.pipeline.clear()
        let_go(self.cycle.transport)

    def _swallow(self, message: Message) -> None:
        """Answer with the refusal once the app has done what it could."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.cycle.disconnected = True
            self._protocol.send_refusal()

    def _closing(self, message: Message) -> Message:
        """See that a connection with an unread body ends, and the answer arrives."""
        if self.cycle.more_body:
            # uvicorn would close at once at the last part; the protocol lingers instead.
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            self.cycle.keep_alive = last
        return message
