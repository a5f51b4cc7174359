"""What an acknowledgement waits for: the policies that a data store may follow.

A store writes data, lets it be synced, writes the journal's line that counts it, and lets that be
synced too; names of files are synced before anybody is told of them. A policy says which of these
syncs take place, when, and who shares them.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
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
    """Sync before each acknowledgement."""

    prompt = False

    def __init__(self) -> None:
        """Share syncs of directories among all who use this object."""
        self._directories: dict[Path, Shared] = {}

    def turn(self, size: int) -> None:
        # The file system lets those share a commit that come at the same time.
        pass

    def due(self, size: int) -> bool:
        del size
        return True

    def file(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def directory(self, path: Path) -> None:
        shared = self._directories.get(path) or self._directories.setdefault(
            path, Shared(partial(sync_directory, path))
        )
        shared()


class PerInterval(PerRequest):
    """Sync before each acknowledgement too, but let many wait for the same time to do so."""

    def __init__(self, seconds: float, size: int) -> None:
        """Let nobody pass within `seconds` of the last ones, unless they bring `size` bytes."""
        super().__init__()
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


class _Round:
    """One run of a shared step; it failed until it is known that it did not."""

    def __init__(self) -> None:
        self.over = False
        self.error: OSError | None = OSError(errno.EIO, "what this waited for was not done")


class Shared:
    """Do a step for all who ask for it at once; who comes while it runs takes part in the next."""

    def __init__(self, step: Callable[[], None]) -> None:
        """Share `step`, which raises OSError: then all who take part do."""
        self._step = step
        self._changed = threading.Condition()
        self._running = False
        self._next = _Round()
        self.waiting = 0

    def __call__(self) -> None:
        """Return when the step has been done from its beginning since this call."""
        with self._changed:
            mine = self._next
            self.waiting += 1
            self._changed.wait_for(lambda: mine.over or not self._running)
            leads = not mine.over
            if leads:
                self._running, self._next, self.waiting = True, _Round(), 0
        if leads:
            self._run(mine)
        if mine.error is not None:
            raise OSError(*mine.error.args) from mine.error

    def _run(self, mine: _Round) -> None:
        try:
            self._step()
            mine.error = None
        except OSError as error:
            mine.error = error
        finally:
            with self._changed:
                mine.over, self._running = True, False
                self._changed.notify_all()


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
