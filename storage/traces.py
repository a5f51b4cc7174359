"""What Redis has of uploads, read in one go and only read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from storage import redis_schema as schema
from storage.orphans import ID
from storage.redis_sync import redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_BATCH = 200
_SCAN = 1000
_HASHES = ("tusd:upload:", "tusd:job:")
_LOCK, _FINALS = "tusd:lock:", "tusd:finals:"


@dataclass(frozen=True, slots=True)
class Traces:
    """Hold what Redis has of one upload.

    `state` is its job's, `due` when the sweeper looks at it; `waits` in the outbox, `listed` among
    the jobs.
    """

    record: dict[str, str]
    state: str | None
    due: float | None
    waits: bool
    listed: bool
    locked: bool


@dataclass(frozen=True, slots=True)
class Known:
    """Hold the ids of all uploads that Redis knows, of the parts awaited, and what is locked."""

    ids: set[str]
    awaited: list[str]
    locks: list[str]


@redis_errors()
def known(redis: Any) -> Known:
    """Read all of our keys."""
    keys = list(redis.scan_iter("tusd:*", count=_SCAN))
    ids = {one for prefix in _HASHES for one in _of_prefix(keys, prefix)}
    for zset in (schema.EXPIRING, schema.OUTBOX, schema.JOBS):
        ids |= set(redis.zrange(zset, 0, -1))
    ours = {one for one in ids if ID.fullmatch(one)}
    return Known(ours, _of_prefix(keys, _FINALS), _of_prefix(keys, _LOCK))


def _of_prefix(keys: Sequence[str], prefix: str) -> list[str]:
    # A scan may name a key twice.
    return sorted({key.removeprefix(prefix) for key in keys if key.startswith(prefix)})


def of(redis: Any, ids: Iterable[str]) -> Iterator[tuple[str, Traces]]:
    """Yield what Redis has of each, read just before."""
    rest = iter(ids)
    while batch := list(islice(rest, _BATCH)):
        yield from zip(batch, _read(redis, batch), strict=True)


@redis_errors()
def _read(redis: Any, ids: Sequence[str]) -> list[Traces]:
    with redis.pipeline(transaction=False) as pipeline:
        for upload_id in ids:
            pipeline.hgetall(schema.upload_key(upload_id))
            pipeline.hget(schema.job_key(upload_id), "state")
            pipeline.zscore(schema.EXPIRING, upload_id)
            pipeline.zscore(schema.OUTBOX, upload_id)
            pipeline.zscore(schema.JOBS, upload_id)
            pipeline.exists(schema.lock_key(upload_id))
        answers = iter(pipeline.execute())
    return [
        Traces(record, state, due, waits is not None, listed is not None, bool(locked))
        for record, state, due, waits, listed, locked in zip(*[answers] * 6, strict=True)
    ]
