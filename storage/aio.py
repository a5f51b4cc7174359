"""System calls of Linux that Python's `os` lacks, where the kernel lets us have them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# struct iocb and struct io_event of linux/aio_abi.h, on machines whose least byte comes first.
_REQUEST = struct.Struct("<QIIHhIQQqQII")
_EVENT = struct.Struct("<QQqq")
_PWRITE, _FSYNC, _FDSYNC = 1, 2, 3
_TELL_EVENT_FD = 1


@dataclass(frozen=True, slots=True)
class _Numbers:
    """System calls have numbers, other ones on other machines."""

    setup: int
    destroy: int
    getevents: int
    submit: int


_NUMBERS = {"x86_64": _Numbers(206, 207, 208, 209), "aarch64": _Numbers(0, 1, 4, 2)}


class Unsupported(OSError):
    """This kernel, or what it runs on, has no such call, or keeps it from us."""


class Context:
    """Requests under way in the kernel; whoever uses it does so in one thread at a time."""

    def __init__(self, most: int) -> None:
        """Have about `most` of them under way at most; raise Unsupported."""
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or sys.byteorder != "little" or sys.maxsize < 2**32:
            raise Unsupported(errno.ENOSYS, "not on this machine")
        self._numbers = numbers
        self.most = most
        self._context = ctypes.c_ulong()
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._requests = ctypes.create_string_buffer(_REQUEST.size * most)
        start = ctypes.addressof(self._requests)
        places = (start + _REQUEST.size * index for index in range(most))
        self._places = (ctypes.c_void_p * most)(*places)
        self._events = ctypes.create_string_buffer(_EVENT.size * most)
        if self._syscall(numbers.setup, most, ctypes.byref(self._context)) < 0:
            raise Unsupported(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def put(self, index: int, *fields: int) -> None:
        """Have this be the request that is submitted at that place."""
        _REQUEST.pack_into(self._requests, _REQUEST.size * index, *fields)

    def submit(self, count: int) -> int:
        """Begin the first ones; return how many of them: fewer where too many are under way.

        Raises:
            OSError: the first of them cannot be done.
        """
        wanted = ctypes.c_long(count)
        taken: int = self._syscall(self._numbers.submit, self._context, wanted, self._places)
        if taken >= 0:
            return taken
        if ctypes.get_errno() == errno.EAGAIN:
            return 0
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def ended(self, least: int = 0) -> list[tuple[int, int]]:
        """Wait until that many are over; return the numbers of some, and what came of them."""
        wanted, most = ctypes.c_long(least), ctypes.c_long(self.most)
        while True:
            count: int = self._syscall(
                self._numbers.getevents, self._context, wanted, most, self._events, None
            )
            # A signal came first.
            if count >= 0 or ctypes.get_errno() != errno.EINTR:
                break
        events = (_EVENT.unpack_from(self._events, _EVENT.size * index) for index in range(count))
        return [(number, result) for number, _, result, _ in events]

    def close(self) -> None:
        """Return when nothing is under way any more."""
        self._syscall(self._numbers.destroy, self._context)


class Aio:
    """Sync files while this thread does something else (io_submit(2)).

    What is over is told by `event`, an eventfd that can be read then.
    """

    def __init__(self, most: int) -> None:
        """Have about `most` syncs under way at most; raise Unsupported or OSError."""
        self._most = most
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._context = Context(most)
        except Unsupported:
            os.close(self.event)
            raise

    def submit(self, syncs: Sequence[tuple[int, int, bool]]) -> int:
        """Begin to sync files; return how many of them: fewer where too many are under way.

        Each is a number to tell it by, a descriptor, and whether it is a directory.

        Raises:
            OSError: the first of them cannot be synced.
        """
        for index, (number, descriptor, names) in enumerate(syncs[: self._most]):
            what = _FSYNC if names else _FDSYNC
            self._context.put(
                index, number, 0, 0, what, 0, descriptor, 0, 0, 0, 0, _TELL_EVENT_FD, self.event
            )
        return self._context.submit(min(len(syncs), self._most))

    def ended(self) -> list[tuple[int, OSError | None]]:
        """Return those that are over by their numbers, with what went wrong."""
        os.eventfd_read(self.event)
        found = self._context.ended()
        # The kernel may let more be under way than it was asked for; it tells of each only once.
        while len(found) % self._most == 0 and (more := self._context.ended()):
            found += more
        return [(number, _error(result)) for number, result in found]

    def close(self) -> None:
        """Return when nothing is under way any more."""
        self._context.close()
        os.close(self.event)


class Writes:
    """Write memory to files while this thread does something else (storage.interfaces.Writes)."""

    def __init__(self, most: int) -> None:
        """Have up to `most` of them under way; raise Unsupported."""
        self._context = Context(most)
        self._begun = 0
        self._under_way: deque[tuple[int, memoryview]] = deque()
        self._results: dict[int, int] = {}
        #: How many bytes are being written.
        self.size = 0

    def __len__(self) -> int:
        """Tell how many writes are under way."""
        return len(self._under_way)

    def begin(self, file: int, memory: memoryview, position: int) -> bool:
        """Begin to write; False: it was not begun. Keep the memory as it is until it has ended."""
        number, size = self._begun, len(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._context.put(0, number, 0, 0, _PWRITE, 0, file, address, size, position, 0, 0, 0)
        try:
            taken = self._context.submit(1)
        except OSError:
            taken = 0
        if taken:
            self._under_way.append((number, memory))
            self._begun += 1
            self.size += size
        return taken > 0

    def end(self) -> tuple[memoryview, int]:
        """Wait for the write that began first; return its memory, and how much was written."""
        number, memory = self._under_way.popleft()
        while number not in self._results:
            self._results.update(self._context.ended(1))
        self.size -= len(memory)
        return memory, max(0, self._results.pop(number))

    def close(self) -> None:
        """Return when nothing is under way any more."""
        self._context.close()


def _error(result: int) -> OSError | None:
    return OSError(-result, os.strerror(-result)) if result < 0 else None
