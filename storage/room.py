"""The last bytes of a disk, which uploads leave to those who need them to make room."""

from __future__ import annotations

import errno
import os
import time

# How long, in seconds, and for how many bytes an answer of the disk is believed.
_SECONDS = 1.0
_BYTES = 64 * 2**20


class Room:
    """Keep `reserve` bytes of a disk free, asking it only now and then."""

    def __init__(self, reserve: int) -> None:
        """Let everything be written when `reserve` is 0."""
        self._reserve = reserve
        self._left = 0
        self._until = 0.0

    def take(self, descriptor: int, count: int) -> None:
        """Let `count` bytes be written to this file; raise OSError when there is no room."""
        # Threads that come at once may count one another's bytes wrong; the next answer is right.
        self._left -= count
        if self._reserve and (self._left < 0 or time.monotonic() >= self._until):
            self._left = self._ask(descriptor) - count
            self._until = time.monotonic() + _SECONDS

    def _ask(self, descriptor: int) -> int:
        disk = os.fstatvfs(descriptor)
        room = disk.f_bavail * disk.f_frsize - self._reserve
        if room < 0:
            raise OSError(errno.ENOSPC, "the rest is kept for the server itself")
        # Others write too: the closer to the end, the sooner the next question.
        return min(room // 8, _BYTES)
