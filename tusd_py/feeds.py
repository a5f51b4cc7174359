"""What is known of jobs that somebody watches: read once per change for all watchers of a process.

A feed reads its job when it changed, 20 times a second at most, and rings its watchers. They look
at what is known then, so one that is slow misses states, but is never behind.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog
from anyio import CapacityLimiter, to_thread

from storage.errors import JournalDamaged, StorageError, UploadGone, UploadNotFound
from storage.job import Job, JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from storage.interfaces import InfoStore
    from storage.upload import Upload

log = structlog.get_logger()

# Seconds between two readings of one job, and how many watchers are told in one second: telling
# a crowd takes time that others need too.
_PACE = 0.05
_TOLD = 20_000
# Watchers that are told before anything else may happen.
_AT_ONCE = 256
# Seconds that a reading of the queue counts, and how many places in it are known.
_PLACES = 1.0
_MOST_PLACES = 10_000
# Bases of URLs that one job is described with; nearly always it is one.
_MOST_BASES = 8
_GONE = (UploadNotFound, UploadGone, JournalDamaged)


class Watch(Protocol):
    """Wait for changes of one job."""

    async def wait(self) -> None:
        """Return when the job may have changed, since this returned last or the watch began."""


class Watches(Protocol):
    """Watch jobs (storage.watch)."""

    def of(self, job_id: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a job as long as this is entered."""


class Sight(NamedTuple):
    """Hold what was read of a job: `plates` are texts, `position` is that in the queue."""

    job: Job
    upload: Upload | None = None
    plates: tuple[str, ...] = ()
    position: int | None = None

    @property
    def end(self) -> str:
        """Name the end of the job, which a retry may undo; empty as long as it goes on."""
        return f"{int(self.job.updated_at):x}" if self.job.state.terminal else ""


class Feed:
    """Know one job; whoever watches has a bell here."""

    def __init__(
        self,
        job_id: str,
        read: Callable[[str], Awaitable[Sight]],
        describe: Callable[[Job, Upload | None, str], str],
    ) -> None:
        self.job_id = job_id
        self.bells: set[asyncio.Event] = set()
        #: What was read last; None as long as that failed.
        self.sight: Sight | None = None
        #: Why there is nothing to be seen, and will not be.
        self.missing: StorageError | None = None
        #: Set when it was read, or that failed.
        self.tried = asyncio.Event()
        self._read = read
        self._describe = describe
        self._described: dict[str, str] = {}

    def described(self, base: str) -> str:
        """Return the job's resource as it is now, in JSON."""
        if base not in self._described:
            if len(self._described) >= _MOST_BASES:
                self._described.clear()
            assert self.sight is not None  # noqa: S101  for mypy
            self._described[base] = self._describe(self.sight.job, self.sight.upload, base)
        return self._described[base]

    async def follow(self, watches: Watches) -> None:
        """Read the job whenever it may have changed, until cancelled."""
        async with watches.of(self.job_id) as watch:
            while True:
                if await self._look():
                    await self._ring()
                self.tried.set()
                await asyncio.sleep(max(_PACE, len(self.bells) / _TOLD))
                await watch.wait()

    async def _look(self) -> bool:
        """Read the job, and tell whether there is news."""
        try:
            return self.see(await self._read(self.job_id))
        except _GONE as error:
            return self._lose(error)
        except StorageError as error:
            log.debug("feed.away", job=self.job_id, reason=str(error))
        except Exception:
            # Whoever watches would wait for ever; the next look may do better.
            log.exception("feed.failed", job=self.job_id)
        return False

    def _lose(self, error: StorageError) -> bool:
        if self.sight is None and not isinstance(error, UploadGone):
            self.missing = error
            return True
        if self.sight is None or self.sight.job.state is not JobState.CANCELLED:
            # It was here: so it was removed.
            return self.see(Sight(Job(self.job_id, JobState.CANCELLED)))
        return False

    def see(self, sight: Sight) -> bool:
        """Take what was read, and tell whether it is news."""
        self.missing = None
        if sight == self.sight:
            return False
        self.sight = sight
        self._described.clear()
        return True

    async def _ring(self) -> None:
        for number, bell in enumerate(tuple(self.bells), 1):
            bell.set()
            if number % _AT_ONCE == 0:
                # Requests of others come in between.
                await asyncio.sleep(0)


