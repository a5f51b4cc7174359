"""What an acknowledgement waits for, and how that is waited for.

A store writes data, lets it be synced, writes the journal's line that counts it, and lets that be
synced too; names of files are synced before anybody is told of them. It does so in steps that say
what has to be synced before the next one: so the order stands in one place, whether a thread waits
for it or an event loop (storage/syncs.py).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

T = TypeVar("T")
Policy = Literal["request", "interval", "none"]


class Sync(NamedTuple):
    """Ask that a file, or the names in a directory, be synced; `size` bytes are new in it."""

    descriptor: int
    size: int = 0
    names: bool = False

    def now(self) -> None:
        """Do it in this thread; raise OSError."""
        (os.fsync if self.names else os.fdatasync)(self.descriptor)


if TYPE_CHECKING:
    #: Each step yields what is synced before the next one, in any order. Where that failed it gets
    #: the OSError thrown in, once all of them are over.
    Steps = Generator[Sequence[Sync], None, T]


def do(steps: Steps[T]) -> T:
    """Take all of the steps in this thread, and return what they do; raise what they raise."""
    try:
        syncs = next(steps)
        while True:
            error = sync_all(syncs)
            syncs = next(steps) if error is None else steps.throw(error)
    except StopIteration as end:
        result: T = end.value
        return result


def sync_all(syncs: Sequence[Sync]) -> OSError | None:
    """Do them one after the other in this thread; return what went wrong."""
    try:
        for sync in syncs:
            sync.now()
    except OSError as error:
        return error
    return None


class Durability(Protocol):
    """Bring what was written to stable storage, as far as anybody shall wait for that.

    Every method blocks and raises OSError. After an error nothing is known of what was written
    since the last success: the kernel tells of a loss once, and takes the pages for clean then.
    """

    @property
    def prompt(self) -> bool:
        """Tell whether nothing here waits for the disk."""

    def file(self, descriptor: int) -> None:
        """Sync what a file holds, and all it takes to read that again."""

    def directory(self, path: Path) -> None:
        """Sync the names in a directory."""


def choose(policy: Policy) -> Durability:
    """Return what a store does under that policy; how often is up to who drives it."""
    return Unsynced() if policy == "none" else PerRequest()


class PerRequest:
    """Sync before each acknowledgement.

    Nothing is shared here: the kernel lets syncs that come at once share what they can, and does it
    cheaper than threads that wait for each other.
    """

    prompt = False

    def file(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def directory(self, path: Path) -> None:
        sync_directory(path)


class Unsynced:
    """Leave all to the operating system: a power cut takes what it has not written by then."""

    prompt = True

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
