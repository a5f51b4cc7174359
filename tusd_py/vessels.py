"""What carries many bytes from a socket to a sink: a pipe in the kernel, or memory."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from storage.interfaces import FileSink, Writes

_PIPE_SIZE = 2**20
# Bytes of memory, which is twice what the disk is fastest with: each write costs time.
_RING_SIZE = 2 * 2**20
# The same where there are many.
_BLOCK_SIZE = 2**19


class Vessel(Protocol):
    """Hold bytes on their way; it belongs to one body at a time."""

    @property
    def low_water(self) -> int:
        """How many bytes are worth a fill, unless less will come; it has room for them."""

    @property
    def full(self) -> bool:
        """Tell whether it shall be emptied before it is filled again."""

    def begin(self, sink: FileSink) -> None:
        """Get ready, being empty, for what goes to the end of this sink."""

    def put(self, content: bytes, sink: FileSink) -> None:
        """Take all of this, or bring it to the sink. Raises as `empty`."""

    def fill(self, peer: socket.socket, most: int) -> int:
        """Take what is there, at most `most`; 0: the peer has said all.

        Raises:
            BlockingIOError: there is nothing.
            OSError: the connection is broken, and nothing is left of it.
        """

    def empty(self, sink: FileSink) -> None:
        """Make room, at least by beginning to write. Raises as FileSink.splice; close it then."""

    def finish(self, sink: FileSink) -> None:
        """Write all that it holds; nothing is under way after that. Raises as `empty`."""

    def close(self) -> None:
        """Give back what it is made of; nothing is under way after that."""


class Pipe:
    """Move bytes without looking at them (Vessel)."""

    def __init__(self) -> None:
        self._out, self._into = os.pipe()
        # A user who is not root has so much for pipes and no more; a small one does as well.
        with suppress(OSError):
            fcntl.fcntl(self._into, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._size = fcntl.fcntl(self._into, fcntl.F_GETPIPE_SZ)
        self._held = 0

    @property
    def low_water(self) -> int:
        return min(self._size, _PIPE_SIZE // 2)

    @property
    def full(self) -> bool:
        # Its places may be taken by a few bytes each.
        return self._held > 0

    def begin(self, sink: FileSink) -> None:
        pass

    def put(self, content: bytes, sink: FileSink) -> None:
        sink.write([content])

    def fill(self, peer: socket.socket, most: int) -> int:
        most = min(most, self._size)
        try:
            count = os.splice(peer.fileno(), self._into, most, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Not every kind of socket can.
            count = os.write(self._into, peer.recv(most))
        self._held += count
        return count

    def empty(self, sink: FileSink) -> None:
        if self._held:
            sink.splice(self._out, self._held)
            self._held = 0

    finish = empty

    def close(self) -> None:
        os.close(self._out)
        os.close(self._into)


class Ring:
    """Gather bytes in blocks that go to the disk as they are, one while others do (Vessel)."""

    def __init__(self, writes: Writes | None) -> None:
        """Own what writes them; None: to write is to wait."""
        self._writes = writes
        self._memory = mmap.mmap(-1, _RING_SIZE)
        self._view = memoryview(self._memory)
        self._size, self._count = _RING_SIZE // 2, 2
        self._block = self._first = self._last = self._to_come = 0

    def use(self, *, whole: bool) -> None:
        """Take all of it, in two blocks, or one smaller block; the rest takes no room then."""
        before = self._count
        self._size, self._count = (_RING_SIZE // 2, 2) if whole else (_BLOCK_SIZE, 1)
        if self._count < before:
            self._memory.madvise(mmap.MADV_DONTNEED, _BLOCK_SIZE)

    @property
    def low_water(self) -> int:
        # A peer sends about twice as much before it has to wait.
        return min(self._size // 2, self._size - self._last)

    @property
    def full(self) -> bool:
        return self._last == self._size

    def begin(self, sink: FileSink) -> None:
        self._first = self._last = sink.skew

    def put(self, content: bytes, sink: FileSink) -> None:
        while content:
            start, count = self._block * self._size, min(len(content), self._size - self._last)
            self._view[start + self._last : start + self._last + count] = content[:count]
            self._last += count
            content = content[count:]
            if self.full:
                self.empty(sink)

    def fill(self, peer: socket.socket, most: int) -> int:
        start = self._block * self._size
        end = min(self._size, self._last + most)
        count = peer.recv_into(self._view[start + self._last : start + end])
        self._last += count
        self._to_come = most - count
        return count

    def empty(self, sink: FileSink) -> None:
        start = self._block * self._size
        filled = self._view[start + self._first : start + self._last]
        if self._writes is None or self._count == 1 or not (self._to_come or self._writes):
            # There is nothing to do meanwhile.
            sink.write_pages(filled)
        else:
            sink.begin_pages(filled, self._writes, self._to_come)
            # The next one was begun longest ago.
            sink.end_pages(self._writes, self._count - 1)
        self._block = (self._block + 1) % self._count
        # What is full ends where a page does.
        self._first = self._last = 0

    def finish(self, sink: FileSink) -> None:
        if self._last > self._first:
            self.empty(sink)
        if self._writes is not None:
            sink.end_pages(self._writes)

    def settle(self) -> None:
        """Wait for what is under way; nobody counts it any more."""
        while self._writes:
            self._writes.end()

    def close(self) -> None:
        """Give back what it is made of; nothing is under way after that."""
        if self._writes is not None:
            self._writes.close()
