"""Fixtures of the stores: lockers, each as if in a process of its own, and data beside a Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from storage import redis_schema as schema
from storage.filestore import FileStore
from storage.redis_locker import RedisLocker, end, process_identity
from tests.storage.place import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Lockers = Callable[[], AbstractAsyncContextManager[RedisLocker]]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def locker(redis: Redis) -> Lockers:
    """Make lockers that listen, each as if in a process of its own."""

    @asynccontextmanager
    async def running() -> AsyncIterator[RedisLocker]:
        locker = RedisLocker(redis)
        locker._process = f"{process_identity().rsplit('.', 2)[0]}-{uuid4()}.1.1"
        task = asyncio.create_task(locker.run())
        channel = schema.process_channel(locker._process)
        while not (await redis.pubsub_numsub(channel))[0][1]:
            await asyncio.sleep(0.01)
        try:
            yield locker
        finally:
            await end(task)

    return running


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    data = FileStore(tmp_path)
    data.prepare()
    with closing(Place(redis_url, data, tmp_path)) as place:
        yield place
