"""Watchers of jobs are woken by one connection, whatever becomes of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from storage import redis_schema as schema
from storage import watch as module
from storage.embedded import Embedded
from storage.redis_locker import end
from storage.watch import Watches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody be woken but by Redis."""
    monkeypatch.setattr(module, "_LOOK", 3600.0)


@asynccontextmanager
async def listening(redis: Redis) -> AsyncIterator[Watches]:
    watches = Watches(redis)
    task = asyncio.create_task(watches.run())
    try:
        yield watches
    finally:
        await end(task)


async def subscribers(redis: Redis, job_id: str) -> int:
    [(_, count)] = await redis.pubsub_numsub(schema.job_key(job_id))
    return int(count)


async def until_subscribers(redis: Redis, job_id: str, count: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with suppress(RedisError):
                if await subscribers(redis, job_id) == count:
                    return
            await asyncio.sleep(0.01)


async def woken(watch: module.Watch) -> None:
    async with asyncio.timeout(30):
        await watch.wait()


async def quiet(watch: module.Watch) -> bool:
    """Tell whether there is nothing more to be told."""
    try:
        async with asyncio.timeout(0.05):
            await watch.wait()
    except TimeoutError:
        return True
    return False


@pytest.mark.usefixtures("patient")
async def test_a_change_wakes_all_who_watch_that_job_and_nobody_else(redis: Redis) -> None:
    job, other = str(uuid4()), str(uuid4())
    async with listening(redis) as watches, AsyncExitStack() as stack:
        watching = [await stack.enter_async_context(watches.of(job)) for _ in range(1000)]
        stranger = await stack.enter_async_context(watches.of(other))
        await until_subscribers(redis, job, 1)
        # What happened before is unknown: each is told once.
        for watch in [*watching, stranger]:
            await woken(watch)
        await redis.publish(schema.job_key(job), "")
        for watch in watching:
            await woken(watch)
        assert await quiet(stranger)
        assert await quiet(watching[0])


@pytest.mark.usefixtures("patient")
async def test_a_job_is_subscribed_to_once_and_only_as_long_as_anybody_watches(
    redis: Redis,
) -> None:
    job = str(uuid4())
    async with listening(redis) as watches:
        async with watches.of(job):
            await until_subscribers(redis, job, 1)
            async with watches.of(job):
                assert await subscribers(redis, job) == 1
            assert await subscribers(redis, job) == 1
        await until_subscribers(redis, job, 0)
        async with watches.of(job) as again:
            await until_subscribers(redis, job, 1)
            await redis.publish(schema.job_key(job), "")
            await woken(again)


@pytest.mark.usefixtures("patient")
async def test_all_are_woken_when_the_connection_was_made_anew(redis: Redis) -> None:
    job = str(uuid4())
    async with listening(redis) as watches, watches.of(job) as watch:
        await until_subscribers(redis, job, 1)
        await woken(watch)
        await redis.client_kill_filter(_type="pubsub")
        await woken(watch)
        await until_subscribers(redis, job, 1)


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_was_away_is_listened_to_again(tmp_path: Path) -> None:
    job = str(uuid4())
    server = Embedded(tmp_path)
    server.start()
    try:
        async with (
            Redis.from_url(server.url, decode_responses=True) as redis,
            listening(redis) as watches,
            watches.of(job) as watch,
        ):
            await until_subscribers(redis, job, 1)
            await woken(watch)
            server.close()
            # Begun while nobody is there.
            async with watches.of(str(uuid4())) as late:
                server.start()
                await until_subscribers(redis, job, 1)
                await woken(watch)
                await woken(late)
                # What the other client has open is from before.
                async with Redis.from_url(server.url) as fresh:
                    await fresh.publish(schema.job_key(job), "")
                await woken(watch)
    finally:
        server.close()


async def test_who_hears_nothing_looks_now_and_then(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    # Nobody runs it: no message will ever come.
    async with Watches(redis).of(str(uuid4())) as watch:
        for _ in range(3):
            await woken(watch)


async def test_a_redis_that_is_silent_is_asked_whether_it_is_there(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = str(uuid4())
    monkeypatch.setattr(module, "_SILENCE", 0.02)
    async with listening(redis) as watches, watches.of(job) as watch:
        await until_subscribers(redis, job, 1)
        [before] = await redis.client_list(_type="pubsub")
        async with asyncio.timeout(30):
            while (last := await redis.client_list(_type="pubsub"))[0]["cmd"] != "ping":
                await asyncio.sleep(0.01)
        # It answered, so it is still the same.
        assert last[0]["id"] == before["id"]
        await redis.publish(schema.job_key(job), "")
        await woken(watch)


async def test_a_redis_that_does_not_answer_is_left_for_a_new_connection(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = str(uuid4())
    monkeypatch.setattr(module, "_SILENCE", 0.02)
    monkeypatch.setattr(module, "_ANSWER", 0.5)
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        pool: Any = client.connection_pool
        make, dead = pool.make_connection, pool.make_connection()
        # What is asked gets lost, as where the other end of a line is gone.
        monkeypatch.setattr(dead, "send_command", _unheard)
        lines = [dead]
        monkeypatch.setattr(pool, "make_connection", lambda: lines.pop() if lines else make())
        async with listening(client) as watches, watches.of(job) as watch:
            await until_subscribers(redis, job, 1)
            await woken(watch)


async def _unheard(*_: object, **__: object) -> None:
    """Send nothing."""
