"""Syncs that the event loop waits for: the kernel does them meanwhile, and no thread is held up.

A thread that waits for the disk costs little, but each time it comes back it takes the interpreter
away from the event loop; with many small uploads that is more than all else together.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from storage.aio import Aio
from storage.durability import sync_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.durability import Steps, Sync

    Done = asyncio.Future[OSError | None]

T = TypeVar("T")

# Syncs under way at once; more wait until some are over.
_MOST = 256
# Seconds until the kernel is asked again that had no room for any.
_AGAIN = 0.01
# Where threads have to wait: more of them are in each other's way.
_THREADS = 8


class Syncs:
    """Carry out what waits for syncs, on one event loop; `close` is for its end."""

    def __init__(self, seconds: float = 0.0, size: int = 0) -> None:
        """Begin at once, or at most every `seconds` and when they are `size` bytes together."""
        self._turns = Turns(seconds, size) if seconds else None
        self._disk: Disk | None = None

    def due(self, size: int) -> bool:
        """Tell whether `size` bytes that nobody waits for yet should be synced already."""
        return self._turns is None or self._turns.due(size)

    async def carry_out(self, steps: Steps[T], lost: Callable[[T], None] | None = None) -> T:
        """Take all of the steps, and return what they do; a cancellation comes after the last.

        `lost` is then done to what they return. Raises what they raise.
        """
        cancelled = False
        try:
            syncs = next(steps)
            if self._turns is not None:
                cancelled |= await _over(self._turns.next(sum(sync.size for sync in syncs)))
            while True:
                done = self._at_work().sync(syncs)
                cancelled |= await _over(done)
                error = done.result()
                syncs = next(steps) if error is None else steps.throw(error)
        except StopIteration as end:
            result: T = end.value
        if cancelled:
            if lost is not None:
                lost(result)
            raise asyncio.CancelledError
        return result

    def _at_work(self) -> Disk:
        if self._disk is None:
            self._disk = disk()
        return self._disk

    def close(self) -> None:
        """Return when nothing is under way any more."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None


async def _over(done: Done) -> bool:
    """Wait until it is done whatever happens; tell whether the task was cancelled meanwhile."""
    cancelled = False
    while not done.done():
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


class Turns:
    """Let syncs begin `seconds` after the last ones, or when they are `size` bytes together."""

    def __init__(self, seconds: float, size: int) -> None:
        """Let the first one begin at once."""
        self._seconds = seconds
        self._size = size
        self._began = -seconds
        #: Bytes whose sync somebody waits for.
        self.waiting = 0
        self._next: Done | None = None
        self._timer: asyncio.TimerHandle | None = None

    def due(self, size: int) -> bool:
        """Tell whether they would not have to wait."""
        now = asyncio.get_running_loop().time()
        return self.waiting + size >= self._size or now >= self._began + self._seconds

    def next(self, size: int) -> Done:
        """Return what is done when it is time for a sync of `size` bytes."""
        loop = asyncio.get_running_loop()
        due = self.due(size)
        self.waiting += size
        done = self._next = self._next or loop.create_future()
        if due:
            self._begin()
        elif self._timer is None:
            self._timer = loop.call_at(self._began + self._seconds, self._begin)
        return done

    def _begin(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self.waiting = 0
        if self._timer is not None:
            self._timer.cancel()
        if self._next is not None:
            self._next.set_result(None)
        self._next = self._timer = None


class Disk(Protocol):
    """Sync files without blocking."""

    def sync(self, syncs: Sequence[Sync]) -> Done:
        """Begin to do all of them; what went wrong is the result when all are over."""

    def close(self) -> None:
        """Return when nothing is under way any more."""


def disk() -> Disk:
    """Return what does it best here, for the running loop."""
    try:
        return Kernel(Aio(_MOST))
    except OSError:
        return Threads()


class Threads:
    """Let threads wait."""

    def __init__(self) -> None:
        """Start them when they are needed."""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sync")

    def sync(self, syncs: Sequence[Sync]) -> Done:
        return asyncio.get_running_loop().run_in_executor(self._pool, sync_all, syncs)

    def close(self) -> None:
        self._pool.shutdown()


@dataclass(slots=True)
class _Group:
    """What begins and is over together."""

    done: Done
    left: int
    error: OSError | None = None


class Kernel:
    """Let the kernel tell when it is over."""

    def __init__(self, aio: Aio) -> None:
        """Use it on the running loop, and close it at the end."""
        self._aio = aio
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(aio.event, self._tell)
        self._numbers = itertools.count()
        #: Both those that are under way and those that wait.
        self._groups: dict[int, _Group] = {}
        self._waiting: deque[tuple[int, Sync]] = deque()
        self._under_way = 0
        self._threads = Threads()
        self._called = False

    def sync(self, syncs: Sequence[Sync]) -> Done:
        group = _Group(self._loop.create_future(), len(syncs))
        for sync in syncs:
            number = next(self._numbers)
            self._groups[number] = group
            self._waiting.append((number, sync))
        # What else comes in this turn of the loop goes with them.
        if not self._called:
            self._called = True
            self._loop.call_soon(self._submit)
        return group.done

    def _submit(self) -> None:
        self._called = False
        while self._waiting:
            first = islice(self._waiting, _MOST)
            wanted = [(number, sync.descriptor, sync.names) for number, sync in first]
            try:
                taken = self._aio.submit(wanted)
            except OSError:
                self._leave_to_threads(*self._waiting.popleft())
                continue
            self._under_way += taken
            for _ in range(taken):
                self._waiting.popleft()
            if not taken:
                # The next ones begin when some are over; or else when the kernel has room again.
                if not self._under_way:
                    self._loop.call_later(_AGAIN, self._submit)
                return

    def _leave_to_threads(self, number: int, sync: Sync) -> None:
        # Old kernels and strange file systems sync, but not this way.
        done = self._threads.sync([sync])
        done.add_done_callback(lambda done: self._end(number, done.result()))

    def _tell(self) -> None:
        for number, error in self._aio.ended():
            self._under_way -= 1
            self._end(number, error)
        self._submit()

    def _end(self, number: int, error: OSError | None) -> None:
        group = self._groups.pop(number, None)
        if group is None:
            return
        group.left -= 1
        group.error = group.error or error
        if not group.left:
            group.done.set_result(group.error)

    def close(self) -> None:
        self._loop.remove_reader(self._aio.event)
        self._aio.close()
        self._threads.close()
        # Of what was under way nobody can say any more how it ended.
        for number in list(self._groups):
            self._end(number, OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
