"""Bodies move from ASGI messages to the writer, and every ending is told apart."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from storage.errors import StorageFull
from storage.leases import run_to_the_end
from tusd_py import exchange
from tusd_py.exchange import AsgiExchange, BodyEnd
from tusd_py.protocol import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.interfaces import Buffer


class ListWriter:
    """Keep what is written, a list entry a call."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.offset = 0

    def write(self, buffers: Sequence[Buffer]) -> None:
        joined = b"".join(buffers)
        if joined:
            self.writes.append(joined)
        self.offset += len(joined)

    def take(self, buffers: Sequence[bytes]) -> bool:
        del buffers
        return False

    @property
    def content(self) -> bytes:
        return b"".join(self.writes)


class FullWriter(ListWriter):
    def write(self, buffers: Sequence[Buffer]) -> None:
        raise StorageFull


class Client:
    """Send body messages as an ASGI server would, and take the response."""

    def __init__(self, *messages: Any, method: str = "PATCH", **headers: str) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        for message in messages:
            self.queue.put_nowait(message)
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: dict[str, Any] = {"type": "http", "method": method, "headers": raw}

    async def receive(self) -> Any:
        return await self.queue.get()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def exchange(self, *, chunk_size: int = 4, stall: float = 30.0) -> AsgiExchange:
        return AsgiExchange(self.scope, self.receive, self.send, chunk_size=chunk_size, stall=stall)


def piece(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("messages", "limit", "end", "content"),
    [
        ([piece(b"abc", more=False)], 10, BodyEnd.DONE, b"abc"),
        ([piece(b"abc"), piece(b"", more=False)], 10, BodyEnd.DONE, b"abc"),
        ([piece(b"", more=False)], 10, BodyEnd.DONE, b""),
        ([piece(b"", more=False)], 0, BodyEnd.DONE, b""),
        ([piece(b"abc"), piece(b"def", more=False)], 6, BodyEnd.DONE, b"abcdef"),
        ([piece(b"abc"), GONE], 10, BodyEnd.DISCONNECTED, b"abc"),
        ([GONE], 10, BodyEnd.DISCONNECTED, b""),
        ([piece(b"abcdef", more=False)], 4, BodyEnd.MORE, b"abcd"),
        ([piece(b"a")], 0, BodyEnd.MORE, b""),
    ],
)
async def test_a_body_moves_up_to_the_limit_and_its_end_is_told(
    messages: list[Any], limit: int, end: BodyEnd, content: bytes
) -> None:
    writer = ListWriter()
    got = await Client(*messages).exchange().move_body(writer, limit, asyncio.Event())
    assert (got, writer.content) == (end, content)


async def test_what_is_beyond_the_limit_comes_with_the_next_call() -> None:
    client = Client(piece(b"abcdef"), piece(b"gh", more=False))
    moving, writer, stop = client.exchange(), ListWriter(), asyncio.Event()
    assert await moving.move_body(writer, 4, stop) is BodyEnd.MORE
    assert await moving.move_body(writer, 4, stop) is BodyEnd.DONE
    assert await moving.move_body(writer, 4, stop) is BodyEnd.DONE
    assert writer.content == b"abcdefgh"


async def test_small_pieces_are_gathered_to_chunks() -> None:
    client = Client(*(piece(b"a") for _ in range(9)), piece(b"", more=False))
    writer = ListWriter()
    await client.exchange(chunk_size=4).move_body(writer, 100, asyncio.Event())
    assert writer.writes == [b"aaaa", b"aaaa", b"a"]


async def test_a_stop_ends_a_stalled_body_and_keeps_what_came() -> None:
    client, writer, stop = Client(piece(b"ab")), ListWriter(), asyncio.Event()
    task = asyncio.create_task(client.exchange().move_body(writer, 10, stop))
    while client.queue.qsize():
        await asyncio.sleep(0)
    stop.set()
    assert await task is BodyEnd.STOPPED
    assert writer.content == b"ab"


async def test_a_sender_that_never_pauses_is_stopped_too() -> None:
    client, writer, stop = Client(), ListWriter(), asyncio.Event()

    async def always() -> Any:
        await asyncio.sleep(0)
        return piece(b"a" * 65536)

    client.receive = always  # type: ignore[method-assign]
    moving = client.exchange(chunk_size=65536)
    assert await moving.move_body(writer, 2, stop) is BodyEnd.MORE
    stop.set()
    end = BodyEnd.MORE
    while end is BodyEnd.MORE:
        end = await moving.move_body(writer, 10**9, stop)
    assert end is BodyEnd.STOPPED


async def test_a_body_that_has_nearly_arrived_when_it_is_told_to_stop_is_taken() -> None:
    # Wire case R44 and section 2.7: of two equal PATCHes one is taken, however they meet.
    client, writer, stop = Client(piece(b"ab"), piece(b"cd")), ListWriter(), asyncio.Event()
    moving = client.exchange()
    stop.set()
    assert await moving.move_body(writer, 2, stop) is BodyEnd.MORE
    asyncio.get_running_loop().call_soon(client.queue.put_nowait, piece(b"e", more=False))
    assert await moving.move_body(writer, 10, stop) is BodyEnd.DONE
    assert writer.content == b"abcde"


async def test_the_grace_of_a_stop_is_not_begun_anew_by_each_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "GRACE_SECONDS", 0.1)
    client, stop = Client(), asyncio.Event()
    moving = client.exchange()
    stop.set()
    assert await moving.move_body(ListWriter(), 10, stop) is BodyEnd.STOPPED
    monkeypatch.setattr(exchange, "GRACE_SECONDS", 3600.0)
    assert await moving.move_body(ListWriter(), 10, stop) is BodyEnd.STOPPED


