"""Leases that outlast a request, so that the next one of its upload finds everything at hand.

The process that wrote last keeps lock, record, token and open files for some seconds: its next
PATCH is one exchange with Redis, its HEAD none. Whoever else wants the upload gets it at once.
Within the process requests for one upload go one after the other, and a newer one asks the older
to let go, as another process does.
"""

from __future__ import annotations

import asyncio
import resource
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from anyio import to_thread

from storage.bell import Bell
from storage.errors import StorageError, UploadLocked, UploadNotFound
from storage.syncs import Syncs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.interfaces import DataStore, Lock, Locker, Writer
    from storage.upload import Upload

T = TypeVar("T")
log = structlog.get_logger()

# Seconds. Less than a lease of the lock lasts.
KEEP = 3.0
# At most; many uploads that trickle in are that many.
_MOST = 10_000
# Clients give up on a HEAD after 30 s (TUSKit); the lock has a patience of its own.
_PATIENCE = 10.0
_AT_THE_END = 5.0
_MOMENT = 0.005


def how_many() -> int:
    """Return how many leases may be kept: each has two of the files that may be open."""
    return min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 10)


class Lease:
    """Hold one upload, for one request after the other.

    `upload` is the record as it stands; whoever commits assigns the new one. `stop` is set when the
    holder shall flush, commit and let go.
    """

    def __init__(
        self, lock: Lock, data: DataStore, syncs: Syncs, writer: Writer | None = None
    ) -> None:
        """Hold what `lock` stands for, with what is open of it already."""
        self.upload = lock.upload
        self.stop = Bell()
        self.lock = lock
        self._data = data
        self._syncs = syncs
        self._writer = writer
        self._discarded = False

    async def writer(self) -> Writer:
        """Return the writer, which is opened where it is not open yet.

        `upload` is then that of the writer, with the segment that is written. Raises as
        DataStore.open.
        """
        if self._writer is None:
            await to_the_end(self._open())
        assert self._writer is not None  # noqa: S101  for mypy
        return self._writer

    async def _open(self) -> None:
        self._writer = await to_thread.run_sync(self._data.open, self.upload)
        self.upload = self._writer.upload

    @property
    def discarded(self) -> bool:
        return self._discarded

    def discard(self) -> None:
        """Keep nothing of it once the holder lets go."""
        self._discarded = True

    def begin_again(self) -> None:
        """Be as new for the next request."""
        self.stop = Bell()
        if self._writer is not None:
            self._writer.rewind()

    @property
    def ours(self) -> bool:
        """Tell whether nobody else has the upload or asks for it."""
        return self.lock.valid() and not self.lock.stop.is_set()

    @property
    def worth_keeping(self) -> bool:
        """Tell whether another request may go on with it: nothing went wrong, more may come."""
        # The cheapest question first: most do not get further.
        if self._discarded or self.upload.complete or self._writer is None:
            return False
        return self._writer.upload is self.upload and self.ours

    def undisturbed(self) -> bool:
        """Tell whether `upload` is still what the data store says."""
        try:
            # Two calls on an open file whose page is in memory.
            return self._writer is not None and self._writer.undisturbed()
        except StorageError:
            return False

    @property
    def due(self) -> bool:
        """Tell whether what was written should be committed though nobody waits for that yet."""
        return self._writer is not None and self._syncs.due(self._writer.unsynced)

    async def commit(self, upload: Upload) -> None:
        """Commit what was written, to the end whatever happens meanwhile. Raises as the writer."""
        writer = await self.writer()
        await self._syncs.carry_out(writer.committing(upload))

    async def close(self) -> None:
        """Let go of the files."""
        if self._writer is None:
            return
        if self._data.prompt or not self._writer.unsynced:
            self._writer.close()
        else:
            await run_to_the_end(self._writer.close)


@dataclass(slots=True, eq=False)
class _Place:
    """Where the requests for one upload queue; it is there as long as any of them is."""

    #: Made by the second one who comes.
    turn: asyncio.Lock | None = None
    guests: int = 0
    waiting: int = 0
    held: Lease | None = None


