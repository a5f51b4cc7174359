"""The jobs by the time of their creation, for the async web side; the newest come first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from storage import redis_schema as schema
from storage.errors import RecordTooNew, StoreUnavailable
from storage.job import Job, Listed, Place
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.asyncio import Redis


class RedisListing:
    """Read `tusd:jobs`; raises StoreUnavailable."""

    def __init__(self, redis: Redis) -> None:
        """Use a client that decodes responses."""
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis

    async def after(self, start: Place, until: float, most: int) -> list[Listed]:
        try:
            offset = 0
            while places := await self._places(start, until, offset, most):
                offset += len(places)
                if found := await self._jobs([one for one in places if one < start]):
                    return found
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        return []

    async def _places(self, start: Place, until: float, offset: int, most: int) -> list[Place]:
        found = await self._redis.zrange(
            schema.JOBS,
            repr(start.created_at),
            repr(until),
            desc=True,
            byscore=True,
            offset=offset,
            num=most,
            withscores=True,
        )
        return [Place(score, job_id) for job_id, score in found]

    async def _jobs(self, places: Sequence[Place]) -> list[Listed]:
        if not places:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for place in places:
                pipeline.hgetall(schema.job_key(place.job_id))
                pipeline.hgetall(schema.upload_key(place.job_id))
            answers = iter(await pipeline.execute())
        return list(_listed(zip(places, answers, answers, strict=True)))


def _listed(
    found: Iterable[tuple[Place, dict[str, str], dict[str, str]]],
) -> Iterable[Listed]:
    for place, job, upload in found:
        if job:
            yield Listed(place, Job.from_hash(place.job_id, job), _readable(upload))


def _readable(fields: dict[str, str]) -> Upload | None:
    try:
        return Upload.from_hash(fields) if fields else None
    except RecordTooNew:
        return None
