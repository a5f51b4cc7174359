"""Who watches a job is woken when it may have changed: one connection to Redis for all of them.

The job's hash is the truth and a message only wakes, so a lost one costs seconds and nothing else:
every watcher is woken now and then anyway, and all of them when the connection was made anew.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from storage import redis_schema as schema
from storage.bell import Bell
from storage.redis_locker import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection

log = structlog.get_logger()

# Seconds. How long a lost message may stay unnoticed; each watch's own time is a little off it.
_LOOK = 2.0
# How long Redis may be silent before it is asked whether it is there, and then to answer.
_SILENCE = 10.0
_ANSWER = 5.0
_AGAIN = 0.5
# Channels in one command.
_BATCH = 500


class Watch:
    """Wait for changes of one job."""

    __slots__ = ("_bell",)

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        self._bell = Bell()

    def wake(self) -> None:
        """Let `wait` return."""
        self._bell.set()

    async def wait(self) -> None:
        """Return when the job may have changed since this returned last, or since the watch began.

        It may as well be as it was: read it to know.
        """
        await self._bell.wait()
        self._bell.clear()


@dataclass(slots=True, eq=False)
class _Topic:
    """Hold the watches of one job, which share a subscription and a clock."""

    watches: set[Watch] = field(default_factory=set)
    clock: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        for watch in self.watches:
            watch.wake()

    def tick(self) -> None:
        """Wake them now and from time to time."""
        self.wake()
        self.begin()

    def begin(self) -> None:
        wait = _LOOK * random.uniform(0.8, 1.2)  # noqa: S311  only lest all look at once
        self.clock = asyncio.get_running_loop().call_later(wait, self.tick)


class Watches:
    """Watch the jobs of one Redis; `run` must run, else watchers are only woken now and then."""

    def __init__(self, redis: Redis) -> None:
        """Listen by a client that decodes responses."""
        self._redis = redis
        self._topics: dict[str, _Topic] = {}
        # The jobs whose subscriptions may have to change.
        self._altered: set[str] = set()
        self._alter = Bell()

    @asynccontextmanager
    async def of(self, job_id: str) -> AsyncIterator[Watch]:
        """Watch a job as long as this is entered: what is read of it from then on is not missed.

        It waits for nothing. As many as like may watch one job: it is subscribed to once.
        """
        watch = Watch()
        self._enter(job_id).watches.add(watch)
        try:
            yield watch
        finally:
            self._leave(job_id, watch)

    def _enter(self, job_id: str) -> _Topic:
        if job_id not in self._topics:
            self._topics[job_id] = topic = _Topic()
            topic.begin()
            self._ask_for(job_id)
        return self._topics[job_id]

    def _leave(self, job_id: str, watch: Watch) -> None:
        topic = self._topics[job_id]
        topic.watches.discard(watch)
        if topic.watches:
            return
        if topic.clock is not None:
            topic.clock.cancel()
        del self._topics[job_id]
        self._ask_for(job_id)

    def _ask_for(self, job_id: str) -> None:
        self._altered.add(job_id)
        self._alter.set()

    async def run(self) -> None:
        """Listen until cancelled; a Redis that is away is waited for."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.debug("watch.away", reason=str(error))
            except Exception:
                # Without this task everybody would see everything late.
                log.exception("watch.failed")
            await asyncio.sleep(_AGAIN * random.uniform(0.5, 1.5))  # noqa: S311  as above

    async def _listen(self) -> None:
        # Not redis-py's PubSub: that connects anew by itself, also while it is being closed.
        pool = self._redis.connection_pool
        line: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await line.connect()  # type: ignore[no-untyped-call]
            self._altered.update(self._topics)
            self._alter.set()
            await _until_one_ends(self._subscribe(line), self._hear(line))
        finally:
            await line.disconnect(nowait=True)

    async def _subscribe(self, line: AbstractConnection) -> None:
        """Keep the subscriptions as they should be."""
        subscribed: set[str] = set()
        while True:
            await self._alter.wait()
            self._alter.clear()
            altered, self._altered = self._altered, set()
            new = [one for one in altered if one in self._topics and one not in subscribed]
            old = [one for one in altered if one not in self._topics and one in subscribed]
            subscribed.update(new)
            subscribed.difference_update(old)
            for command, ids in (("SUBSCRIBE", new), ("UNSUBSCRIBE", old)):
                for at in range(0, len(ids), _BATCH):
                    keys = map(schema.job_key, ids[at : at + _BATCH])
                    await line.send_command(command, *keys, check_health=False)

    async def _hear(self, line: AbstractConnection) -> None:
        asked = False
        while True:
            said = await line.read_response(
                timeout=_ANSWER if asked else _SILENCE, disconnect_on_error=False, push_request=True
            )
            if said is not None:
                asked = False
                self._tell(said)
            elif asked:
                raise Disconnected("Redis does not answer in time")
            else:
                await line.send_command("PING", check_health=False)
                asked = True

    def _tell(self, said: Any) -> None:
        # What happened before a job was subscribed to has been told to nobody.
        if isinstance(said, list) and said[0] in {"message", "subscribe"}:
            topic = self._topics.get(said[1].removeprefix(schema.job_key("")))
            if topic is not None:
                topic.wake()


async def _until_one_ends(*steps: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(*tasks)
        # Looked at, lest it be called lost: both may fail of one cause.
        _ = [task.cancelled() or task.exception() for task in tasks]
