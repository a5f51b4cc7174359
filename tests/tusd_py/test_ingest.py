"""Exchanges over real connections, under our protocol class and under plain uvicorn (h11)."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.acceptance.process import eventually
from tests.acceptance.raw import Connection
from tests.tusd_py.test_exchange import ListWriter
from tusd_py.cors import Cors
from tusd_py.exchange import PATIENCE, AsgiExchange, BodyEnd
from tusd_py.ingest import HttpProtocol
from tusd_py.native import Front, NativeExchange
from tusd_py.protocol import Response
from tusd_py.receiver import Receiver
from tusd_py.straight import Straight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from storage.interfaces import Writes
    from tusd_py.native import Handle

# More than uvicorn and the kernel buffer while nobody reads.
MUCH = 3 * 2**20


class FileListWriter(ListWriter):
    """Take what a file would (storage.interfaces.FileSink)."""

    direct = False
    skew = 0

    def splice(self, pipe: int, count: int) -> None:
        while count:
            piece = os.read(pipe, count)
            self.write([piece])
            count -= len(piece)

    def write_pages(self, memory: memoryview) -> None:
        self.write([bytes(memory)])

    def begin_pages(self, memory: memoryview, writes: Writes, to_come: int) -> None:
        del writes, to_come
        self.write_pages(memory)

    def end_pages(self, writes: Writes, most: int = 0) -> None:
        assert len(writes) <= most


class App:
    """Do to a request's body what its path says, and remember how it ended."""

    def __init__(self) -> None:
        self.endings: dict[str, tuple[str, int]] = {}
        self.go_on = threading.Event()
        self.server: uvicorn.Server

    def buffered(self, size: int) -> bool:
        """Tell whether some request has so many bytes that nobody asked for yet."""
        cycles = [getattr(one, "cycle", None) for one in list(self.server.server_state.connections)]
        return any(len(cycle.body) == size for cycle in cycles if cycle is not None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for body in (b"without ", b"end"):
                more = body != b"end"
                await send({"type": "http.response.body", "body": body, "more_body": more})
            return
        if scope["path"].startswith("/watch/"):
            await self._be_watched(scope["path"], receive, send)
            return
        moving = AsgiExchange(scope, receive, send, chunk_size=65536, stall=60.0)
        await self.carry_out(scope["path"], moving)

    async def _be_watched(self, path: str, receive: Receive, send: Send) -> None:
        await send({"type": PATIENCE, "seconds": 60.0})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.endings[path] = "gone", 0

    def find(self, method: bytes, target: bytes) -> Handle | None:
        """Take every request to a path (native.Front)."""
        del method
        return partial(self.carry_out, target.decode()) if target.startswith(b"/") else None

    async def carry_out(self, path: str, moving: AsgiExchange | NativeExchange) -> None:
        _, verb, name = [*path.split("/"), ""][:3]
        if verb == "refuse":
            await moving.respond(Response(409, {}, b"no"))
        elif verb == "cut":
            await moving.cut()
        else:
            await self._take(verb, name, moving)

    async def _take(self, verb: str, name: str, moving: AsgiExchange | NativeExchange) -> None:
        while verb == "wait" and not self.go_on.is_set():
            await asyncio.sleep(0.01)
        if verb == "tell":
            await moving.interim(Response(104, {"Location": "/files/x"}))
        writer, end = FileListWriter(), BodyEnd.MORE
        while end is BodyEnd.MORE:
            end = await moving.move_body(writer, 2**20, asyncio.Event())
        self.endings[name] = end.name, writer.offset
        if verb == "tell":
            await moving.interim(Response(104, {"Upload-Offset": str(writer.offset)}))
        said = {"end": end.name, "size": writer.offset, "can_trail": moving.can_trail}
        said |= {"checksum": moving.trailers.one("upload-checksum")}
        said |= {"length": moving.headers.joined("content-length")}
        said |= {"offset": moving.headers.joined("upload-offset")}
        await moving.respond(Response(200, {}, json.dumps(said).encode()))


@contextmanager
def serving(
    http: Any, *, native: bool = False, receiver: Receiver | None = None, keep_alive: int = 5
) -> Iterator[tuple[App, int]]:
    """Run a server in a thread, and return its app and port."""
    app = App()
    front = Front(app.find, Cors("*").fields, 65536, 60.0, receiver)
    http = partial(http, front=front) if native else http
    config = uvicorn.Config(
        app,
        http=http,
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive,
    )
    app.server = uvicorn.Server(config)
    with listening(app.server) as port:
        yield app, port


@contextmanager
def listening(server: uvicorn.Server) -> Iterator[int]:
    """Run a server in a thread, and return its port."""
    on = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([on],))
    thread.start()
    try:
        eventually(lambda: server.started or None, "server")
        yield on.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[App, int]]:
    with serving(HttpProtocol) as one:
        yield one


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[App, int]]:
    with serving(H11Protocol) as one:
        yield one


