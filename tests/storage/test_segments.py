"""Blocks that are written while others come are counted in order, and only those that are there."""

from __future__ import annotations

import errno
import mmap
import os
from array import array
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from storage.aio import Unsupported, Writes
from storage.durability import choose
from storage.errors import DiskFailed, NoRoom
from storage.filestore import FileStore
from storage.room import Room
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.segments import FileWriter

BLOCK = 256 * 1024
COUNT = 6


class Scripted:
    """Write when it is waited for, but only as much as it was told (storage.interfaces.Writes)."""

    def __init__(self, *most: int) -> None:
        self.most = [*most, *[BLOCK] * COUNT]
        self.under_way: list[tuple[int, memoryview, int]] = []
        self._pwrite = os.pwrite

    @property
    def size(self) -> int:
        return sum(len(memory) for _, memory, _ in self.under_way)

    def __len__(self) -> int:
        return len(self.under_way)

    def begin(self, file: int, memory: memoryview, position: int) -> bool:
        self.under_way.append((file, memory, position))
        return True

    def end(self) -> tuple[memoryview, int]:
        file, memory, position = self.under_way.pop(0)
        count = min(len(memory), self.most.pop(0))
        return memory, self._pwrite(file, memory[:count], position) if count else 0

    def close(self) -> None:
        pass


class Refused(Scripted):
    """Begin nothing."""

    def begin(self, file: int, memory: memoryview, position: int) -> bool:
        del file, memory, position
        return False


@pytest.fixture
def blocks() -> Iterator[memoryview]:
    """Give memory that begins with a page, no two blocks of it alike."""
    with mmap.mmap(-1, COUNT * BLOCK) as pages:
        pages.write(array("Q", range(COUNT * BLOCK // 8)).tobytes())
        view = memoryview(pages)
        yield view
        view.release()


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path, 0, choose("request"))
    store.prepare()
    return store


@pytest.fixture
def writer(store: FileStore) -> Iterator[FileWriter]:
    writer = store.begin(Upload(str(uuid4()), None, None, 1.0, 2.0))
    yield writer
    writer.close()


def content(store: FileStore, writer: FileWriter) -> bytes:
    return (store.directory / writer.upload.id).read_bytes()


def write(writer: FileWriter, memory: memoryview, writes: Scripted | Writes) -> None:
    """Write memory block by block, each behind what is under way."""
    begin, skew = 0, writer.skew
    while begin < len(memory):
        end = min(len(memory), (begin + skew) // BLOCK * BLOCK + BLOCK - skew)
        writer.begin_pages(memory[begin:end], writes, len(memory) - end)
        writer.end_pages(writes, 3)
        begin = end
    writer.end_pages(writes)


@pytest.fixture
def kernel() -> Iterator[Writes]:
    try:
        writes = Writes(8)
    except Unsupported:
        pytest.skip("this kernel does not let us have it")
    yield writes
    writes.close()


@pytest.mark.parametrize("bounds", [(0, 0), (0, 7), (5, 0), (4095, 4095), (4096, 1)])
def test_blocks_get_into_the_file_as_they_are(
    store: FileStore,
    writer: FileWriter,
    blocks: memoryview,
    kernel: Writes,
    bounds: tuple[int, int],
) -> None:
    memory = blocks[: len(blocks) - bounds[1]]
    writer.write([memory[: bounds[0]]])
    write(writer, memory[bounds[0] :], kernel)
    assert writer.offset == len(memory)
    assert content(store, writer) == memory


def test_what_is_under_way_is_not_counted(writer: FileWriter, blocks: memoryview) -> None:
    writes = Scripted()
    for at in range(3):
        writer.begin_pages(blocks[at * BLOCK : (at + 1) * BLOCK], writes, 0)
    assert (writer.offset, len(writes)) == (0, 3)
    writer.end_pages(writes, 1)
    assert (writer.offset, len(writes)) == (2 * BLOCK, 1)


@pytest.mark.parametrize("short", [0, 4096, 5000])
def test_what_was_written_in_part_is_written_again_with_all_behind_it(
    store: FileStore, writer: FileWriter, blocks: memoryview, short: int
) -> None:
    write(writer, blocks, Scripted(BLOCK, short))
    assert writer.offset == len(blocks)
    assert content(store, writer) == blocks


def test_of_a_write_that_fails_in_the_middle_nothing_behind_it_counts(
    store: FileStore, writer: FileWriter, blocks: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, again = Scripted(BLOCK, 4096), []

    def fail(_: int, memory: memoryview, position: int) -> int:
        again.append((len(memory), position))
        raise OSError(errno.EIO, "Input/output error")

    for at in range(4):
        writer.begin_pages(blocks[at * BLOCK : (at + 1) * BLOCK], writes, 0)
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(DiskFailed):
        writer.end_pages(writes)
    assert again == [(BLOCK - 4096, BLOCK + 4096)]
    assert (writer.offset, len(writes)) == (BLOCK + 4096, 0)
    # What came behind has not kept its room either.
    assert content(store, writer) == blocks[: writer.offset]


def test_where_nothing_can_be_begun_it_is_written_at_once(
    store: FileStore, writer: FileWriter, blocks: memoryview
) -> None:
    write(writer, blocks, Refused())
    assert writer.offset == len(blocks)
    assert content(store, writer) == blocks


def test_a_disk_without_room_takes_what_was_begun_and_nothing_more(
    store: FileStore, writer: FileWriter, blocks: memoryview
) -> None:
    writes = Scripted()
    writer.begin_pages(blocks[:BLOCK], writes, BLOCK)
    writer._room = Room(2**62)
    with pytest.raises(NoRoom):
        writer.begin_pages(blocks[BLOCK : 2 * BLOCK], writes, 0)
    assert (writer.offset, len(writes)) == (BLOCK, 0)
    assert content(store, writer) == blocks[:BLOCK]


def test_a_file_ends_with_what_it_has_though_more_was_to_come(
    store: FileStore, writer: FileWriter, blocks: memoryview, kernel: Writes
) -> None:
    writer.begin_pages(blocks[:BLOCK], kernel, 10 * BLOCK)
    writer.end_pages(kernel)
    assert content(store, writer) == blocks[:BLOCK]


def test_the_kernel_tells_of_an_error_as_of_nothing_written(
    kernel: Writes, blocks: memoryview
) -> None:
    reading, writing = os.pipe()
    begun = kernel.begin(reading, blocks[:BLOCK], 0)
    if begun:
        assert kernel.end() == (blocks[:BLOCK], 0)
    assert (len(kernel), kernel.size) == (0, 0)
    os.close(reading)
    os.close(writing)


def test_the_kernel_ends_writes_in_the_order_in_which_they_began(
    kernel: Writes, blocks: memoryview, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("wb") as file:
        for at in reversed(range(COUNT)):
            piece = blocks[at * BLOCK : (at + 1) * BLOCK]
            assert kernel.begin(file.fileno(), piece, at * BLOCK)
        assert (len(kernel), kernel.size) == (COUNT, COUNT * BLOCK)
        for at in reversed(range(COUNT)):
            assert kernel.end() == (blocks[at * BLOCK : (at + 1) * BLOCK], BLOCK)
    assert (tmp_path / "file").read_bytes() == blocks
