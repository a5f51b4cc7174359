"""The last bytes of a disk, which uploads leave to those who need them to make room."""

from __future__ import annotations

import os
import time

from storage.errors import NoRoom

# How long, in seconds, and for how many bytes an answer of the disk is believed.
_SECONDS = 0.1
_BYTES = 2**20


class Room:
    """Keep `reserve` bytes of a disk free: one look at it for all who write, now and then."""

    def __init__(self, reserve: int) -> None:
        """Let everything be written when `reserve` is 0."""
        self._reserve = reserve
        self._left = 0
        self._until = 0.0

    def take(self, descriptor: int, count: int) -> None:
        """Let `count` bytes be written to this file; raise NoRoom or OSError."""
        self._left -= count
        if self._reserve and (self._left < 0 or time.monotonic() >= self._until):
            self.check(descriptor)
            self._left -= count

    def check(self, place: int | str) -> None:
        """Ask the disk of this file or directory whether there is room; raise NoRoom or OSError."""
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize
        if free < self._reserve:
            self._until = 0.0
            raise NoRoom(f"the disk has no room: {free} bytes are free")
        # Others write too: the closer to the end, the sooner the next question.
        self._left = min((free - self._reserve) // 8, _BYTES)
        self._until = time.monotonic() + _SECONDS
