"""Records of uploads and jobs in Redis, for the async web side (storage.interfaces.InfoStore)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from storage import redis_schema as schema
from storage.errors import LockLost, StoreUnavailable, UploadNotFound
from storage.job import Job
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from storage.interfaces import Lock
    from storage.job import Ended
    from storage.redis_wire import RedisWire

    Commands = Redis | RedisWire


async def call(
    redis: Commands, script: schema.Script, keys: Sequence[str], args: Sequence[str | float]
) -> Any:
    """Run a script, which is loaded when the server does not know it; raise StoreUnavailable."""
    try:
        try:
            return await redis.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.eval(script.text, len(keys), *keys, *args)
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer: {error}") from error


class RedisInfoStore:
    """Keep records in hashes; what a client may rely on is what they say."""

    def __init__(self, redis: Commands) -> None:
        """Use a client that decodes responses."""
        self._redis = redis

    async def create(self, upload: Upload, lock: Lock | None = None) -> None:
        built = schema.store(upload, None, time.time(), lock.value if lock else "")
        await call(self._redis, schema.STORE, *built)

    async def restore(self, upload: Upload, ended: Ended | None) -> None:
        await call(self._redis, schema.STORE, *schema.store(upload, ended, time.time()))

    async def commit(self, upload: Upload, *, speed: float, lock: Lock | None = None) -> None:
        built = schema.commit(upload, time.time(), speed, lock.value if lock else "")
        _check(await call(self._redis, schema.COMMIT, *built))
        if lock is not None and upload.complete:
            lock.returned = True

    async def show(self, upload: Upload, received: int, *, speed: float) -> None:
        built = schema.show(upload, received, time.time(), speed)
        await call(self._redis, schema.SHOW, *built)

    async def expect(self, upload: Upload, size: int) -> None:
        built = [schema.job_key(upload.id)], [str(size), str(time.time())]
        await call(self._redis, schema.EXPECT, *built)

    async def warn(self, upload: Upload, error: str) -> None:
        built = [schema.job_key(upload.id)], [error, str(time.time())]
        await call(self._redis, schema.WARN, *built)

    async def describe(self, upload: Upload) -> None:
        built = [schema.upload_key(upload.id)], [str(upload.token), upload.metadata or ""]
        await call(self._redis, schema.DESCRIBE, *built)

    async def forget(self, upload_id: str) -> None:
        keys = [*schema.pair(upload_id), schema.EXPIRING, schema.OUTBOX, schema.JOBS]
        await call(self._redis, schema.FORGET, keys, [upload_id, str(time.time())])

    async def hand_over(self, upload: Upload) -> None:
        await call(self._redis, schema.HAND_OVER, (schema.job_key(upload.id),), ())

    async def terminate(self, upload: Upload, forget_at: float) -> None:
        built = schema.terminate(upload.id, upload.token, time.time(), forget_at)
        _check(await call(self._redis, schema.TERMINATE, *built))

    async def finals(self, part_id: str) -> Sequence[str]:
        try:
            # redis-py's types cannot say that it decodes.
            found: Any = await self._redis.smembers(schema.finals_key(part_id))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        return sorted(found)

    async def raise_to(self, upload: Upload) -> bool:
        answer = await call(self._redis, schema.RAISE, *schema.raise_to(upload, time.time()))
        return bool(answer == 1)

    async def find(self, upload_id: str) -> Upload | None:
        fields = await self._fields(schema.upload_key(upload_id))
        return Upload.from_hash(fields) if fields else None

    async def job(self, job_id: str) -> Job | None:
        fields = await self._fields(schema.job_key(job_id))
        return Job.from_hash(job_id, fields) if fields else None

    async def plates(self, job_id: str) -> Sequence[str]:
        try:
            # As above.
            found: Any = await self._redis.lrange(schema.plates_key(job_id), 0, -1)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        return list(found)

    async def _fields(self, key: str) -> dict[str, str]:
        try:
            # redis-py's types cannot say that it decodes.
            fields: Any = await self._redis.hgetall(key)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        return dict(fields)


def _check(answer: int) -> None:
    if answer == 0:
        raise LockLost("a newer request has taken this upload over")
    if answer < 0:
        raise UploadNotFound("the record of this upload is missing")
