"""System calls of Linux that Python's `os` lacks, where the kernel lets us have them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# struct iocb and struct io_event of linux/aio_abi.h, on machines whose least byte comes first.
_REQUEST = struct.Struct("<QIIHhIQQqQII")
_EVENT = struct.Struct("<QQqq")
_FSYNC, _FDSYNC = 2, 3
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


class Aio:
    """Sync files while this thread does something else (io_submit(2)).

    What is over is told by `event`, an eventfd that can be read then.
    """

    def __init__(self, most: int) -> None:
        """Have about `most` syncs under way at most; raise Unsupported or OSError."""
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or sys.byteorder != "little" or sys.maxsize < 2**32:
            raise Unsupported(errno.ENOSYS, "not on this machine")
        self._numbers = numbers
        self._most = most
        self._context = ctypes.c_ulong()
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._requests = ctypes.create_string_buffer(_REQUEST.size * most)
        start = ctypes.addressof(self._requests)
        places = (start + _REQUEST.size * index for index in range(most))
        self._places = (ctypes.c_void_p * most)(*places)
        self._events = ctypes.create_string_buffer(_EVENT.size * most)
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if self._syscall(numbers.setup, most, ctypes.byref(self._context)) < 0:
            os.close(self.event)
            raise Unsupported(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def submit(self, syncs: Sequence[tuple[int, int, bool]]) -> int:
        """Begin to sync files; return how many of them: fewer where too many are under way.

        Each is a number to tell it by, a descriptor, and whether it is a directory.

        Raises:
            OSError: the first of them cannot be synced.
        """
        for index, (number, descriptor, names) in enumerate(syncs[: self._most]):
            what = _FSYNC if names else _FDSYNC
            request = (number, 0, 0, what, 0, descriptor, 0, 0, 0, 0, _TELL_EVENT_FD, self.event)
            _REQUEST.pack_into(self._requests, _REQUEST.size * index, *request)
        count = ctypes.c_long(min(len(syncs), self._most))
        taken: int = self._syscall(self._numbers.submit, self._context, count, self._places)
        if taken >= 0:
            return taken
        if ctypes.get_errno() == errno.EAGAIN:
            return 0
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def ended(self) -> list[tuple[int, OSError | None]]:
        """Return those that are over by their numbers, with what went wrong."""
        os.eventfd_read(self.event)
        found = self._some()
        # The kernel may let more be under way than it was asked for; it tells of each only once.
        while len(found) % self._most == 0 and (more := self._some()):
            found += more
        return found

    def _some(self) -> list[tuple[int, OSError | None]]:
        least, most = ctypes.c_long(0), ctypes.c_long(self._most)
        count: int = self._syscall(
            self._numbers.getevents, self._context, least, most, self._events, None
        )
        events = (_EVENT.unpack_from(self._events, _EVENT.size * index) for index in range(count))
        return [(number, _error(result)) for number, _, result, _ in events]

    def close(self) -> None:
        """Return when nothing is under way any more."""
        self._syscall(self._numbers.destroy, self._context)
        os.close(self.event)


def _error(result: int) -> OSError | None:
    return OSError(-result, os.strerror(-result)) if result < 0 else None
