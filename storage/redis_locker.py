"""One writer per upload over all processes: a lease in Redis, asked back over pub/sub.

A contender asks the holder's process to let go and is told when it has. A lost message costs a
second, never correctness: the token raised with each lock decides whose commit counts, and the
data store's flock keeps a holder that only sleeps from its successor's file.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from storage import redis_schema as schema
from storage.errors import StoreUnavailable, UploadLocked, UploadNotFound
from storage.redis_info import call
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from redis.asyncio import Redis

log = structlog.get_logger()

# Leases that one script renews.
_BATCH = 500
# Seconds. A dead holder is in the way no longer than the lease; three renewals may be lost.
_LEASE = 5.0
_RENEWAL = 1.25
# How long a waiter sleeps at most before it looks for itself.
_LOOK = 1.0
# Clients give up on a HEAD after 30 s (TUSKit).
_PATIENCE = 10.0


def process_identity() -> str:
    """Name this process so that another one on this host can tell whether it still lives."""
    return f"{_host()}.{os.getpid()}.{_started(os.getpid())}"


def is_dead(process: str) -> bool:
    """Tell whether `process` surely lives no longer; False for one of another host."""
    host, pid, started = process.rsplit(".", 2)
    return host == _host() and _started(int(pid)) != started


def _host() -> str:
    # A container has process numbers of its own under the boot id of its host.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Fields are counted from behind the command's name, which may hold anything (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


@dataclass(slots=True, eq=False)
class RedisLock:
    """Hold one upload (storage.interfaces.Lock)."""

    upload: Upload
    value: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class RedisLocker:
    """Lease uploads to this process's requests (storage.interfaces.Locker)."""

    def __init__(self, redis: Redis) -> None:
        """Use a client that decodes responses; `run` must be running."""
        self._redis = redis
        self._process = process_identity()
        self._held: dict[str, RedisLock] = {}
        self._closing = False
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @asynccontextmanager
    async def hold(self, upload_id: str) -> AsyncIterator[RedisLock]:
        upload = await self._enter(upload_id, take=True)
        lock = RedisLock(upload, f"{self._process}:{upload.token}")
        self._held[upload_id] = lock
        if self._closing:
            lock.stop.set()
        try:
            yield lock
        finally:
            if self._held.get(upload_id) is lock:
                del self._held[upload_id]
            await self._release(upload_id, lock)

    async def settled(self, upload_id: str) -> Upload:
        return await self._enter(upload_id, take=False)

    def stop_all(self) -> None:
        """Ask every holder of this process to let go, now and from now on: it shuts down."""
        self._closing = True
        for lock in self._held.values():
            lock.stop.set()

    async def _enter(self, upload_id: str, *, take: bool) -> Upload:
        # Registered before the lock is asked for: the answer may be overtaken by the release.
        released = asyncio.Event()
        self._waiting[upload_id].add(released)
        try:
            return await self._take_turn(upload_id, released, take=take)
        finally:
            self._waiting[upload_id].discard(released)
            if not self._waiting[upload_id]:
                del self._waiting[upload_id]

    async def _take_turn(self, upload_id: str, released: asyncio.Event, *, take: bool) -> Upload:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            released.clear()
            status, *rest = await self._acquire(upload_id, take=take)
            if status == "free":
                return Upload.from_hash(dict(zip(rest[::2], rest[1::2], strict=True)))
            if status == "missing":
                raise UploadNotFound(f"there is no upload {upload_id}")
            if not await self._break(upload_id, rest[0]):
                await self._wait(released, rest[1] / 1000, deadline)

    async def _acquire(self, upload_id: str, *, take: bool) -> list[Any]:
        keys = (
            schema.lock_key(upload_id),
            schema.upload_key(upload_id),
            schema.waiting_key(upload_id),
        )
        args = (upload_id, self._process, int(_LEASE * 1000), int(take))
        answer: list[Any] = await call(self._redis, schema.ACQUIRE, keys, args)
        return answer

    async def _break(self, upload_id: str, value: str) -> bool:
        process, _, _ = value.rpartition(":")
        if not is_dead(process):
            return False
        keys = (schema.lock_key(upload_id), schema.waiting_key(upload_id))
        await call(self._redis, schema.RELEASE, keys, (value, upload_id))
        return True

    async def _wait(self, released: asyncio.Event, lease: float, deadline: float) -> None:
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise UploadLocked("another request writes this upload and does not let go")
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, _LOOK, max(lease, 0.01))):
                await released.wait()

    async def _release(self, upload_id: str, lock: RedisLock) -> None:
        keys = (schema.lock_key(upload_id), schema.waiting_key(upload_id))
        # Without Redis the lease runs out by itself.
        with suppress(StoreUnavailable):
            await call(self._redis, schema.RELEASE, keys, (lock.value, upload_id))

    async def run(self) -> None:
        """Listen for requests to let go and renew what is held, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._renew())

    async def _listen(self) -> None:
        channel = schema.process_channel(self._process)
        while True:
            with _carrying_on():
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(channel)
                    async for message in pubsub.listen():
                        self._hear(*message["data"].partition(" ")[::2])
            await asyncio.sleep(_LOOK)

    def _hear(self, what: str, upload_id: str) -> None:
        if what == "released":
            for event in self._waiting.get(upload_id, ()):
                event.set()
        elif lock := self._held.get(upload_id):
            lock.stop.set()

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            with _carrying_on():
                held = list(self._held.items())
                for at in range(0, len(held), _BATCH):
                    await self._renew_batch(held[at : at + _BATCH])
            await asyncio.sleep(max(0.0, began + _RENEWAL - loop.time()))

    async def _renew_batch(self, held: Sequence[tuple[str, RedisLock]]) -> None:
        keys = [
            key
            for upload_id, _ in held
            for key in (schema.lock_key(upload_id), schema.waiting_key(upload_id))
        ]
        args: list[str | float] = [int(_LEASE * 1000), *(lock.value for _, lock in held)]
        answers = await call(self._redis, schema.RENEW, keys, args)
        for (_, lock), kept in zip(held, answers, strict=True):
            if not kept:
                lock.stop.set()


@contextmanager
def _carrying_on() -> Iterator[None]:
    """Log what goes wrong: without these tasks every lease would run out unseen."""
    try:
        yield
    except (StoreUnavailable, RedisError, OSError) as error:
        log.debug("locker.away", reason=str(error))
    except Exception:
        log.exception("locker.failed")