async def test_a_cancelled_request_waits_for_its_last_system_call() -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []

    def write() -> None:
        begun.set()
        go_on.wait()
        order.append("written")

    async def request() -> None:
        try:
            await run_to_the_end(write)
        finally:
            order.append("let go")

    task = asyncio.create_task(request())
    while not begun.is_set():
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert order == ["written", "let go"]


async def test_a_body_that_brings_nothing_stalls() -> None:
    client, writer = Client(piece(b"ab")), ListWriter()
    moving, stop = client.exchange(stall=0.05), asyncio.Event()
    end = BodyEnd.MORE
    while end is BodyEnd.MORE:
        end = await moving.move_body(writer, 10, stop)
    assert end is BodyEnd.STALLED
    assert writer.content == b"ab"


async def test_a_trickle_is_handed_on_at_each_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_PULSE", 0.05)
    client, writer, stop = Client(piece(b"a")), ListWriter(), asyncio.Event()
    moving = client.exchange(chunk_size=1000)
    assert await moving.move_body(writer, 10, stop) is BodyEnd.MORE
    assert writer.content == b"a"
    # The receive that was waiting then has lost nothing.
    client.queue.put_nowait(piece(b"b", more=False))
    assert await moving.move_body(writer, 10, stop) is BodyEnd.DONE
    assert writer.content == b"ab"


async def test_an_error_of_the_writer_comes_through() -> None:
    with pytest.raises(StorageFull):
        await Client(piece(b"ab")).exchange().move_body(FullWriter(), 10, asyncio.Event())


def start_of(client: Client) -> tuple[int, dict[str, str]]:
    headers = {name.decode(): value.decode() for name, value in client.sent[0]["headers"]}
    return client.sent[0]["status"], headers


async def test_a_response_after_the_whole_body_keeps_the_connection() -> None:
    client = Client(piece(b"ab", more=False), content_length="2")
    moving = client.exchange()
    await moving.move_body(ListWriter(), 10, asyncio.Event())
    await moving.respond(Response(204, {"Upload-Offset": "2"}))
    assert start_of(client) == (204, {"upload-offset": "2"})


async def test_a_refusal_reads_a_little_of_the_body_and_closes() -> None:
    client = Client(piece(b"a" * 1000), piece(b"b", more=False), content_length="1001")
    await client.exchange().respond(Response(409, {}, b"no"))
    status, headers = start_of(client)
    assert (status, headers["connection"], headers["content-length"]) == (409, "close", "2")
    assert client.queue.empty()
    assert [message["body"] for message in client.sent[1:]] == [b"no", b""]


async def test_a_refusal_of_an_endless_body_ends_all_the_same() -> None:
    client = Client(*(piece(b"a" * 65536) for _ in range(100)), transfer_encoding="chunked")
    await client.exchange().respond(Response(413, {}, b"no"))
    assert client.queue.qsize() > 90
    assert client.sent[-1].get("more_body", False) is False


async def test_head_names_no_content_length_since_it_would_be_the_uploads() -> None:
    client = Client(method="HEAD")
    await client.exchange().respond(Response(200, {"Upload-Offset": "2"}))
    assert start_of(client) == (200, {"upload-offset": "2"})


EXTENSIONS: dict[str, Any] = {exchange.INFORMATIONAL: {}, exchange.CUT: {}}


async def test_an_interim_response_is_sent_where_the_server_can() -> None:
    client = Client()
    client.scope["extensions"] = EXTENSIONS
    await client.exchange().interim(Response(104, {"Location": "/files/x"}))
    [sent] = client.sent
    assert sent == {
        "type": "http.response.informational",
        "status": 104,
        "headers": [(b"location", b"/files/x")],
    }


async def test_no_interim_response_is_sent_by_a_plain_server_nor_after_the_final_one() -> None:
    plain = Client()
    await plain.exchange().interim(Response(104))
    assert plain.sent == []
    late = Client()
    late.scope["extensions"] = EXTENSIONS
    moving = late.exchange()
    await moving.respond(Response(204))
    count = len(late.sent)
    await moving.interim(Response(104))
    assert len(late.sent) == count


async def test_no_interim_response_is_sent_to_a_peer_that_is_gone() -> None:
    client = Client(GONE)
    client.scope["extensions"] = EXTENSIONS
    moving = client.exchange()
    await moving.move_body(ListWriter(), 10, asyncio.Event())
    await moving.interim(Response(104))
    assert client.sent == []


async def test_a_cut_is_no_answer_where_the_server_can_and_a_503_elsewhere() -> None:
    ours, plain = Client(content_length="9"), Client(piece(b"a", more=False), content_length="9")
    ours.scope["extensions"] = EXTENSIONS
    await ours.exchange().cut()
    assert [message["type"] for message in ours.sent] == [exchange.CUT]
    await plain.exchange().cut()
    status, headers = start_of(plain)
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")


async def test_trailers_are_there_once_the_body_is_done() -> None:
    client = Client(piece(b"a"), piece(b"", more=False), transfer_encoding="chunked")
    client.scope["extensions"] = {exchange.TRAILERS: {"fields": [(b"upload-checksum", b"sha1 x")]}}
    moving = client.exchange()
    assert moving.can_trail
    assert "upload-checksum" not in moving.trailers
    await moving.move_body(ListWriter(), 10, asyncio.Event())
    assert moving.trailers.one("upload-checksum") == "sha1 x"
    plain = Client().exchange()
    assert not plain.can_trail
    assert "upload-checksum" not in plain.trailers