@pytest.fixture(scope="module")
def native() -> Iterator[tuple[App, int]]:
    with serving(HttpProtocol, native=True) as one:
        yield one


@pytest.fixture(scope="module")
def straight() -> Iterator[tuple[App, int]]:
    """Let each body of which anything is to come take the straight way."""
    receiver = Receiver()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tusd_py.native._LARGE", 1)
        with serving(HttpProtocol, native=True, receiver=receiver) as one:
            yield one
    receiver.close()


@pytest.fixture(params=["ours", "native", "straight", "plain"])
def any_port(request: pytest.FixtureRequest) -> int:
    port: int = request.getfixturevalue(request.param)[1]
    return port


@pytest.fixture(params=["ours", "native", "straight"])
def served(request: pytest.FixtureRequest) -> tuple[App, int]:
    one: tuple[App, int] = request.getfixturevalue(request.param)
    return one


@pytest.fixture
def port(served: tuple[App, int]) -> int:
    return served[1]


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: x", *fields, "", ""]).encode("latin-1")


def ask(port: int, data: bytes, count: int = 1) -> list[Any]:
    """Send bytes as they are and return the responses."""
    with Connection(port) as connection:
        connection.send(data)
        return [connection.receive() for _ in range(count)]


def send_on(connection: Connection, size: int) -> None:
    for _ in range(size // 65536):
        connection.send(b"x" * 65536)


CHUNKED = "Transfer-Encoding: chunked"


# Under any ASGI server.


def test_a_body_of_a_length_is_moved(any_port: int) -> None:
    [answer] = ask(any_port, head("PATCH /take", "Content-Length: 5") + b"hello")
    assert (answer.json()["end"], answer.json()["size"]) == ("DONE", 5)


def test_a_chunked_body_is_moved(any_port: int) -> None:
    # Wire case 47.
    [answer] = ask(any_port, head("PATCH /take", CHUNKED) + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
    assert (answer.json()["end"], answer.json()["size"]) == ("DONE", 5)


def test_what_follows_a_large_body_is_another_request(any_port: int) -> None:
    large = head("PATCH /take", "Content-Length: 3000001") + b"x" * 3_000_001
    small = head("PATCH /take", "Content-Length: 5") + b"hello"
    answers = ask(any_port, large + small, 2)
    assert [answer.json()["size"] for answer in answers] == [3_000_001, 5]


def test_a_large_body_does_not_pass_through_the_parser(
    straight: tuple[App, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    feed = HttpProtocol.data_received

    def count(protocol: HttpProtocol, data: bytes) -> None:
        read.append(len(data))
        feed(protocol, data)

    monkeypatch.setattr(HttpProtocol, "data_received", count)
    body = b"x" * 30_000_000
    [answer] = ask(straight[1], head("PATCH /take", "Content-Length: 30000000") + body)
    assert (answer.json()["end"], answer.json()["size"]) == ("DONE", 30_000_000)
    # What was read before the body was asked for, and no more.
    assert sum(read) < MUCH


def test_requests_in_a_row_are_answered_in_order(any_port: int) -> None:
    one = head("PATCH /take", "Content-Length: 5") + b"hello"
    two = head("PATCH /take", CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n"
    answers = ask(any_port, one + two + head("GET /take"), 3)
    assert [answer.json()["size"] for answer in answers] == [5, 3, 0]


def test_a_body_is_asked_for_only_when_it_is_wanted(any_port: int) -> None:
    # Wire cases 57 and 58.
    fields = ("Content-Length: 5", "Expect: 100-continue")
    with Connection(any_port) as connection:
        connection.send(head("PATCH /take", *fields))
        assert connection.receive().status == 100
        connection.send(b"hello")
        assert connection.receive().json()["size"] == 5
        connection.send(head("PATCH /refuse", *fields))
        assert connection.receive().status == 409


def test_http_1_0_is_answered_and_closed(any_port: int) -> None:
    # Wire case 56.
    for fields in (b"", b"Connection: keep-alive\r\n"):
        with Connection(any_port) as connection:
            connection.send(b"PATCH /take HTTP/1.0\r\nContent-Length: 2\r\n" + fields + b"\r\nab")
            assert connection.receive().json()["size"] == 2
            with pytest.raises(ConnectionError):
                connection.receive()


def test_a_refusal_in_front_of_a_long_body_arrives_and_the_body_is_not_swallowed(
    any_port: int,
) -> None:
    # Wire case 69.
    size = 10 * 2**20
    with Connection(any_port) as connection:
        connection.send(head("PATCH /refuse", f"Content-Length: {size}"))
        answer = connection.receive()
        assert (answer.status, answer.headers["connection"]) == (409, "close")
        with pytest.raises(ConnectionError):
            send_on(connection, 100 * size)


def test_a_refusal_arrives_where_the_client_sends_before_it_reads(any_port: int) -> None:
    [answer] = ask(any_port, head("PATCH /refuse", "Content-Length: 9999999") + b"x" * 100_000)
    assert (answer.status, answer.body) == (409, b"no")


# What plain uvicorn cannot.


def test_a_plain_server_sends_no_interim_response_and_gives_no_trailers(
    plain: tuple[App, int],
) -> None:
    body = b"3\r\nabc\r\n0\r\nUpload-Checksum: sha1 x\r\n\r\n"
    [answer] = ask(plain[1], head("PATCH /tell", CHUNKED) + body)
    said = answer.json()
    assert (answer.status, said["can_trail"], said["checksum"]) == (200, False, None)


def test_a_cut_is_a_503_under_a_plain_server(plain: tuple[App, int]) -> None:
    [answer] = ask(plain[1], head("PATCH /cut", "Content-Length: 5") + b"hello")
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert answer.headers["retry-after"] == "1"


# What ours can.


def test_interim_responses_are_sent_beside_100_continue(port: int) -> None:
    # Wire cases R18 and R19.
    with Connection(port) as connection:
        connection.send(head("POST /tell", "Content-Length: 5", "Expect: 100-continue"))
        created, wanted = connection.receive(), connection.receive()
        assert (created.status, created.headers) == (104, {"location": "/files/x"})
        assert wanted.status == 100
        connection.send(b"hello")
        told, final = connection.receive(), connection.receive()
        assert (told.status, told.headers) == (104, {"upload-offset": "5"})
        assert (final.status, final.json()["size"]) == (200, 5)


def test_an_interim_response_has_its_reason_phrase(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head("GET /tell"))
        line = connection.makefile("rb").readline()
    assert line == b"HTTP/1.1 104 Upload Resumption Supported\r\n"


def test_no_interim_response_is_sent_to_http_1_0(port: int) -> None:
    # Wire cases R51 and R52; what HTTP/1.0 expects is ignored as well.
    request = b"POST /tell HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab"
    assert ask(port, request)[0].status == 200


def test_trailers_are_given_after_the_body(port: int) -> None:
    # Wire case 153; the pieces come one by one.
    with Connection(port) as connection:
        connection.send(head("PATCH /take", CHUNKED))
        for part in (b"3\r\nabc\r\n0\r\nUpload-Che", b"cksum: sha1", b" x \r\nA: b", b"\r\n\r\n"):
            connection.send(part)
        said = connection.receive().json()
    assert (said["can_trail"], said["checksum"], said["size"]) == (True, "sha1 x", 3)


def test_a_trailer_changes_nothing_that_the_request_said(port: int) -> None:
    fields = ("Host: y", "Upload-Offset: 9", "Expect: 100-continue", "Connection: upgrade")
    trailers = "\r\n".join([*fields, "Upgrade: h2c", "", ""]).encode()
    one = head("PATCH /take", CHUNKED, "Upload-Offset: 7") + b"3\r\nabc\r\n0\r\n" + trailers
    answer, other = ask(port, one + head("GET /take"), 2)
    assert (answer.json()["offset"], answer.json()["end"]) == ("7", "DONE")
    assert other.status == 200


@pytest.mark.parametrize("field", ["Content-Length: 99", "Transfer-Encoding: chunked"])
def test_a_trailer_that_would_frame_the_body_is_refused(
    served: tuple[App, int], field: str
) -> None:
    app, port = served
    data = b"3\r\nabc\r\n0\r\n" + field.encode() + b"\r\n\r\n"
    [answer] = ask(port, head("PATCH /take/framing", CHUNKED) + data)
    assert answer.status == 400
    assert app.endings["framing"] == ("DISCONNECTED", 3)


def test_trailers_are_bounded(port: int) -> None:
    # Sent so that each field is whole, and as one that does not end.
    for trailers in (b"A: b\r\n" * 20_000, b"A: " + b"b" * 300_000):
        with Connection(port) as connection:
            connection.send(head("PATCH /take", CHUNKED) + b"3\r\nabc\r\n0\r\n")
            connection.send(trailers)
            assert connection.receive().status in {400, 431}


def test_a_cut_ends_the_connection_without_an_answer(port: int) -> None:
    with Connection(port) as connection:
        connection.send(head("PATCH /cut", "Content-Length: 5") + b"hello")
        with pytest.raises(ConnectionError):
            connection.receive()


@pytest.mark.parametrize("size", [1000, 200_000, MUCH])
def test_all_that_came_before_the_end_is_kept(served: tuple[App, int], size: int) -> None:
    # Wire cases 59, 61 and 62: the app looks only after the peer has gone.
    app, port = served
    app.go_on.clear()
    with Connection(port) as connection:
        connection.send(head(f"PATCH /wait/{size}", "Content-Length: 9999999"))
        sending = threading.Thread(target=connection.send, args=(b"x" * size,))
        sending.start()
        if size > 1_000_000:
            app.go_on.set()
        sending.join()
    app.go_on.set()
    eventually(lambda: app.endings.get(str(size)), "end")
    assert app.endings[str(size)] == ("DISCONNECTED", size)


def test_a_body_that_arrived_whole_is_done_though_its_sender_has_gone(
    served: tuple[App, int],
) -> None:
    app, port = served
    app.go_on.clear()
    with Connection(port) as connection:
        connection.send(head("PATCH /wait/whole", "Content-Length: 1000") + b"x" * 1000)
    app.go_on.set()
    eventually(lambda: app.endings.get("whole"), "end")
    assert app.endings["whole"] == ("DONE", 1000)


def test_what_was_read_before_a_reset_is_kept(served: tuple[App, int]) -> None:
    # Wire cases 60 and 63: what the server has read; the kernel drops the rest.
    app, port = served
    app.go_on.clear()
    connection = Connection(port)
    # At once: what comes later is not read before it is wanted.
    asked = head("PATCH /wait/reset", "Content-Length: 9999", "Expect: 100-continue")
    connection.send(asked + b"x" * 1000)
    eventually(lambda: app.buffered(1000) or None, "bytes in the server's hands")
    connection.reset()
    app.go_on.set()
    eventually(lambda: app.endings.get("reset"), "end")
    assert app.endings["reset"] == ("DISCONNECTED", 1000)


def test_a_peer_that_has_said_all_is_answered(port: int) -> None:
    one = head("PATCH /take", "Content-Length: 5") + b"hello"
    with Connection(port) as connection:
        connection.send(one + one)
        connection.end()
        assert [connection.receive().json()["size"] for _ in range(2)] == [5, 5]
        with pytest.raises(ConnectionError):
            connection.receive()


def test_a_peer_that_breaks_off_but_listens_is_told_so(served: tuple[App, int]) -> None:
    app, port = served
    with Connection(port) as connection:
        connection.send(head("PATCH /take/half", "Content-Length: 5") + b"he")
        connection.end()
        assert connection.receive().status == 400
    assert app.endings["half"] == ("DISCONNECTED", 2)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("upgrade", ["h2c", "unknown/1", "websocket"])
@pytest.mark.parametrize(
    ("field", "body"), [("Content-Length: 5", b"hello"), (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")]
)
def test_an_upgrade_that_nobody_speaks_here_is_ignored(
    port: int, upgrade: str, field: str, body: bytes, *, split: bool
) -> None:
    wish = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMA")
    with Connection(port) as connection:
        for _ in range(2):
            connection.send(head("PATCH /take", *wish, field) + (b"" if split else body))
            if split:
                for number in range(len(body)):
                    connection.send(body[number : number + 1])
            said = connection.receive().json()
            assert (said["end"], said["size"]) == ("DONE", 5)


def test_who_says_that_it_has_ended_listens_no_more_to_an_answer_without_an_end(
    ours: tuple[App, int],
) -> None:
    app, port = ours
    with Connection(port) as connection:
        connection.send(head("GET /watch/half"))
        assert b"here" in connection._until(b"here") + b"here"
        connection.end()
        eventually(lambda: app.endings.get("/watch/half"), "end of the answer")


def test_an_answer_without_a_length_has_no_chunks_in_http_1_0(ours: tuple[App, int]) -> None:
    with Connection(ours[1]) as connection:
        connection.send(b"GET /endless HTTP/1.0\r\n\r\n")
        answer = connection.receive()
    assert "transfer-encoding" not in answer.headers
    assert answer.body == b"without end"


@pytest.mark.parametrize("path", ["/take", "/ws/take", "/take?x=/ws"])
def test_a_socket_where_none_is_is_not_opened(port: int, path: str) -> None:
    wish = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    [answer] = ask(port, head(f"GET {path}", *wish, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
    assert answer.status == 200


def test_many_upgrades_in_a_row_are_answered(port: int) -> None:
    one = head("GET /take", "Connection: Upgrade", "Upgrade: h2c")
    assert {answer.status for answer in ask(port, one * 3000, 3000)} == {200}


LONG = "x" * 70_000
BAD = {
    "55 both": head("PATCH /take", CHUNKED, "Content-Length: 3"),
    "55 both, length first": head("PATCH /take", "Content-Length: 3", CHUNKED),
    "two lengths": head("PATCH /take", "Content-Length: 3", "Content-Length: 4"),
    "a list of lengths": head("PATCH /take", "Content-Length: 3, 4"),
    "negative length": head("PATCH /take", "Content-Length: -1"),
    "signed length": head("PATCH /take", "Content-Length: +1"),
    "no number": head("PATCH /take", "Content-Length: 0x3"),
    "empty length": head("PATCH /take", "Content-Length:"),
    "41 length of 2**63": head("PATCH /take", f"Content-Length: {2**63}"),
    "41 length of 26 digits": head("PATCH /take", f"Content-Length: {'9' * 26}"),
    "gzip": head("PATCH /take", "Transfer-Encoding: gzip"),
    "gzip, chunked": head("PATCH /take", "Transfer-Encoding: gzip, chunked"),
    "identity": head("PATCH /take", "Transfer-Encoding: identity"),
    "chunked twice": head("PATCH /take", CHUNKED, CHUNKED),
    "chunked HTTP/1.0": b"PATCH /take HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunk size": head("PATCH /take", CHUNKED) + b"zz\r\n",
    "negative chunk": head("PATCH /take", CHUNKED) + b"-1\r\n",
    "huge chunk": head("PATCH /take", CHUNKED) + b"f" * 17 + b"\r\n",
    "no Host": b"GET /take HTTP/1.1\r\n\r\n",
    "two Hosts": head("GET /take", "Host: x"),
    "obs-fold": head("GET /take", "A: b", " c"),
    "NUL": head("GET /take", "A: b\0c"),
    "bare CR": head("GET /take", "A: b\rc"),
    "space before colon": head("GET /take", "A : b"),
    "no name": head("GET /take", ": b"),
    "garbage": b"garbage\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "HTTP/0.9": b"GET /take\r\n\r\n",
    "HTTP/2.0": b"GET /take HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/9.9": b"GET /take HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": head("GET http://x"),
    "bad port": head("GET http://x:99999/take"),
}


def check_refusal(answer: Any, *statuses: int) -> None:
    assert answer.status in statuses
    fields = answer.headers
    assert (fields["tus-resumable"], fields["connection"]) == ("1.0.0", "close")
    assert int(fields["content-length"]) == len(answer.body) > 0


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_request_of_http_is_a_400_and_closes(port: int, data: bytes) -> None:
    with Connection(port) as connection:
        connection.send(data)
        check_refusal(connection.receive(), 400)
        with pytest.raises(ConnectionError):
            connection.receive()


def test_chunks_of_http_1_0_are_refused_for_what_they_are(port: int) -> None:
    [answer] = ask(port, BAD["chunked HTTP/1.0"])
    assert answer.body == b"expected no Transfer-Encoding in HTTP/1.0\n"


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_a_bad_request_waits_for_the_answer_to_the_one_before_it(port: int, data: bytes) -> None:
    first, second = ask(port, head("PATCH /take", "Content-Length: 2") + b"ab" + data, 2)
    assert first.json()["size"] == 2
    check_refusal(second, 400)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("PATCH /take", "Expect: wonders"), 417),
        (head("PATCH /take", "Expect: 100-continue, wonders"), 417),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (head("GET /take", f"A: {LONG}"), 431),
        (head("GET /take", *(["A: b"] * 12_000)), 431),
        (head(f"GET /{LONG}"), 431),
    ],
)
def test_what_cannot_be_met_has_its_own_status(port: int, data: bytes, status: int) -> None:
    check_refusal(ask(port, data)[0], status)


def test_a_refusal_reaches_a_client_that_is_still_sending(port: int) -> None:
    with Connection(port) as connection:
        connection.send(head("PATCH /take", "Content-Length: -1"))
        for _ in range(3):
            connection.send(b"x" * 50_000)
        check_refusal(connection.receive(), 400)


def test_whole_chunks_before_a_bad_one_are_kept(served: tuple[App, int]) -> None:
    app, port = served
    for number, bad in enumerate((b"zz\r\n", b"3\r\nabcd\r\n")):
        data = head(f"PATCH /take/bad-{number}", CHUNKED) + b"5\r\nhello\r\n" + bad
        check_refusal(ask(port, data)[0], 400)
        assert app.endings[f"bad-{number}"] == ("DISCONNECTED", 5 + 3 * number)


def test_an_endless_chunk_extension_is_refused(port: int) -> None:
    with Connection(port) as connection:
        connection.send(head("PATCH /take", CHUNKED) + b"5;")
        with pytest.raises(ConnectionError):
            send_on(connection, 2**26)


def test_a_pipeline_is_not_read_without_bound(port: int) -> None:
    one = head("GET /take")
    assert len(ask(port, one * 5000, 5000)) == 5000


def test_what_a_connection_was_made_of_needs_no_garbage_collector(port: int) -> None:
    gc.collect()
    gc.disable()
    try:
        ask(port, head("POST /take/whole", "Content-Length: 5") + b"hello")
        ask(port, head("POST /refuse", "Content-Length: 5") + b"hello")
        ask(port, b"no request\r\n\r\n")
        with Connection(port) as connection:
            connection.send(head("POST /take/less", "Content-Length: 5") + b"hell")
        eventually(lambda: not _protocols(), "end of all connections")
    finally:
        gc.enable()


def _protocols() -> list[HttpProtocol]:
    return [one for one in gc.get_objects() if type(one) is HttpProtocol]


def test_a_body_for_which_the_receiver_has_no_room_takes_the_ordinary_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways: list[Straight] = []

    def take(*args: Any) -> Straight:
        ways.append(Straight(*args))
        return ways[-1]

    monkeypatch.setattr("tusd_py.native._LARGE", 1)
    monkeypatch.setattr("tusd_py.native.Straight", take)
    receiver, begun = Receiver(most=1), head("POST /take", "Content-Length: 9") + b"four"
    with serving(HttpProtocol, native=True, receiver=receiver) as (_, port):
        with Connection(port) as first:
            first.send(begun)
            eventually(lambda: receiver.peers == 1, "body that is received")
            with Connection(port) as second:
                second.send(begun)
                second.send(b"rest.")
                assert second.receive().json()["size"] == 9
            first.send(b"rest.")
            assert first.receive().json()["size"] == 9
        assert (len(ways), receiver.peers) == (1, 0)
    receiver.close()


def test_a_head_that_never_ends_is_given_up_and_an_idle_connection_is_no_error() -> None:
    with (
        serving(partial(HttpProtocol, head_timeout=2)) as (_, port),
        Connection(port) as slow,
        Connection(port) as idle,
    ):
        slow.send(b"GET /take HTTP/1.1\r\nHo")
        check_refusal(slow.receive(), 408)
        with pytest.raises(ConnectionError, match="closed after b''"):
            idle.receive()


def test_a_head_in_time_is_read_and_so_is_the_next_one() -> None:
    with serving(partial(HttpProtocol, head_timeout=60)) as (_, port), Connection(port) as one:
        for _ in range(2):
            one.send(head("PATCH /take", "Content-Length: 2") + b"ab")
            assert one.receive().status == 200


@pytest.mark.parametrize("native", [True, False])
def test_a_connection_is_closed_when_no_other_request_comes_and_not_before(
    *,
    native: bool,
) -> None:
    with (
        serving(HttpProtocol, native=native, keep_alive=1) as (_, port),
        Connection(port) as connection,
    ):
        connection.send(head("PATCH /take", "Content-Length: 2") + b"ab")
        assert connection.receive().status == 200
        connection.send(head("PATCH /take", "Content-Length: 2"))
        # One at work is not idle, however long it takes.
        time.sleep(1.5)
        connection.send(b"ab")
        assert connection.receive().status == 200
        with pytest.raises(ConnectionError):
            connection.receive()
