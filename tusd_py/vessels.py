"""What carries many bytes from a socket to a sink: a pipe in the kernel, or memory."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import wait
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from concurrent.futures import Executor, Future

    from storage.interfaces import FileSink

_PIPE_SIZE = 2**20
_MEMORY_SIZE = 2**20


class Vessel(Protocol):
    """Hold bytes on their way; it belongs to one body at a time."""

    @property
    def room(self) -> int:
        """How many more it may hold."""

    @property
    def full(self) -> bool:
        """Tell whether it shall be emptied before it is filled again."""

    def begin(self, sink: FileSink) -> None:
        """Get ready, being empty, for what goes to the end of this sink."""

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
    def room(self) -> int:
        return self._size

    @property
    def full(self) -> bool:
        # Its places may be taken by a few bytes each.
        return self._held > 0

    def begin(self, sink: FileSink) -> None:
        pass

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


class Memory:
    """Gather bytes in pages that can go to the disk as they are (Vessel)."""

    def __init__(self) -> None:
        self._view = memoryview(mmap.mmap(-1, _MEMORY_SIZE))
        self._size = _MEMORY_SIZE
        self._first = self._last = 0

    def use(self, *, whole: bool) -> None:
        """Take all of it, or half: what was never used takes no room."""
        self._size = _MEMORY_SIZE if whole else _MEMORY_SIZE // 2

    @property
    def room(self) -> int:
        return self._size - self._last

    @property
    def full(self) -> bool:
        return self._last == self._size

    def begin(self, sink: FileSink) -> None:
        self._first = self._last = sink.skew

    def begin_page(self) -> None:
        """Get ready, being empty, for what goes to the beginning of a page."""
        self._first = self._last = 0

    def fill(self, peer: socket.socket, most: int) -> int:
        count = peer.recv_into(self._view[self._last : min(self._size, self._last + most)])
        self._last += count
        return count

    def empty(self, sink: FileSink) -> None:
        if self._last > self._first:
            sink.write_pages(self._view[self._first : self._last])
            self.begin(sink)

    finish = empty

    def close(self) -> None:
        # An error may still refer to it; it goes with the last that does.
        pass


class Pair:
    """Fill one memory while a thread writes the other (Vessel)."""

    def __init__(self, first: Memory, second: Memory, threads: Executor) -> None:
        """Give neither of them back before this is finished or closed."""
        self._filled, self._written = first, second
        self._threads = threads
        self._writing: Future[None] | None = None

    @property
    def room(self) -> int:
        return self._filled.room

    @property
    def full(self) -> bool:
        return self._filled.full

    def begin(self, sink: FileSink) -> None:
        self._filled.begin(sink)

    def fill(self, peer: socket.socket, most: int) -> int:
        return self._filled.fill(peer, most)

    def empty(self, sink: FileSink) -> None:
        self._wait()
        self._filled, self._written = self._written, self._filled
        self._writing = self._threads.submit(self._written.empty, sink)
        # What is full ends where a page does.
        self._filled.begin_page()

    def finish(self, sink: FileSink) -> None:
        self._wait()
        self._filled.finish(sink)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        if self._writing is not None:
            wait([self._writing])
