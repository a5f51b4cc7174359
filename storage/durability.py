"""What an acknowledgement waits for: the policies that a data store may follow.

A store writes data, lets it be synced, writes the journal's line that counts it, and lets that be
synced too; names of files are synced before anybody is told of them. A policy says which of these
syncs take place, when, and who shares them.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

Policy = Literal["request", "interval", "none"]


class Durability(Protocol):
    """Bring what was written to stable storage, as far as anybody shall wait for that.

    Every method blocks and raises OSError. After an error nothing is known of what was written
    since the last success: the kernel tells of a loss once, and takes the pages for clean then.
    """

    @property
    def prompt(self) -> bool:
        """Tell whether nothing here blocks."""

    def turn(self, size: int) -> None:
        """Wait until syncs may begin that concern `size` bytes."""

    def due(self, size: int) -> bool:
        """Tell whether `size` bytes that nobody waits for yet shall be synced already."""

    def file(self, descriptor: int) -> None:
        """Sync what a file holds, and all it takes to read that again."""

    def directory(self, path: Path) -> None:
        """Sync the names in a directory."""


def choose(policy: Policy, seconds: float, size: int) -> Durability:
    """Return the policy of that name; `interval` syncs every `seconds` or `size` bytes."""
    match policy:
        case "request":
            return PerRequest()
        case "interval":
            return PerInterval(seconds, size)
        case "none":
            return Unsynced()


class PerRequest:
    """Sync before each acknowledgement.

    Nothing is shared here: the kernel lets syncs that come at once share what they can, and does it
    cheaper than threads that wait for each other.
    """

    prompt = False

    def turn(self, size: int) -> None:
        pass

    def due(self, size: int) -> bool:
        del size
        return True

    def file(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def directory(self, path: Path) -> None:
        sync_directory(path)


class PerInterval(PerRequest):
    """Sync before each acknowledgement too, but let many wait for the same time to do so."""

    def __init__(self, seconds: float, size: int) -> None:
        """Let nobody pass within `seconds` of the last ones, unless they bring `size` bytes."""
        self._seconds = seconds
        self._size = size
        self._passed = threading.Condition()
        self._round = 0
        self._began = -seconds
        #: Bytes whose sync somebody waits for.
        self.waiting = 0

    def turn(self, size: int) -> None:
        with self._passed:
            mine = self._round
            self.waiting += size
            if self.waiting >= self._size:
                self._pass()
            while mine == self._round:
                left = self._began + self._seconds - time.monotonic()
                if left <= 0:
                    self._pass()
                else:
                    self._passed.wait(left)

    def _pass(self) -> None:
        self._round += 1
        self._began = time.monotonic()
        self.waiting = 0
        self._passed.notify_all()

    def due(self, size: int) -> bool:
        return size >= self._size or time.monotonic() >= self._began + self._seconds


class Unsynced:
    """Leave all to the operating system: a power cut takes what it has not written by then."""

    prompt = True

    def turn(self, size: int) -> None:
        pass

    def due(self, size: int) -> bool:
        del size
        return True

    def file(self, descriptor: int) -> None:
        pass

    def directory(self, path: Path) -> None:
        pass


def sync_directory(path: Path) -> None:
    """Sync the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_way(directory: Path) -> None:
    """Sync the names in a directory, and those by which it is found."""
    sync_directory(directory)
    for place in directory.resolve().parents:
        # Some are not ours to read, and not ours to have made either.
        with suppress(OSError):
            sync_directory(place)