class Places:
    """Know the places of jobs in the queue, which is read for all who ask within a second."""

    def __init__(self, upcoming: Callable[[int], Sequence[str]]) -> None:
        """`upcoming` returns so many ids at most, the next one first; it blocks."""
        self._upcoming = upcoming
        self._reading: asyncio.Task[dict[str, int]] | None = None
        self._until = 0.0
        # Where Redis hangs, nobody waits but those of this kind.
        self._asking = CapacityLimiter(1)

    async def of(self, job_id: str) -> int | None:
        """Return the place of a job, 1 for the next one; raise StorageError."""
        now = asyncio.get_running_loop().time()
        if self._reading is None or (self._reading.done() and now >= self._until):
            self._until = now + _PLACES
            self._reading = asyncio.create_task(self._read())
            # Looked at, lest it be called lost when all who waited have left.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Who leaves takes it from nobody.
        return (await asyncio.shield(self._reading)).get(job_id)

    async def _read(self) -> dict[str, int]:
        ids = await to_thread.run_sync(self._upcoming, _MOST_PLACES, limiter=self._asking)
        return {job_id: number for number, job_id in enumerate(ids, 1)}


class Reader:
    """Read what is known of a job from where it is."""

    def __init__(
        self,
        find: Callable[[str], Awaitable[Job]],
        info: InfoStore,
        places: Places,
        result: Callable[[str], bytes | None],
    ) -> None:
        """`find` returns a job, `result` what it found; that blocks."""
        self._find = find
        self._info = info
        self._places = places
        self._result = result
        self._asking = CapacityLimiter(4)

    async def read(self, job_id: str) -> Sight:
        """Read a job; raise StorageError."""
        job = await self._find(job_id)
        if job.state is JobState.CANCELLED:
            return Sight(job)
        upload = await self._info.find(job_id)
        if job.state is JobState.UPLOADING:
            return Sight(job, upload)
        if job.state is JobState.PENDING:
            return Sight(job, upload, position=await self._places.of(job_id))
        plates = list(await self._info.plates(job_id))
        if job.state is JobState.COMPLETED:
            voted = await to_thread.run_sync(self._voted, job_id, limiter=self._asking)
            plates += [text for text in voted if text not in plates]
        return Sight(job, upload, tuple(plates))

    def _voted(self, job_id: str) -> list[str]:
        """Return the plates of the result, which may be none of those that were told so far."""
        result = self._result(job_id)
        plates = json.loads(result)["plates"] if result else ()
        return list(dict.fromkeys(plate["text"] for plate in plates))


class Feeds:
    """Keep one feed for each job as long as anybody watches it."""

    def __init__(
        self,
        watches: Watches,
        read: Callable[[str], Awaitable[Sight]],
        describe: Callable[[Job, Upload | None, str], str],
    ) -> None:
        """`read` reads a job and raises StorageError.

        `describe` makes the job's resource, in JSON, for clients who reach us at some base.
        """
        self._watches = watches
        self._read = read
        self._describe = describe
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}

    @asynccontextmanager
    async def of(self, ids: Sequence[str], bell: asyncio.Event) -> AsyncIterator[list[Feed]]:
        """Follow jobs as long as this is entered: `bell` rings when one of them has changed.

        Each was looked at when it begins, or that failed.
        """
        feeds = [self._enter(job_id, bell) for job_id in ids]
        try:
            for feed in feeds:
                await feed.tried.wait()
            yield feeds
        finally:
            for feed in feeds:
                self._leave(feed, bell)

    def _enter(self, job_id: str, bell: asyncio.Event) -> Feed:
        if job_id not in self._feeds:
            feed = Feed(job_id, self._read, self._describe)
            self._feeds[job_id] = feed, asyncio.create_task(feed.follow(self._watches))
        feed, _ = self._feeds[job_id]
        feed.bells.add(bell)
        return feed

    def _leave(self, feed: Feed, bell: asyncio.Event) -> None:
        feed.bells.discard(bell)
        if not feed.bells:
            _, task = self._feeds.pop(feed.job_id)
            task.cancel()
