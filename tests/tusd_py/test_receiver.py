"""Bodies move from real sockets into real files to the byte, and every ending is told apart."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import threading
from array import array
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import uvloop

from storage.aio import Unsupported, Writes
from storage.durability import choose
from storage.errors import DiskFailed, StorageFull
from storage.filestore import FileStore
from storage.room import Room
from storage.upload import Upload
from tusd_py import receiver as module
from tusd_py.exchange import BodyEnd
from tusd_py.receiver import Peer, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from storage.durability import Policy
    from storage.segments import FileWriter

MIB = 2**20
DEADLINE = 60.0
POLICIES: list[Policy] = ["none", "request"]


def connect(family: str) -> tuple[socket.socket, socket.socket]:
    """Return the server's end and the client's, both non-blocking."""
    if family == "unix":
        ours, theirs = socket.socketpair(socket.AF_UNIX)
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class Body:
    """One connection, the file at its end, and what a client sends."""

    def __init__(self, directory: Path, policy: Policy, family: str) -> None:
        self.ours, self.theirs = connect(family)
        self.peer = Peer(self.ours.fileno())
        store = FileStore(directory / str(uuid4()), 0, choose(policy))
        store.prepare()
        upload = Upload(str(uuid4()), None, None, 1.0, 2.0)
        self.sink: FileWriter = store.begin(upload)
        self.path = store.directory / upload.id
        self.stop = asyncio.Event()
        self.sending: list[asyncio.Task[None]] = []

    def send(self, content: bytes, *, then_close: bool = False) -> None:
        """Begin to send."""
        self.sending.append(asyncio.create_task(self._send(content, then_close=then_close)))

    async def _send(self, content: bytes, *, then_close: bool) -> None:
        await asyncio.get_running_loop().sock_sendall(self.theirs, content)
        if then_close:
            self.theirs.close()

    def send_without_end(self) -> None:
        async def run() -> None:
            piece = bytes(range(256)) * 1024
            while True:
                await asyncio.get_running_loop().sock_sendall(self.theirs, piece)

        self.sending.append(asyncio.create_task(run()))

    @property
    def content(self) -> bytes:
        # The last of it may wait in memory: whatever comes late is little.
        self.sink.write(())
        return self.path.read_bytes()

    async def has_moved(self, least: int) -> None:
        while self.sink.offset < least:
            await asyncio.sleep(0.001)

    async def aclose(self) -> None:
        for task in self.sending:
            task.cancel()
        await asyncio.gather(*self.sending, return_exceptions=True)
        self.sink.close()
        self.peer.close()
        self.ours.close()
        self.theirs.close()


class Bodies:
    """Begin bodies, and receive them."""

    def __init__(self, directory: Path) -> None:
        self.receiver = Receiver(writes=partial(Writes, 4))
        self._directory = directory
        self._begun: list[Body] = []
        self._receiving: list[asyncio.Task[BodyEnd]] = []

    def begin(self, policy: Policy = "none", family: str = "tcp") -> Body:
        self._begun.append(Body(self._directory, policy, family))
        return self._begun[-1]

    def begin_without_room(self, policy: Policy) -> Body:
        body = self.begin(policy)
        body.sink._room = Room(2**62)
        return body

    def start(self, body: Body, limit: int, stall: float = DEADLINE) -> asyncio.Task[BodyEnd]:
        self._receiving.append(asyncio.create_task(self.receive(body, limit, stall)))
        return self._receiving[-1]

    async def receive(self, body: Body, limit: int, stall: float = DEADLINE) -> BodyEnd:
        async with asyncio.timeout(DEADLINE):
            return await self.receiver.receive(body.peer, body.sink, limit, body.stop, stall)

    async def receive_all(self, body: Body, size: int) -> BodyEnd:
        """Go on as long as there is MORE."""
        end = BodyEnd.MORE
        while end is BodyEnd.MORE and body.sink.offset < size:
            end = await self.receive(body, size - body.sink.offset)
        return end

    async def aclose(self) -> None:
        for task in self._receiving:
            task.cancel()
        await asyncio.gather(*self._receiving, return_exceptions=True)
        for body in self._begun:
            await body.aclose()
        self.receiver.close()


@pytest.fixture
async def bodies(tmp_path: Path) -> AsyncIterator[Bodies]:
    bodies = Bodies(tmp_path)
    yield bodies
    await bodies.aclose()


def no_two_alike(size: int) -> bytes:
    return array("Q", range(size // 8 + 1)).tobytes()[:size]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("before", [0, 3, 4096])
async def test_a_body_is_stored_as_it_was_sent(
    bodies: Bodies, policy: Policy, family: str, before: int
) -> None:
    body, content = bodies.begin(policy, family), no_two_alike(9 * MIB + 12_345)
    body.sink.write([content[:before]])
    body.send(content[before:])
    assert await bodies.receive_all(body, len(content)) is BodyEnd.MORE
    assert body.content == content


def refused() -> Writes:
    raise Unsupported(errno.ENOSYS, "Function not implemented")


@pytest.mark.parametrize("policy", POLICIES)
async def test_what_comes_late_is_counted_while_it_waits_in_memory(
    bodies: Bodies, policy: Policy
) -> None:
    body, content = bodies.begin(policy), no_two_alike(2 * MIB + 100)
    body.send(content[: 2 * MIB])
    receiving = bodies.start(body, len(content))
    await body.has_moved(2 * MIB)
    body.send(content[2 * MIB :])
    assert await receiving is BodyEnd.MORE
    assert body.sink.offset == len(content)
    assert body.content == content


@pytest.mark.parametrize("here", [100, 20_000, 3 * MIB + 5])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("before", [0, 3])
async def test_what_is_here_already_comes_before_the_rest(
    bodies: Bodies, policy: Policy, here: int, before: int
) -> None:
    body, content = bodies.begin(policy), no_two_alike(6 * MIB)
    body.sink.write([content[:before]])
    body.send(content[before + here :])
    receive = bodies.receiver.receive
    async with asyncio.timeout(DEADLINE):
        end = await receive(
            body.peer,
            body.sink,
            len(content) - before,
            body.stop,
            DEADLINE,
            here=content[before : before + here],
        )
    assert end is BodyEnd.MORE
    await bodies.receive_all(body, len(content))
    assert body.content == content


@pytest.mark.parametrize("writes", [None, refused])
async def test_a_body_is_stored_where_nothing_is_written_meanwhile(
    bodies: Bodies, writes: Callable[[], Writes] | None
) -> None:
    bodies.receiver.close()
    bodies.receiver = Receiver(writes=writes)
    body, content = bodies.begin("request"), no_two_alike(9 * MIB + 12_345)
    body.send(content)
    assert await bodies.receive_all(body, len(content)) is BodyEnd.MORE
    assert body.content == content


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("size", [1, 100, 200_000, 3 * MIB + 1])
async def test_what_is_behind_the_limit_stays_in_the_connection(
    bodies: Bodies, policy: Policy, family: str, size: int
) -> None:
    body, content = bodies.begin(policy, family), no_two_alike(size)
    body.send(content + b"GET / HTTP/1.1")
    assert await bodies.receive_all(body, size) is BodyEnd.MORE
    await body.sending[0]
    assert body.ours.recv(100) == b"GET / HTTP/1.1"
    body.sink.commit(body.sink.upload)
    assert body.content == content


async def test_no_bytes_at_all_are_received_at_once(bodies: Bodies) -> None:
    assert await bodies.receive(bodies.begin(), 0) is BodyEnd.MORE


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_body_in_several_calls_is_one(bodies: Bodies, policy: Policy) -> None:
    body, content = bodies.begin(policy), no_two_alike(5 * MIB)
    body.send(content)
    while (left := len(content) - body.sink.offset) > 0:
        assert await bodies.receive(body, min(left, 700_001)) is BodyEnd.MORE
    assert body.content == content


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("sent", [0, 100, 5 * MIB + 17])
async def test_all_that_came_before_the_peer_vanished_is_counted(
    bodies: Bodies, policy: Policy, family: str, sent: int
) -> None:
    body, content = bodies.begin(policy, family), no_two_alike(sent)
    body.send(content, then_close=True)
    assert await bodies.receive_all(body, 64 * MIB) is BodyEnd.DISCONNECTED
    assert body.sink.offset == sent
    body.sink.commit(body.sink.upload)
    assert body.content == content


@pytest.mark.parametrize("policy", POLICIES)
async def test_after_a_reset_as_much_is_counted_as_was_stored(
    bodies: Bodies, policy: Policy
) -> None:
    body, content = bodies.begin(policy), no_two_alike(16 * MIB)
    body.send(content)
    receiving = asyncio.create_task(bodies.receive_all(body, len(content) + 1))
    await body.has_moved(MIB)
    body.sending[0].cancel()
    body.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    body.theirs.close()
    assert await receiving is BodyEnd.DISCONNECTED
    body.sink.commit(body.sink.upload)
    assert body.content == content[: body.sink.offset]


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_end_far_below_the_low_water_is_not_waited_for(
    bodies: Bodies, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No pulse comes to help.
    monkeypatch.setattr(module, "_PULSE", 10 * DEADLINE)
    body, content = bodies.begin(policy), no_two_alike(2 * MIB + 1)
    body.send(content[: 2 * MIB])
    receiving = bodies.start(body, len(content))
    await body.has_moved(2 * MIB)
    body.send(content[2 * MIB :])
    assert await receiving is BodyEnd.MORE
    body.sink.commit(body.sink.upload)
    assert body.content == content


async def test_bytes_that_trickle_in_are_taken_by_the_pulse_and_without_a_thread(
    bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PULSE", 0.01)
    body, content = bodies.begin(), b"trickle"
    for place in range(len(content)):
        receiving = bodies.start(body, MIB)
        await asyncio.sleep(0)
        body.send(content[place : place + 1])
        assert await receiving is BodyEnd.MORE
        assert body.sink.offset == place + 1
    assert not [one for one in threading.enumerate() if one.name.startswith("receiver")]
    body.sink.commit(body.sink.upload)
    assert body.content == content


async def test_a_little_is_written_when_no_more_fits_beside_it_in_memory(bodies: Bodies) -> None:
    body, content = bodies.begin(), no_two_alike(200_000)
    body.sink.take([content[:50_000]])
    body.send(content[50_000:100_000])
    assert await bodies.receive(body, 50_000) is BodyEnd.MORE
    body.send(content[100_000:])
    assert await bodies.receive_all(body, 200_000) is BodyEnd.MORE
    assert body.content == content


@pytest.mark.parametrize("before", [0, 1])
async def test_a_body_that_brings_nothing_stalls(bodies: Bodies, before: int) -> None:
    body = bodies.begin()
    body.send(b"x" * before)
    if before:
        assert await bodies.receive(body, before) is BodyEnd.MORE
    assert await bodies.receive(body, MIB, stall=0.05) is BodyEnd.STALLED
    assert body.sink.offset == before


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_stop_ends_a_fast_body_and_what_was_taken_is_stored(
    bodies: Bodies, policy: Policy
) -> None:
    body = bodies.begin(policy)
    body.send_without_end()
    receiving = bodies.start(body, 10**12)
    await body.has_moved(3 * MIB)
    body.stop.set()
    assert await receiving in {BodyEnd.STOPPED, BodyEnd.MORE}
    assert await bodies.receive(body, 10**12) is BodyEnd.STOPPED
    body.sink.commit(body.sink.upload)
    size = body.sink.offset
    assert body.content == (bytes(range(256)) * (size // 256 + 1))[:size]
    body.peer.close()
    assert body.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


async def test_a_stop_ends_a_body_that_brings_nothing(bodies: Bodies) -> None:
    body = bodies.begin()
    receiving = bodies.start(body, MIB)
    await asyncio.sleep(0)
    body.stop.set()
    assert await receiving is BodyEnd.STOPPED


async def test_a_body_that_has_nearly_arrived_may_end_though_it_was_stopped(
    bodies: Bodies,
) -> None:
    body, content = bodies.begin(), no_two_alike(100_000)
    body.send(content)
    await body.sending[0]
    body.stop.set()
    assert await bodies.receive(body, len(content)) is BodyEnd.MORE
    assert body.content == content


async def test_a_body_that_was_stopped_brings_little_more(bodies: Bodies) -> None:
    body = bodies.begin()
    body.send_without_end()
    body.stop.set()
    assert await bodies.receive(body, 10**12) is BodyEnd.STOPPED
    assert body.sink.offset <= MIB


@pytest.mark.parametrize("policy", POLICIES)
async def test_whoever_is_cancelled_waits_for_the_write_that_runs(
    bodies: Bodies, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bodies.begin(policy)
    writes, may_end = threading.Event(), threading.Event()
    write = type(body.sink)._wrote

    def wait(sink: FileWriter, count: int) -> None:
        writes.set()
        may_end.wait()
        write(sink, count)

    monkeypatch.setattr(type(body.sink), "_wrote", wait)
    body.send_without_end()
    receiving = bodies.start(body, 10**12)
    await asyncio.to_thread(writes.wait)
    receiving.cancel()
    await asyncio.wait({receiving}, timeout=0.05)
    assert not receiving.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    offset = body.sink.offset
    body.sink.commit(body.sink.upload)
    assert len(body.content) == offset > 0


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("policy", POLICIES)
async def test_what_fits_is_counted_when_the_file_cannot_grow(
    bodies: Bodies, policy: Policy
) -> None:
    body, content = bodies.begin(policy), no_two_alike(8 * MIB)
    body.send(content)
    with files_no_longer_than(3 * MIB + 5), pytest.raises(DiskFailed):
        await bodies.receive_all(body, len(content))
    assert body.sink.offset == 3 * MIB + 5
    assert body.content == content[: 3 * MIB + 5]


@pytest.mark.parametrize("policy", POLICIES)
async def test_the_last_bytes_of_the_disk_are_not_taken(bodies: Bodies, policy: Policy) -> None:
    body = bodies.begin_without_room(policy)
    body.send(no_two_alike(MIB))
    with pytest.raises(StorageFull):
        await bodies.receive_all(body, MIB)
    assert body.sink.offset == 0


@pytest.mark.parametrize("policy", POLICIES)
async def test_nothing_of_a_body_that_failed_gets_into_another_one(
    bodies: Bodies, policy: Policy
) -> None:
    full, other = bodies.begin_without_room(policy), bodies.begin(policy)
    full.send(b"x" * MIB)
    with pytest.raises(StorageFull):
        await bodies.receive_all(full, MIB)
    content = no_two_alike(MIB)
    other.send(content)
    await bodies.receive_all(other, MIB)
    assert other.content == content


async def test_a_socket_that_the_kernel_does_not_splice_is_read(
    bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = os.splice

    def refuse(source: int, *args: Any, **others: Any) -> int:
        if Path(f"/proc/self/fd/{source}").readlink().name.startswith("socket"):
            raise OSError(errno.EINVAL, "Invalid argument")
        return splice(source, *args, **others)

    monkeypatch.setattr(os, "splice", refuse)
    body, content = bodies.begin(), no_two_alike(3 * MIB)
    body.send(content, then_close=True)
    assert await bodies.receive_all(body, 10 * MIB) is BodyEnd.DISCONNECTED
    assert body.content == content


async def test_more_bodies_than_threads_all_come_to_their_end(
    bodies: Bodies,
) -> None:
    bodies.receiver.close()
    bodies.receiver = Receiver(threads=2, writes=partial(Writes, 4))
    for _ in range(2):
        endless = bodies.begin()
        endless.send_without_end()
        bodies.start(endless, 10**12)
    content = no_two_alike(MIB)
    many = [bodies.begin(POLICIES[number % 2]) for number in range(12)]
    for body in many:
        body.send(content)
    await asyncio.gather(*(bodies.receive_all(body, MIB) for body in many))
    assert all(body.content == content for body in many)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_neither_descriptors_nor_threads_are_left_behind(tmp_path: Path) -> None:
    before = count_descriptors()
    bodies = Bodies(tmp_path)
    for number in range(20):
        begin = bodies.begin_without_room if number % 5 == 0 else bodies.begin
        body = begin(POLICIES[number % 2])
        body.send(b"x" * MIB, then_close=True)
        try:
            await bodies.receive_all(body, 2 * MIB)
        except StorageFull:
            continue
    await bodies.aclose()
    assert count_descriptors() == before
    assert not [one for one in threading.enumerate() if one.name.startswith("receiver")]


class Server(asyncio.Protocol):
    """Keep what comes over one connection."""

    def __init__(self) -> None:
        self.begun: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.begun.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_a_transport_that_is_paused_goes_on_behind_the_body(run: Any, tmp_path: Path) -> None:
    async def receive() -> None:
        loop, content = asyncio.get_running_loop(), no_two_alike(3 * MIB)
        bodies = Bodies(tmp_path)
        body, protocol = bodies.begin("none"), Server()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        body.theirs.close()
        body.theirs = socket.create_connection(server.sockets[0].getsockname())
        body.theirs.setblocking(False)
        transport = await protocol.begun
        # What is not yet read cannot be paused.
        while not transport.is_reading():
            await asyncio.sleep(0)
        transport.pause_reading()
        body.send(content + b"GET")
        peer = Peer(transport.get_extra_info("socket").fileno())
        while (left := len(content) - body.sink.offset) > 0:
            await bodies.receiver.receive(peer, body.sink, left, body.stop, DEADLINE)
        peer.close()
        transport.resume_reading()
        while protocol.received != b"GET":
            await asyncio.sleep(0.001)
        assert body.content == content
        transport.close()
        server.close()
        await bodies.aclose()

    run(asyncio.wait_for(receive(), DEADLINE))
