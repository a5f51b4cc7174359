"""One web process: uvicorn with our protocol class, and what it lacks."""

from __future__ import annotations

import asyncio
import gc
import select
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from tusd_py import log
from tusd_py.app import create_app
from tusd_py.cli.limits import Exhaustion, how_many_connections
from tusd_py.crowd import Crowd
from tusd_py.ingest import HttpProtocol
from tusd_py.websocket import WebSocketProtocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import FrameType

    from settings import Settings

# What is asked to stop answers within a moment; only a stuck client is waited for so long.
GRACE_SECONDS = 10
# No honest client takes so long to say what it wants.
HEAD_SECONDS = 60
_SWITCH_SECONDS = 0.001
# Objects, and generations, between two looks for cycles.
_GC = (20_000, 20, 20)
# Bytes of one message that comes by a WebSocket.
_WORDS = 4096
# Connections that are taken at once where another process does not take them.
_MOST = 64


def serve(
    settings: Settings,
    serving: Callable[[], object],
    sockets: list[socket.socket],
    others: Sequence[socket.socket] = (),
) -> None:
    """Serve on `sockets` until a signal asks to stop; call `serving` as soon as it does.

    `others` are those of the other web processes, at which nobody shall wait in vain.
    """
    app = create_app(settings)
    head_timeout = min(HEAD_SECONDS, settings.upload_timeout_seconds)
    crowd = Crowd(how_many_connections())
    config = uvicorn.Config(
        app,
        # uvicorn only calls it.
        http=partial(  # type: ignore[arg-type]
            HttpProtocol, head_timeout=head_timeout, front=app.state.front, crowd=crowd
        ),
        loop="uvloop",
        ws=WebSocketProtocol,
        # Nobody has anything to say there.
        ws_max_size=_WORDS,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config, serving, app.state.shutdown, others).run(sockets)


class Server(uvicorn.Server):
    """Say when it listens, tell running requests when it is to stop, and stand in for others."""

    def __init__(
        self,
        config: uvicorn.Config,
        serving: Callable[[], object],
        stopping: Callable[[], object],
        others: Sequence[socket.socket] = (),
    ) -> None:
        """Call `serving` once it listens, and `stopping` in its loop when it is to end."""
        super().__init__(config)
        self._serving = serving
        self._stopping = stopping
        self._others = Neighbours(others)
        self._exhaustion = Exhaustion()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        # What is here now stays, and requests leave few cycles behind: no need to look often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC)
        # A thread that computes gives way to the event loop sooner than Python would have it.
        sys.setswitchinterval(_SWITCH_SECONDS)
        log.settle()
        self._serving()

    async def on_tick(self, counter: int) -> bool:
        self._exhaustion.look()
        for connection in self._others.waiting():
            with suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(self._speak, connection)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Their sockets are open as long as anybody has them: clients would wait there in vain.
        self._others.close()
        await super().shutdown(sockets)

    def _speak(self) -> asyncio.Protocol:
        speaker = self.config.http_protocol_class
        protocol: asyncio.Protocol = speaker(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # uvicorn waits for running requests before it ends the lifespan: a body would go on.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping)


class Neighbours:
    """Find who waits at the sockets of other processes that do not come: stopped, dead or stuck."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        """Take sockets that listen, and that other processes are to serve."""
        self._sockets = {one.fileno(): one for one in sockets}
        self._poll = select.poll()
        for number, one in self._sockets.items():
            one.setblocking(False)
            self._poll.register(number, select.POLLIN)
        self._before: set[int] = set()

    def waiting(self) -> list[socket.socket]:
        """Accept where somebody waits that waited, or another one, when this was asked before."""
        now = {number for number, _ in self._poll.poll(0)}
        late, self._before = now & self._before, now
        return [connection for number in late for connection in _accept(self._sockets[number])]

    def close(self) -> None:
        """Leave them to the others."""
        for one in self._sockets.values():
            one.close()


def _accept(listening: socket.socket) -> list[socket.socket]:
    accepted: list[socket.socket] = []
    # Meanwhile its own process may have come.
    with suppress(OSError):
        while len(accepted) < _MOST:
            connection, _ = listening.accept()
            connection.setblocking(False)
            accepted.append(connection)
    return accepted
