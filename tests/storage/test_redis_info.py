"""Records in Redis change as storage.interfaces.InfoStore promises, against a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from storage import redis_schema as schema
from storage.errors import LockLost, RecordTooNew, StoreUnavailable, UploadNotFound
from storage.job import Ended, JobState
from storage.redis_info import RedisInfoStore, call
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def info(redis: Redis) -> RedisInfoStore:
    return RedisInfoStore(redis)


@pytest.fixture
def upload() -> Upload:
    return Upload(str(uuid4()), 10, "filename ZMO8", 100.5, 200.5)


COMPLETED = Ended(JobState.COMPLETED, 300.0, 400.0, frames=7, plates=8, detections=9)


async def record(redis: Redis, upload_id: str) -> Upload:
    fields: Any = await redis.hgetall(schema.upload_key(upload_id))
    return Upload.from_hash(fields)


async def locked(redis: Redis, upload: Upload) -> Upload:
    token = await redis.hincrby(schema.upload_key(upload.id), "token", 1)
    return replace(upload, token=token)


async def test_a_new_record_comes_with_an_uploading_job(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    assert await record(redis, upload.id) == upload
    job = await info.job(upload.id)
    assert job is not None
    assert (job.state, job.done, job.total, job.size) == (JobState.UPLOADING, 0, 10, 10)
    assert await redis.zscore(schema.EXPIRING, upload.id) == 200.5
    assert await redis.zscore(schema.JOBS, upload.id) == 100.5
    assert await redis.zscore(schema.OUTBOX, upload.id) is None


async def test_a_commit_raises_offset_and_progress(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    now = replace(await locked(redis, upload), offset=4, expires_at=300.0)
    await info.commit(now, speed=2.0)
    assert await record(redis, upload.id) == now
    job = await info.job(upload.id)
    assert job is not None
    assert (job.state, job.done, job.speed) == (JobState.UPLOADING, 4, 2.0)


async def test_what_was_received_is_shown_and_counts_for_nothing(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    now = await locked(redis, upload)
    await info.show(now, 6, speed=2.0)
    assert await record(redis, upload.id) == now
    job = await info.job(upload.id)
    assert job is not None
    assert (job.state, job.done, job.speed) == (JobState.UPLOADING, 6, 2.0)
    # A commit says less; who watches does not see it go back.
    await info.commit(replace(now, offset=4), speed=2.0)
    await info.show(now, 5, speed=2.0)
    job = await info.job(upload.id)
    assert job is not None
    assert job.done == 6


async def test_nothing_is_shown_by_whom_somebody_took_over_from_or_of_what_is_complete(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    late = await locked(redis, upload)
    now = await locked(redis, upload)
    await info.show(late, 6, speed=2.0)
    job = await info.job(upload.id)
    assert job is not None
    assert job.done == 0
    await info.commit(replace(now, offset=10, complete=True), speed=2.0)
    await info.show(now, 10, speed=2.0)
    job = await info.job(upload.id)
    assert job is not None
    assert (job.state, job.done) == (JobState.PENDING, 0)


async def test_a_length_that_is_declared_late_is_the_jobs_total(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(replace(upload, length=None))
    assert (await record(redis, upload.id)).length is None
    locked_ = await locked(redis, upload)
    await info.commit(replace(locked_, length=None, offset=4), speed=0)
    job = await info.job(upload.id)
    assert job is not None
    assert (job.done, job.total) == (4, 0)
    await info.commit(replace(locked_, length=8, offset=4), speed=0)
    assert (await record(redis, upload.id)).length == 8
    job = await info.job(upload.id)
    assert job is not None
    assert (job.done, job.total, job.size) == (4, 8, 8)


async def test_a_hand_over_is_counted_and_told_while_it_is_uploaded(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    async with redis.pubsub(ignore_subscribe_messages=True) as watching:
        await watching.subscribe(schema.job_key(upload.id))
        await info.hand_over(upload)
        async with asyncio.timeout(30):
            while await watching.get_message(timeout=1) is None:
                pass
    await info.hand_over(upload)
    job = await info.job(upload.id)
    assert job is not None
    assert job.takeovers == 2
    now = await locked(redis, upload)
    await info.commit(replace(now, offset=10, complete=True), speed=0)
    await info.hand_over(upload)
    job = await info.job(upload.id)
    assert job is not None
    assert job.takeovers == 2
    # And of one that was removed nothing begins anew.
    gone = replace(upload, id=str(uuid4()))
    await info.hand_over(gone)
    assert await info.job(gone.id) is None


async def test_plates_of_a_job_are_those_that_its_run_has_told(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    assert await info.plates(upload.id) == []
    await redis.rpush(schema.plates_key(upload.id), "AB1", "CD2")
    assert await info.plates(upload.id) == ["AB1", "CD2"]


async def test_what_is_expected_is_shown_as_the_total_until_the_length_is_known(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    upload = replace(upload, length=None)
    await info.create(upload)
    await info.expect(upload, 1000)
    now = replace(await locked(redis, upload), offset=250)
    await info.commit(now, speed=2.0)
    job = await info.job(upload.id)
    assert job is not None
    assert (job.done, job.total, job.size, job.progress) == (250, 1000, 1000, 0.25)
    assert (await record(redis, upload.id)).length is None
    await info.commit(replace(now, offset=900, length=900, complete=True), speed=2.0)
    await info.expect(upload, 1000)
    job = await info.job(upload.id)
    assert job is not None
    assert (job.state, job.size, job.total) == (JobState.PENDING, 900, 0)


async def test_metadata_that_came_late_are_stored_by_who_holds_the_lock(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    old = await locked(redis, upload)
    now = replace(await locked(redis, upload), metadata="frame_skip Mg==")
    await info.describe(now)
    await info.describe(replace(old, metadata="from a sleeper"))
    assert await record(redis, upload.id) == now


async def test_an_id_that_was_forgotten_begins_anew(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    await info.terminate(upload, 9e9)
    await info.forget(upload.id)
    assert await redis.keys("*") == []
    await info.create(upload)
    job = await info.job(upload.id)
    assert job is not None
    assert job.state is JobState.UPLOADING


async def test_completion_enters_the_outbox_once(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    done = replace(await locked(redis, upload), offset=10, complete=True)
    await info.commit(done, speed=2.0)
    job = await info.job(upload.id)
    assert job is not None
    assert job.state is JobState.PENDING
    assert await redis.zrange(schema.OUTBOX, 0, -1) == [upload.id]
    await redis.zrem(schema.OUTBOX, upload.id)
    await info.commit(done, speed=2.0)
    assert await redis.zrange(schema.OUTBOX, 0, -1) == []


async def test_an_older_token_commits_nothing(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    old = await locked(redis, upload)
    await locked(redis, upload)
    with pytest.raises(LockLost):
        await info.commit(replace(old, offset=10, complete=True), speed=0)
    with pytest.raises(LockLost):
        await info.terminate(old, 1e10)
    assert (await record(redis, upload.id)).offset == 0
    assert await redis.zcard(schema.OUTBOX) == 0


async def test_a_missing_record_takes_no_commit(info: RedisInfoStore, upload: Upload) -> None:
    with pytest.raises(UploadNotFound):
        await info.commit(upload, speed=0)
    with pytest.raises(UploadNotFound):
        await info.terminate(upload, 1e10)


async def test_termination_leaves_a_cancelled_job_and_what_rq_has_of_it_to_the_drain(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    done = replace(await locked(redis, upload), offset=10, complete=True)
    await info.commit(done, speed=2.0)
    await info.terminate(done, 1e10)
    job = await info.job(upload.id)
    assert job is not None
    assert job.state is JobState.CANCELLED
    assert await redis.exists(schema.upload_key(upload.id)) == 0
    assert await redis.zrange(schema.OUTBOX, 0, -1) == [upload.id]
    assert await redis.zcard(schema.JOBS) == 0
    assert await redis.zscore(schema.EXPIRING, upload.id) == 1e10


@pytest.mark.parametrize(
    ("complete", "ended", "state", "in_outbox"),
    [
        (False, None, JobState.UPLOADING, False),
        (True, None, JobState.PENDING, True),
        (True, Ended(JobState.FAILED, 300.0, 400.0, "no video"), JobState.FAILED, False),
        (True, COMPLETED, JobState.COMPLETED, False),
    ],
)
async def test_a_restored_record_takes_its_job_up_where_it_stood(
    info: RedisInfoStore,
    redis: Redis,
    upload: Upload,
    *,
    complete: bool,
    ended: Ended | None,
    state: JobState,
    in_outbox: bool,
) -> None:
    upload = replace(upload, offset=10 if complete else 3, complete=complete, token=7)
    await info.restore(upload, ended)
    kept = replace(upload, expires_at=400.0) if ended else upload
    assert await record(redis, upload.id) == kept
    assert await redis.zscore(schema.EXPIRING, upload.id) == (300.0 if ended else 200.5)
    job = await info.job(upload.id)
    assert job is not None
    assert (job.state, job.error) == (state, ended.error if ended else None)
    if ended is COMPLETED:
        assert job.message == "Processed 7/7 frames (8 unique plates, 9 total detections)"
    assert bool(await redis.zcard(schema.OUTBOX)) is in_outbox


async def test_restoring_never_lowers_a_record_that_is_there(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(replace(upload, offset=8))
    await info.restore(upload, None)
    assert (await record(redis, upload.id)).offset == 8


async def test_an_unknown_job_is_none(info: RedisInfoStore) -> None:
    assert await info.job(str(uuid4())) is None


async def test_scripts_survive_a_server_that_forgot_them(redis: Redis, upload: Upload) -> None:
    await redis.script_flush()
    keys = (schema.lock_key(upload.id), schema.waiting_key(upload.id))
    assert await call(redis, schema.RELEASE, keys, ("x", upload.id)) == 0


async def test_a_server_that_is_away_is_said_so(upload: Upload) -> None:
    async with Redis.from_url("unix:///nowhere/redis.sock") as client:
        info = RedisInfoStore(client)
        with pytest.raises(StoreUnavailable, match="Redis does not answer"):
            await info.create(upload)
        with pytest.raises(StoreUnavailable, match="Redis does not answer"):
            await info.job(upload.id)


async def test_a_record_is_found_whoever_writes_it(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    assert await info.find(upload.id) is None
    await info.create(upload)
    await redis.set(schema.lock_key(upload.id), "somebody:1")
    assert await info.find(upload.id) == upload
    await redis.hset(schema.upload_key(upload.id), "version", "99")
    with pytest.raises(RecordTooNew):
        await info.find(upload.id)


async def test_what_is_complete_has_all_its_bytes(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(upload)
    with pytest.raises(LockLost):
        await info.commit(replace(await locked(redis, upload), offset=9, complete=True), speed=0)
    assert (await record(redis, upload.id)).offset == 0
    assert await redis.zcard(schema.OUTBOX) == 0


async def test_a_record_that_is_behind_is_raised_above_its_journal(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(replace(upload, token=2, offset=1))
    journal = replace(upload, token=7, offset=4, expires_at=300.0, segments=((0, 0), (1, 2)))
    journal = replace(journal, metadata="frame_skip Mg==")
    assert await info.raise_to(journal)
    assert await record(redis, upload.id) == replace(journal, token=8)
    assert not await info.raise_to(journal)
    job = await info.job(upload.id)
    assert job is not None
    assert job.done == 4
    # Whoever got a token before that may still write; it counts for nothing.
    with pytest.raises(LockLost):
        await info.commit(replace(journal, offset=3), speed=0)


async def test_a_completion_that_redis_forgot_enters_the_outbox(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    await info.create(replace(upload, token=9, offset=4))
    assert await info.raise_to(replace(upload, token=7, offset=10, complete=True))
    assert (await record(redis, upload.id)).complete
    assert await redis.zrange(schema.OUTBOX, 0, -1) == [upload.id]


@pytest.mark.parametrize("token", [7, 9])
async def test_a_record_that_has_moved_on_is_not_lowered(
    info: RedisInfoStore, redis: Redis, upload: Upload, token: int
) -> None:
    record_ = replace(upload, token=token, offset=8, expires_at=300.0, segments=((0, 0), (1, 6)))
    await info.create(record_)
    # Read a moment ago: its writer has committed and let go since.
    await info.raise_to(replace(upload, length=None, token=7, offset=4, expires_at=200.0))
    now = await record(redis, upload.id)
    assert now == replace(record_, token=now.token)
    assert now.token >= token
    assert await redis.zscore(schema.EXPIRING, upload.id) == 300.0
    job = await info.job(upload.id)
    assert job is not None
    assert job.done == 8


async def test_a_record_that_completed_meanwhile_stays_complete(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    done = replace(upload, token=7, offset=10, complete=True)
    await info.create(replace(upload, token=7, offset=4))
    await info.commit(done, speed=0)
    await info.raise_to(replace(upload, token=7, offset=10))
    assert (await record(redis, upload.id)).complete
    assert await redis.zrange(schema.OUTBOX, 0, -1) == [upload.id]


async def test_nothing_is_raised_while_somebody_writes_or_where_nothing_is(
    info: RedisInfoStore, redis: Redis, upload: Upload
) -> None:
    assert not await info.raise_to(upload)
    await info.create(upload)
    await redis.set(schema.lock_key(upload.id), "somebody:1")
    assert not await info.raise_to(replace(upload, token=7, offset=4))
    assert await record(redis, upload.id) == upload
