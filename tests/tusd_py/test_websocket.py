"""The WebSocket protocol class ends what uvicorn's would keep."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from tests.acceptance.process import eventually
from tests.acceptance.raw import Connection
from tests.tusd_py.test_ingest import listening
from tusd_py.crowd import Crowd
from tusd_py.exchange import CUT
from tusd_py.ingest import HttpProtocol
from tusd_py.websocket import WebSocketProtocol, be_patient, let_go

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class App:
    """Serve sockets as the path says, and note how each ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.held = threading.Event()
        self.server: uvicorn.Server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        verb = scope["path"].split("/")[1]
        if verb == "refuse":
            await send({"type": "websocket.http.response.start", "status": 410, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"gone"})
            return
        await send({"type": "websocket.accept"})
        gone = asyncio.create_task(self._gone(receive))
        if verb == "cut":
            await send({"type": CUT})
        while verb == "flood" and not gone.done():
            try:
                async with asyncio.timeout(0.2):
                    await send({"type": "websocket.send", "text": "x" * 4096})
            except (TimeoutError, OSError):
                self.held.set()
        await gone
        self.ended.append(verb)

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass


@contextmanager
def serving(**options: Any) -> Iterator[tuple[App, int]]:
    app = App()
    options = {"http": HttpProtocol, "ws": WebSocketProtocol, "lifespan": "off", **options}
    config = uvicorn.Config(app, log_config=None, **options)
    app.server = uvicorn.Server(config)
    with listening(app.server) as port:
        yield app, port


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[App, int]]:
    with serving() as one:
        yield one


def test_a_refusal_of_the_app_is_whole_and_no_error(
    served: tuple[App, int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{served[1]}/refuse/ws")
    assert (refused.value.response.status_code, refused.value.response.body) == (410, b"gone")
    assert "handshake" not in caplog.text


def test_what_is_no_handshake_is_refused(served: tuple[App, int]) -> None:
    with Connection(served[1]) as connection:
        version = {**HANDSHAKE, "Sec-WebSocket-Version": "1"}
        assert connection.request("GET", "/stay/ws", version).status == 400
    with Connection(served[1]) as connection:
        key = {**HANDSHAKE, "Sec-WebSocket-Key": "x"}
        assert connection.request("GET", "/stay/ws", key).status == 400


def test_a_cut_is_no_closing_handshake(served: tuple[App, int]) -> None:
    app, port = served
    with connect(f"ws://127.0.0.1:{port}/cut/ws") as client, pytest.raises(ConnectionClosedError):
        client.recv(60)
    eventually(lambda: "cut" in app.ended, "end")


def test_a_request_on_a_used_connection_may_become_a_socket(served: tuple[App, int]) -> None:
    with Connection(served[1]) as connection:
        assert connection.request("GET", "/stay/ws", {**HANDSHAKE}).status == 101


def test_who_takes_nothing_is_held_up_and_ended_by_its_missing_pong() -> None:
    with serving(ws_ping_interval=2.0, ws_ping_timeout=2.0) as (app, port):
        with Connection(port) as connection:
            connection.begin("GET", "/flood/ws", HANDSHAKE)
            assert app.held.wait(60)
            eventually(lambda: "flood" in app.ended, "end")
        assert not app.server.server_state.connections


def test_who_watches_makes_place_for_others_where_there_are_too_many() -> None:
    with (
        serving(http=partial(HttpProtocol, crowd=Crowd(1))) as (app, port),
        connect(f"ws://127.0.0.1:{port}/stay/ws") as watching,
        Connection(port) as other,
    ):
        assert other.request("GET", "/stay/ws", HANDSHAKE).status == 101
        with pytest.raises(ConnectionClosedError):
            watching.recv(60)
        eventually(lambda: app.ended == ["stay"], "end")


@pytest.mark.anyio
async def test_patience_has_an_end_by_tcp_and_is_not_asked_for_elsewhere() -> None:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    tcp = socket.create_server(("127.0.0.1", 0))
    client, _ = await loop.create_connection(asyncio.Protocol, *tcp.getsockname())
    local, _ = await loop.create_unix_connection(asyncio.Protocol, sock=here)
    for transport in (client, local):
        be_patient(transport, 60.0)
        assert transport.get_write_buffer_limits()[1] == 16 * 1024
    found = client.get_extra_info("socket")
    assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    # What waits to be sent is given up, as nobody takes it.
    local.write(b"x" * 2**24)
    let_go(local)
    let_go(client)
    assert local.is_closing()
    assert not local.get_write_buffer_size()
    await asyncio.sleep(0)
    there.close()
    tcp.close()
