"""Many bytes get into a file as they are, by whichever way its file system offers."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from storage.bulk import BLOCK, Bulk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 2**20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def memory() -> Iterator[memoryview]:
    """Give pages of memory, no two of them alike."""
    with mmap.mmap(-1, MIB) as pages:
        pages.write(array("Q", range(MIB // 8)).tobytes())
        with memoryview(pages) as view:
            yield view


def write_all(bulk: Bulk, memory: memoryview, position: int) -> None:
    while memory:
        count = bulk.write(memory, position)
        memory, position = memory[count:], position + count


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(
    ("first", "last"), [(0, MIB), (0, MIB - 1), (1, MIB), (BLOCK - 1, MIB // 2 + 1), (5, 100)]
)
def test_memory_gets_into_the_file_as_it_is(
    file: int, memory: memoryview, first: int, last: int, *, durable: bool
) -> None:
    os.pwrite(file, b"x" * first, 0)
    write_all(Bulk(file, durable=durable), memory[first:last], first)
    assert os.pread(file, 2 * MIB, first) == memory[first:last]


@pytest.mark.parametrize("durable", [True, False])
def test_a_pipe_gets_into_the_file_as_it_is(file: int, *, durable: bool) -> None:
    out, into = os.pipe()
    bulk, content = Bulk(file, durable=durable), os.urandom(3 * MIB)
    for start, end in pairwise(range(0, len(content) + 1, 32 * 1024)):
        os.write(into, content[start:end])
        position = start
        while position < end:
            position += bulk.splice(out, end - position, position)
    assert os.pread(file, 4 * MIB, 0) == content
    os.close(out)
    os.close(into)


def test_whole_blocks_go_past_the_page_cache_and_nothing_else_does(
    file: int, memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[bool, int, int]] = []
    write = os.pwrite

    def watch(descriptor: int, data: memoryview, position: int) -> int:
        direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        writes.append((direct, position, len(data)))
        return write(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", watch)
    write_all(Bulk(file, durable=True), memory[1:-1], 1)
    if all(not direct for direct, _, _ in writes):
        pytest.skip("this file system has nothing but the page cache")
    whole = MIB - 2 * BLOCK
    assert writes == [
        (False, 1, BLOCK - 1),
        (True, BLOCK, whole),
        (False, BLOCK + whole, BLOCK - 1),
    ]


def test_a_file_system_that_refuses_gets_the_bytes_by_the_page_cache(
    file: int, memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_flags = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return set_flags(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    bulk = Bulk(file, durable=True)
    assert bulk.direct
    write_all(bulk, memory, 0)
    assert not bulk.direct
    assert os.pread(file, 2 * MIB, 0) == memory


def test_a_pipe_that_the_kernel_does_not_move_is_read(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse)
    out, into = os.pipe()
    os.write(into, b"abcdef")
    assert Bulk(file, durable=False).splice(out, 6, 2) == 6
    assert os.pread(file, 10, 2) == b"abcdef"
    os.close(out)
    os.close(into)


def test_an_error_of_the_disk_comes_through_and_leaves_the_file_usable(
    file: int, memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    bulk = Bulk(file, durable=True)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="No space"):
        bulk.write(memory, 0)
    monkeypatch.setattr(os, "pwrite", write)
    # Nothing that is no whole block could be written otherwise.
    assert bulk.write(memory[:3], 0) == 3
