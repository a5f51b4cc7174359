"""While one half of a pair is written the other is filled, and nothing changes places."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from storage.errors import StorageFull
from tests.tusd_py.test_exchange import ListWriter
from tusd_py import vessels
from tusd_py.vessels import Memory, Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8192
DEADLINE = 60.0


class SlowFile(ListWriter):
    """Write when it is told to (storage.interfaces.FileSink)."""

    direct = True

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.full = False

    @property
    def skew(self) -> int:
        return self.offset % 4096

    def splice(self, pipe: int, count: int) -> None:
        raise AssertionError

    def write_pages(self, memory: memoryview) -> None:
        assert self.may_write.wait(DEADLINE)
        if self.full:
            raise StorageFull
        self.write([bytes(memory)])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def pair(threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(vessels, "_MEMORY_SIZE", SIZE)
    return Pair(Memory(), Memory(), threads)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def fill(pair: Pair, ends: tuple[socket.socket, socket.socket], content: bytes) -> None:
    ours, theirs = ends
    theirs.sendall(content)
    while content:
        content = content[pair.fill(ours, len(content)) :]


def test_a_pair_is_filled_while_it_is_written(
    pair: Pair, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = SlowFile()
    pair.begin(sink)
    fill(pair, ends, b"a" * SIZE)
    assert pair.full
    pair.empty(sink)
    # Nothing of it is written yet.
    assert not pair.full
    fill(pair, ends, b"b" * SIZE)
    sink.may_write.set()
    pair.empty(sink)
    fill(pair, ends, b"c" * 5)
    pair.finish(sink)
    assert sink.content == b"a" * SIZE + b"b" * SIZE + b"c" * 5


def test_a_pair_begins_where_the_file_ends(
    pair: Pair, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = SlowFile()
    sink.may_write.set()
    sink.write([b"xyz"])
    pair.begin(sink)
    assert pair.room == SIZE - 3
    fill(pair, ends, b"a" * (SIZE - 3))
    assert pair.full
    pair.empty(sink)
    assert pair.room == SIZE
    fill(pair, ends, b"b" * 10)
    pair.finish(sink)
    assert sink.content == b"xyz" + b"a" * (SIZE - 3) + b"b" * 10


def test_an_error_of_what_is_under_way_is_told_and_nothing_follows_it(
    pair: Pair, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = SlowFile()
    sink.full = True
    pair.begin(sink)
    fill(pair, ends, b"a" * SIZE)
    pair.empty(sink)
    fill(pair, ends, b"b" * 10)
    sink.may_write.set()
    with pytest.raises(StorageFull):
        pair.finish(sink)
    assert sink.content == b""


def test_whoever_closes_a_pair_waits_for_what_is_under_way(
    pair: Pair, ends: tuple[socket.socket, socket.socket]
) -> None:
    sink = SlowFile()
    pair.begin(sink)
    fill(pair, ends, b"a" * SIZE)
    pair.empty(sink)
    threading.Timer(0.05, sink.may_write.set).start()
    pair.close()
    assert sink.content == b"a" * SIZE
