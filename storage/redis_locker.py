"""One writer per upload over all processes: a lease in Redis, asked back over pub/sub.

A contender asks the holder's process to let go and is told when it has. A lost message costs a
second, never correctness: the token raised with each lock decides whose commit counts, and the
data store's flock keeps a holder that only sleeps from its successor's file.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from storage import redis_schema as schema
from storage.bell import Bell
from storage.errors import RecordTooNew, StoreUnavailable, UploadLocked, UploadNotFound
from storage.redis_info import call
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from redis.asyncio import Redis

    from storage.interfaces import Lock
    from storage.redis_wire import RedisWire

log = structlog.get_logger()

# Leases that one script renews.
_BATCH = 500
# Seconds. A dead holder is in the way no longer than the lease; three renewals may be lost.
_LEASE = schema.LEASE_MS / 1000
_RENEWAL = 1.25
# How long a waiter sleeps at most before it looks for itself.
_LOOK = 1.0
# Clients give up on a HEAD after 30 s (TUSKit).
_PATIENCE = 10.0
# How long one exchange may take; the client tries twice. A lock that is not given back runs out.
_EXCHANGE = 3.0
_GIVE_BACK = 1.5
# How often a task that shall end is told so.
_CANCEL_AGAIN = 0.5


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


def _now() -> float:
    # Goes on while the machine is suspended, as the lease in Redis does.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True, eq=False)
class RedisLock:
    """Hold one upload (storage.interfaces.Lock)."""

    upload: Upload
    value: str
    ends: float
    asked: Callable[[], None]
    stop: asyncio.Event = field(default_factory=Bell)
    returned: bool = False

    def valid(self) -> bool:
        return _now() < self.ends


@dataclass(slots=True, eq=False)
class _Wait:
    """Wait for a lock: what was heard of it, as messages may overtake an answer of Redis."""

    released: asyncio.Event = field(default_factory=Bell)
    asked: bool = False


class RedisLocker:
    """Lease uploads to this process's requests (storage.interfaces.Locker)."""

    def __init__(self, redis: Redis, commands: RedisWire | None = None) -> None:
        """Listen by a client that decodes responses, and command by another; `run` must run."""
        self._redis = redis
        self._commands = commands or redis
        self._process = process_identity()
        self._held: dict[str, RedisLock] = {}
        self._closing = False
        self._waiting: defaultdict[str, set[_Wait]] = defaultdict(set)
        self._returning: set[asyncio.Task[None]] = set()

    async def take(self, upload_id: str, asked: Callable[[], None]) -> RedisLock:
        with self._waits(upload_id) as wait:
            upload, ends = await self._take_turn(upload_id, wait, take=True)
            lock = RedisLock(upload, self._value(upload.token), ends, asked)
            self._held[upload_id] = lock
        if self._closing or wait.asked:
            _ask(lock)
        return lock

    def grant(self, upload: Upload, asked: Callable[[], None]) -> RedisLock:
        lock = RedisLock(upload, self._value(upload.token), _now() + _LEASE, asked)
        self._held[upload.id] = lock
        if self._closing:
            _ask(lock)
        return lock

    async def release(self, lock: Lock) -> None:
        upload_id = lock.upload.id
        if self._held.get(upload_id) is lock:
            del self._held[upload_id]
        if not lock.returned:
            await self._give_back(upload_id, lock.value)

    @asynccontextmanager
    async def hold(self, upload_id: str) -> AsyncIterator[RedisLock]:
        lock = await self.take(upload_id, lambda: None)
        try:
            yield lock
        finally:
            await self.release(lock)

    async def settled(self, upload_id: str) -> Upload:
        with self._waits(upload_id) as wait:
            return (await self._take_turn(upload_id, wait, take=False))[0]

    @property
    def closing(self) -> bool:
        """Tell whether this process is about to end."""
        return self._closing

    async def idle(self, upload_id: str) -> bool:
        try:
            # redis-py's types cannot say that it decodes.
            value: Any = await self._redis.get(schema.lock_key(upload_id))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        return value is None or is_dead(value.rpartition(":")[0])

    def stop_all(self) -> None:
        """Ask every holder of this process to let go, now and from now on: it shuts down."""
        self._closing = True
        for lock in list(self._held.values()):
            _ask(lock)

    @contextmanager
    def _waits(self, upload_id: str) -> Iterator[_Wait]:
        # Registered before the lock is asked for: the answer may be overtaken by the release.
        wait = _Wait()
        self._waiting[upload_id].add(wait)
        try:
            yield wait
        finally:
            self._waiting[upload_id].discard(wait)
            if not self._waiting[upload_id]:
                del self._waiting[upload_id]

    async def _take_turn(self, upload_id: str, wait: _Wait, *, take: bool) -> tuple[Upload, float]:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            wait.released.clear()
            wait.asked = False
            # From before it is asked for: Redis counts from later on.
            ends = _now() + _LEASE
            status, *rest = await self._acquire(upload_id, take=take)
            if status == "free":
                return await self._read(upload_id, _fields(rest), take=take), ends
            if status == "missing":
                raise UploadNotFound(f"there is no upload {upload_id}")
            if not await self._break(upload_id, rest[0]):
                await self._wait(wait.released, rest[1] / 1000, deadline)

    async def _acquire(self, upload_id: str, *, take: bool) -> list[Any]:
        keys = (
            schema.lock_key(upload_id),
            schema.upload_key(upload_id),
            schema.waiting_key(upload_id),
        )
        args = (upload_id, self._process, schema.LEASE_MS, int(take))
        exchange = asyncio.ensure_future(call(self._commands, schema.ACQUIRE, keys, args))
        try:
            async with asyncio.timeout(_EXCHANGE):
                answer: list[Any] = await asyncio.shield(exchange)
        except TimeoutError:
            exchange.add_done_callback(partial(self._unwanted, upload_id, take))
            raise StoreUnavailable("Redis does not answer in time") from None
        except asyncio.CancelledError:
            # Redis may have given it all the same, and nobody would know.
            exchange.add_done_callback(partial(self._unwanted, upload_id, take))
            raise
        return answer

    def _unwanted(self, upload_id: str, take: bool, exchange: asyncio.Future[list[Any]]) -> None:  # noqa: FBT001  bound in advance
        if exchange.cancelled() or exchange.exception() or not take:
            return
        status, *rest = exchange.result()
        if status == "free":
            value = self._value(_fields(rest)["token"])
            task = asyncio.create_task(self._give_back(upload_id, value))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _read(self, upload_id: str, fields: Mapping[str, str], *, take: bool) -> Upload:
        """Read the record; where it cannot be read, the lock that came with it is given back."""
        try:
            return Upload.from_hash(fields)
        except RecordTooNew:
            if take:
                await self._give_back(upload_id, self._value(fields["token"]))
            raise

    def _value(self, token: int | str) -> str:
        return f"{self._process}:{token}"

    async def _break(self, upload_id: str, value: str) -> bool:
        process, _, _ = value.rpartition(":")
        if not (is_dead(process) or self._is_left_over(upload_id, process)):
            return False
        keys = (schema.lock_key(upload_id), schema.waiting_key(upload_id))
        await call(self._commands, schema.RELEASE, keys, (value, upload_id))
        return True

    def _is_left_over(self, upload_id: str, process: str) -> bool:
        """Tell whether this process has a lock that nobody here holds, or is about to."""
        mine = process == self._process and upload_id not in self._held
        return mine and len(self._waiting[upload_id]) == 1

    async def _wait(self, released: asyncio.Event, lease: float, deadline: float) -> None:
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise UploadLocked("another request writes this upload and does not let go")
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, _LOOK, max(lease, 0.01))):
                await released.wait()

    async def _give_back(self, upload_id: str, value: str) -> None:
        keys = (schema.lock_key(upload_id), schema.waiting_key(upload_id))
        # Without Redis the lease runs out by itself.
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK):
                await call(self._commands, schema.RELEASE, keys, (value, upload_id))

    async def run(self) -> None:
        """Listen for requests to let go and renew what is held, until cancelled."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._renew())]
        try:
            await asyncio.wait(tasks)
        finally:
            await end(*tasks)

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
        waiting = self._waiting.get(upload_id, ())
        if what == "released":
            for wait in waiting:
                wait.released.set()
        elif lock := self._held.get(upload_id):
            _ask(lock)
        else:
            for wait in waiting:
                wait.asked = True

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
        # One that was given back meanwhile would be taken again.
        held = [(upload_id, lock) for upload_id, lock in held if self._held.get(upload_id) is lock]
        keys = [key for upload_id, _ in held for key in _keys(upload_id)]
        args: list[str | float] = [schema.LEASE_MS, *(lock.value for _, lock in held)]
        ends = _now() + _LEASE
        answers = await call(self._commands, schema.RENEW, keys, args)
        for (upload_id, lock), kept in zip(held, answers, strict=True):
            if kept:
                lock.ends = ends
            elif self._held.get(upload_id) is lock:
                _ask(lock)


def _keys(upload_id: str) -> tuple[str, str, str]:
    waiting = schema.waiting_key(upload_id)
    return schema.lock_key(upload_id), waiting, schema.upload_key(upload_id)


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _ask(lock: RedisLock) -> None:
    lock.stop.set()
    lock.asked()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks until they have ended, whatever happens to the caller meanwhile.

    Once is not enough: `asyncio.wait_for` of Python 3.11, in which redis-py sends, takes a
    cancellation for nothing when it comes together with the end of what it waits for.
    """
    cancelled = False
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
        except asyncio.CancelledError:
            cancelled = True
            pending = {task for task in pending if not task.done()}
    if cancelled:
        raise asyncio.CancelledError


@contextmanager
def _carrying_on() -> Iterator[None]:
    """Log what goes wrong: without these tasks every lease would run out unseen."""
    try:
        yield
    except (StoreUnavailable, RedisError, OSError) as error:
        log.debug("locker.away", reason=str(error))
    except Exception:
        log.exception("locker.failed")
