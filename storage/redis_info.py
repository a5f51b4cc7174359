"""Records of uploads and jobs in Redis, for the async web side (storage.interfaces.InfoStore)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from storage import redis_schema as schema
from storage.errors import LockLost, StoreUnavailable, UploadNotFound
from storage.job import Job, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from storage.upload import Upload


async def call(
    redis: Redis, script: schema.Script, keys: Sequence[str], args: Sequence[str | float]
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

    def __init__(self, redis: Redis) -> None:
        """Use a client that decodes responses."""
        self._redis = redis

    async def create(self, upload: Upload) -> None:
        await self._store(upload, JobState.UPLOADING, None)

    async def restore(self, upload: Upload, ended: tuple[str, str | None] | None) -> None:
        state, error = ended or (JobState.PENDING if upload.complete else JobState.UPLOADING, None)
        await self._store(upload, JobState(state), error)

    async def _store(self, upload: Upload, state: JobState, error: str | None) -> None:
        keys = (*_keys(upload.id), schema.EXPIRING, schema.JOBS, schema.OUTBOX)
        done = upload.offset if state is JobState.UPLOADING else 0
        fields = [part for item in upload.to_hash().items() for part in item]
        times = (upload.created_at, upload.expires_at, time.time())
        args = (upload.id, *times, state.value, upload.length, done, error or "", *fields)
        await call(self._redis, schema.STORE, keys, args)

    async def commit(self, upload: Upload, *, speed: float) -> None:
        keys = (*_keys(upload.id), schema.EXPIRING, schema.OUTBOX)
        state = (upload.token, upload.offset, int(upload.complete), upload.expires_at)
        args = (upload.id, *state, time.time(), f"{speed:.0f}")
        _check(await call(self._redis, schema.COMMIT, keys, args))

    async def terminate(self, upload: Upload, forget_at: float) -> None:
        keys = (*_keys(upload.id), schema.EXPIRING, schema.OUTBOX, schema.JOBS)
        args = (upload.id, upload.token, time.time(), int(forget_at))
        _check(await call(self._redis, schema.TERMINATE, keys, args))

    async def job(self, job_id: str) -> Job | None:
        try:
            fields: Any = await self._redis.hgetall(schema.job_key(job_id))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        return Job.from_hash(job_id, fields) if fields else None


def _keys(upload_id: str) -> tuple[str, str]:
    return schema.upload_key(upload_id), schema.job_key(upload_id)


def _check(answer: int) -> None:
    if answer == 0:
        raise LockLost("a newer request has taken this upload over")
    if answer < 0:
        raise UploadNotFound("the record of this upload is missing")