class Leases:
    """Give each upload one writer over all processes, and keep for a while what it had open."""

    def __init__(
        self,
        locker: Locker,
        data: DataStore,
        *,
        keep: float = KEEP,
        most: int | None = None,
        syncs: Syncs | None = None,
    ) -> None:
        """Keep `most` leases at most, `keep` seconds each; by default as files allow.

        What is created or committed is synced by `syncs`, by default at once.
        """
        self._locker = locker
        self._data = data
        self._syncs = syncs or Syncs()
        self._seconds = keep
        self._most = how_many() if most is None else most
        self._places: dict[str, _Place] = {}
        # The oldest first.
        self._kept: dict[str, tuple[Lease, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def hold(
        self, upload_id: str, mend: Callable[[str], Awaitable[None]] | None = None
    ) -> _Holding:
        """Hold the upload, asking who has it to let go; `mend` is to find a record that is missing.

        Raises:
            UploadNotFound: there is no record.
            UploadLocked: the holder did not let go in time.
            StoreUnavailable: the lock service does not answer.
        """
        return _Holding(self, upload_id, partial(self._have, mend))

    def create(self, upload: Upload, announce: Callable[[Lock], Awaitable[None]]) -> _Holding:
        """Create the upload and hold it from its first moment on; its id is nobody else's.

        `announce` stores the record with the lock. Raises what it raises, and as DataStore.begin.
        """
        return _Holding(self, upload.id, partial(self._begin, upload, announce))

    async def known(self, upload_id: str) -> Upload | None:
        """Return the record as only this process can have changed it, or None: another one may.

        Who writes it here is asked to let go.
        """
        if upload_id not in self._places:
            if upload_id not in self._kept:
                return None
            # Nothing here waits: nobody can come in between.
            kept, _ = self._kept[upload_id]
            if kept.ours and not self._closing and kept.undisturbed():
                self._keep(kept)
                return kept.upload
        place = await self.enter(upload_id)
        try:
            lease = await self._at_hand(upload_id)
            if lease is None:
                return None
            if not lease.undisturbed():
                lease.discard()
            await self.put_away(lease)
            return None if lease.discarded else lease.upload
        finally:
            self.leave(upload_id, place)

    async def idle(self, upload_id: str) -> bool:
        """Tell whether nobody who may live holds the upload; who does is left alone."""
        here = upload_id in self._places or upload_id in self._kept
        return not here and await self._locker.idle(upload_id)

    async def settled(self, upload_id: str) -> Upload:
        """Return the record once nobody writes it, asking who does to let go. Raises as `hold`."""
        upload = await self.known(upload_id)
        return upload or await self._locker.settled(upload_id)

    def stop_all(self) -> None:
        """Keep nothing from now on and ask every holder to let go: the process shuts down."""
        self._closing = True
        self._locker.stop_all()

    async def aclose(self) -> None:
        """Return when every lease has been let go of, or not within some seconds."""
        self.stop_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(_AT_THE_END):
                while self._places or self._leaving:
                    for upload_id in list(self._places):
                        self.leave(upload_id, await self.enter(upload_id))
                    if self._leaving:
                        await asyncio.wait(self._leaving.values())
        self._syncs.close()

    async def enter(self, upload_id: str) -> _Place:
        """Queue behind the other requests of this process; the one that writes is asked to stop."""
        place = self._places.get(upload_id)
        if place is None:
            place = self._places[upload_id] = _Place(guests=1)
            return place
        place.guests += 1
        try:
            if place.turn is None:
                place.turn = asyncio.Lock()
                # For the one who is in, and gives it back: nobody waits here.
                await place.turn.acquire()
            await _queue(place, place.turn)
        except BaseException:
            self._depart(upload_id, place)
            raise
        return place

    def leave(self, upload_id: str, place: _Place) -> None:
        """Let the next one in."""
        if place.turn is not None:
            place.turn.release()
        self._depart(upload_id, place)

    def _depart(self, upload_id: str, place: _Place) -> None:
        place.guests -= 1
        if not place.guests:
            del self._places[upload_id]

    async def _have(self, mend: Callable[[str], Awaitable[None]] | None, upload_id: str) -> Lease:
        if lease := await self._at_hand(upload_id):
            return lease
        try:
            return await self._take(upload_id)
        except UploadNotFound:
            if mend is None:
                raise
            await mend(upload_id)
            return await self._take(upload_id)

    async def _at_hand(self, upload_id: str) -> Lease | None:
        """Take out what was kept, if it still is ours."""
        if leaving := self._leaving.get(upload_id):
            await asyncio.wait({leaving})
        if upload_id not in self._kept:
            return None
        lease, _ = self._kept.pop(upload_id)
        if not lease.ours:
            await to_the_end(self._end(lease))
            return None
        lease.begin_again()
        return lease

    async def _begin(
        self, upload: Upload, announce: Callable[[Lock], Awaitable[None]], upload_id: str
    ) -> Lease:
        steps = self._data.beginning(upload)
        writer = await self._syncs.carry_out(steps, lambda writer: writer.close())
        lock = self._locker.grant(upload, partial(self._asked, upload_id))
        lease = Lease(lock, self._data, self._syncs, writer)
        try:
            await announce(lease.lock)
        except BaseException:
            await to_the_end(self._end(lease))
            raise
        return lease

    async def _take(self, upload_id: str) -> Lease:
        lock = await self._locker.take(upload_id, partial(self._asked, upload_id))
        return Lease(lock, self._data, self._syncs)

    def _asked(self, upload_id: str) -> None:
        place = self._places.get(upload_id)
        if place is not None and place.held is not None:
            place.held.stop.set()
        self._let_go(upload_id)

    def tell(self, place: _Place, lease: Lease) -> None:
        """Ask a lease that was just had to end, if it must: who waits is newer."""
        place.held = lease
        if place.waiting or self._closing or not lease.ours:
            lease.stop.set()

    async def put_away(self, lease: Lease) -> None:
        """Keep it for the next request, or let go of it."""
        if lease.worth_keeping and not self._closing:
            self._keep(lease)
        elif lease.lock.returned and self._data.prompt:
            # Nothing of it waits.
            await self._end(lease)
        else:
            await to_the_end(self._end(lease))

    def _keep(self, lease: Lease) -> None:
        loop, upload_id = asyncio.get_running_loop(), lease.upload.id
        # Behind all others: the first one is always the next to go.
        self._kept.pop(upload_id, None)
        self._kept[upload_id] = lease, loop.time() + self._seconds
        if len(self._kept) > self._most:
            self._let_go(next(iter(self._kept)))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._let_go_of_the_old)

    def _let_go_of_the_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        for upload_id, (_, until) in list(self._kept.items()):
            if until > now:
                # A clock that is rounded may show a moment less.
                self._timer = loop.call_at(until + _MOMENT, self._let_go_of_the_old)
                return
            self._let_go(upload_id)

    def _let_go(self, upload_id: str) -> None:
        """Begin to close what was kept; who holds it meanwhile waits for that."""
        if upload_id not in self._kept:
            return
        lease, _ = self._kept.pop(upload_id)
        self._leaving[upload_id] = asyncio.create_task(self._leave(upload_id, lease))

    async def _leave(self, upload_id: str, lease: Lease) -> None:
        try:
            await self._end(lease)
        finally:
            del self._leaving[upload_id]

    async def _end(self, lease: Lease) -> None:
        # The files first: who comes next may then go on in them.
        try:
            await lease.close()
        except OSError as error:
            log.warning("lease.close_failed", upload=lease.upload.id, reason=str(error))
        finally:
            await self._locker.release(lease.lock)


class _Holding:
    """Hold an upload as long as it is entered (an asynchronous context manager)."""

    __slots__ = ("_have", "_lease", "_leases", "_place", "_upload_id")
    _place: _Place
    _lease: Lease

    def __init__(
        self, leases: Leases, upload_id: str, have: Callable[[str], Awaitable[Lease]]
    ) -> None:
        self._leases = leases
        self._upload_id = upload_id
        self._have = have

    async def __aenter__(self) -> Lease:
        self._place = await self._leases.enter(self._upload_id)
        try:
            self._lease = await self._have(self._upload_id)
        except BaseException:
            self._leases.leave(self._upload_id, self._place)
            raise
        self._leases.tell(self._place, self._lease)
        return self._lease

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._lease.discard()
        self._place.held = None
        try:
            await self._leases.put_away(self._lease)
        finally:
            self._leases.leave(self._upload_id, self._place)


async def _queue(place: _Place, turn: asyncio.Lock) -> None:
    place.waiting += 1
    if place.held is not None:
        place.held.stop.set()
    try:
        async with asyncio.timeout(_PATIENCE):
            await turn.acquire()
    except TimeoutError:
        raise UploadLocked("another request writes this upload and does not let go") from None
    finally:
        place.waiting -= 1


async def run_to_the_end(step: Callable[..., T], *args: Any) -> T:
    """Run a step in a thread; a request that is cancelled meanwhile waits until it has ended.

    Nobody may close a file, or let go of an upload, under a system call that still runs.
    """
    return await to_the_end(asyncio.get_running_loop().run_in_executor(None, step, *args))


async def to_the_end(step: Awaitable[T]) -> T:
    """Wait for a step that must not be left half done; a cancellation comes after it."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        # Looked at, lest it be called lost.
        _ = task.cancelled() or task.exception()
        raise
