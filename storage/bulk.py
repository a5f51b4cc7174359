"""Many bytes on their way into a file: from a pipe, or as blocks of memory past the page cache.

What shall be durable goes past the page cache where the file system has it: that runs at the speed
of the disk, takes a fraction of the CPU time and leaves next to nothing to sync.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.interfaces import Writes

#: Where blocks begin, in a file and in memory, that can go past the page cache.
BLOCK = mmap.PAGESIZE
# Less is not worth waiting for the disk.
_DIRECT_LEAST = 64 * 1024
# So many bytes in the page cache are given to the disk before anybody asks for a sync.
_BEHIND = 2**20
_REFUSALS = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


class Bulk:
    """Write to one file; a method returns how many bytes it wrote, at least one of them."""

    def __init__(self, file: int, *, durable: bool) -> None:
        """Take it that a sync follows soon where it shall be `durable`."""
        self._file = file
        self._durable = durable
        self._behind = 0
        #: Whether blocks of memory do better here than a pipe.
        self.direct = durable

    def splice(self, pipe: int, count: int, position: int) -> int:
        """Move bytes that a pipe holds."""
        try:
            moved = os.splice(pipe, self._file, count, offset_dst=position)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            moved = self._copy(os.read(pipe, count), position)
        self._write_behind(position, moved)
        return moved

    def _copy(self, memory: bytes, position: int) -> int:
        written = 0
        while written < len(memory):
            written += os.pwrite(self._file, memory[written:], position + written)
        return written

    def write(self, memory: memoryview, position: int) -> int:
        """Write memory in which blocks begin where they do in the file."""
        head = -position % BLOCK
        whole = (len(memory) - head) // BLOCK * BLOCK
        if self.direct and whole >= _DIRECT_LEAST:
            if not head:
                return self._write_direct(memory[:whole], position)
            memory = memory[:head]
        written = os.pwrite(self._file, memory, position)
        self._write_behind(position, written)
        return written

    def begin(self, writes: Writes, blocks: memoryview, position: int) -> bool:
        """Begin to write blocks that lie in memory as in the file; False: it was not begun."""
        if not self.direct or len(blocks) < _DIRECT_LEAST:
            return False
        with suppress(OSError), self._past_the_page_cache():
            return writes.begin(self._file, blocks, position)
        return False

    def _write_direct(self, blocks: memoryview, position: int) -> int:
        try:
            with self._past_the_page_cache():
                return os.pwrite(self._file, blocks, position)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self.direct = False
        return os.pwrite(self._file, blocks, position)

    @contextmanager
    def _past_the_page_cache(self) -> Iterator[None]:
        """Have what begins here go there; all else could not be written in such a way."""
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_DIRECT)
            yield
        finally:
            fcntl.fcntl(self._file, fcntl.F_SETFL, 0)

    def _write_behind(self, position: int, count: int) -> None:
        self._behind += count
        if self._durable and self._behind >= _BEHIND:
            start, size, self._behind = position + count - self._behind, self._behind, 0
            # It drops what is on the disk already, and sends it the rest.
            with suppress(OSError):
                os.posix_fadvise(self._file, max(0, start), size, os.POSIX_FADV_DONTNEED)
