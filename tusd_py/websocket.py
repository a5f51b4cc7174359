"""uvicorn's WebSocket protocol class, with what it lacks: bounds, and an end for who vanished."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tusd_py.crowd import Use
from tusd_py.exchange import CUT

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.http11 import Request

# Seconds until a connection ends whose peer takes nothing of what was sent.
_PATIENCE = 60.0
# Bytes that wait to be sent, beyond which the app has to wait; and those that the kernel keeps, of
# which it would keep megabytes that are old when they are read.
_HIGH_WATER = 16 * 1024
_KERNEL = 32 * 1024


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Serve one connection that goes on as a WebSocket."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Serve as uvicorn's own class does, but log nothing of every connection."""
        super().__init__(config, server_state, app_state, _loop)
        self.logger = self.conn.logger = logging.getLogger("uvicorn.access")
        self._since = self.loop.time()

    @property
    def idle(self) -> tuple[Use, float] | None:
        """Tell what it is good for, and since when it is here (tusd_py.crowd.Guest)."""
        return None if self.transport.is_closing() else (Use.WATCHED, self._since)

    def leave(self) -> None:
        """Close; there is nobody to tell why."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        be_patient(transport, _PATIENCE)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_complete:
            # It was refused.
            return
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[CUT] = {}

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        let_go(self.transport)

    async def send(self, message: Any) -> None:
        """Take a message of the app."""
        if message["type"] == CUT:
            self.transport.abort()
            return
        await super().send(message)
        # A refusal of the app's; uvicorn would miss an answer.
        self.handshake_complete = self.handshake_complete or self.close_sent


def be_patient(transport: asyncio.Transport, seconds: float) -> None:
    """End a connection when nothing that was sent is taken for so long; keep little that waits."""
    transport.set_write_buffer_limits(_HIGH_WATER)
    carrier = transport.get_extra_info("socket")
    carrier.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL)
    # Not TCP: it is on this machine, where nobody vanishes without a trace.
    with suppress(OSError):
        milliseconds = int(seconds * 1000)
        carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def let_go(transport: asyncio.Transport) -> None:
    """Close at once, though what was sent may never be taken."""
    if transport.get_write_buffer_size():
        transport.abort()
    else:
        transport.close()
