"""While one block of a ring is written the next is filled, and nothing changes places."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from storage.errors import StorageFull
from tests.tusd_py.test_exchange import ListWriter
from tusd_py import vessels
from tusd_py.vessels import Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.interfaces import Writes

SIZE = 8192


class Pending:
    """Hold what was begun until it is waited for (storage.interfaces.Writes)."""

    def __init__(self) -> None:
        self.under_way: list[memoryview] = []
        self.closed = False

    @property
    def size(self) -> int:
        return sum(map(len, self.under_way))

    def __len__(self) -> int:
        return len(self.under_way)

    def begin(self, file: int, memory: memoryview, position: int) -> bool:
        del file, position
        self.under_way.append(memory)
        return True

    def end(self) -> tuple[memoryview, int]:
        memory = self.under_way.pop(0)
        return memory, len(memory)

    def close(self) -> None:
        self.closed = True


class PagesWriter(ListWriter):
    """Keep what is written when it is waited for (storage.interfaces.FileSink)."""

    direct = True
    full = False

    @property
    def skew(self) -> int:
        return self.offset % 4096

    def splice(self, pipe: int, count: int) -> None:
        raise AssertionError

    def write_pages(self, memory: memoryview) -> None:
        if self.full:
            raise StorageFull
        self.write([bytes(memory)])

    def begin_pages(self, memory: memoryview, writes: Writes, to_come: int) -> None:
        del to_come
        writes.begin(0, memory, 0)

    def end_pages(self, writes: Writes, most: int = 0) -> None:
        while len(writes) > most:
            self.write_pages(writes.end()[0])


@pytest.fixture
def pending() -> Pending:
    return Pending()


@pytest.fixture
def ring(pending: Pending, monkeypatch: pytest.MonkeyPatch) -> Ring:
    monkeypatch.setattr(vessels, "_RING_SIZE", 2 * SIZE)
    monkeypatch.setattr(vessels, "_BLOCK_SIZE", SIZE // 2)
    return Ring(pending)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def fill(
    ring: Ring, ends: tuple[socket.socket, socket.socket], content: bytes, to_come: int = 1
) -> None:
    ours, theirs = ends
    theirs.sendall(content)
    while content:
        content = content[ring.fill(ours, len(content) + to_come) :]


def test_a_ring_is_filled_while_it_is_written(
    ring: Ring, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = PagesWriter()
    ring.begin(sink)
    fill(ring, ends, b"a" * SIZE)
    assert ring.full
    ring.empty(sink)
    assert sink.content == b""
    assert not ring.full
    fill(ring, ends, b"b" * SIZE)
    ring.empty(sink)
    # Its place is filled next.
    assert sink.content == b"a" * SIZE
    fill(ring, ends, b"c" * 5)
    ring.finish(sink)
    assert sink.content == b"a" * SIZE + b"b" * SIZE + b"c" * 5


def test_a_ring_begins_where_the_file_ends(
    ring: Ring, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = PagesWriter()
    sink.write([b"xyz"])
    ring.begin(sink)
    fill(ring, ends, b"a" * (SIZE - 3))
    assert ring.full
    ring.empty(sink)
    fill(ring, ends, b"b" * SIZE)
    assert ring.full
    ring.finish(sink)
    assert sink.content == b"xyz" + b"a" * (SIZE - 3) + b"b" * SIZE


def test_what_comes_last_is_written_at_once(
    ring: Ring, pending: Pending, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = PagesWriter()
    ring.begin(sink)
    fill(ring, ends, b"a" * SIZE, to_come=0)
    ring.empty(sink)
    assert (sink.content, len(pending)) == (b"a" * SIZE, 0)


def test_one_of_many_rings_waits_for_what_it_writes_and_takes_less_room(
    ring: Ring, pending: Pending, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = PagesWriter()
    ring.use(whole=False)
    ring.begin(sink)
    fill(ring, ends, b"a" * (SIZE // 2))
    assert ring.full
    ring.empty(sink)
    assert (sink.content, len(pending)) == (b"a" * (SIZE // 2), 0)
    ring.use(whole=True)
    ring.begin(sink)
    fill(ring, ends, b"b" * SIZE)
    ring.finish(sink)
    assert sink.content == b"a" * (SIZE // 2) + b"b" * SIZE


def test_without_what_writes_meanwhile_a_ring_waits(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vessels, "_RING_SIZE", 2 * SIZE)
    ring, sink = Ring(None), PagesWriter()
    ring.begin(sink)
    fill(ring, ends, b"a" * SIZE)
    ring.empty(sink)
    assert sink.content == b"a" * SIZE
    fill(ring, ends, b"b")
    ring.finish(sink)
    assert sink.content == b"a" * SIZE + b"b"
    ring.settle()
    ring.close()


def test_an_error_of_what_is_under_way_is_told_and_nothing_follows_it(
    ring: Ring, pending: Pending, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = PagesWriter()
    sink.full = True
    ring.begin(sink)
    fill(ring, ends, b"a" * SIZE)
    ring.empty(sink)
    fill(ring, ends, b"b" * SIZE)
    with pytest.raises(StorageFull):
        ring.finish(sink)
    assert sink.content == b""
    # Whoever uses its memory next shall write nothing of this.
    ring.settle()
    assert not pending.under_way


def test_what_writes_for_a_ring_is_given_back_with_it(ring: Ring, pending: Pending) -> None:
    ring.close()
    assert pending.closed
