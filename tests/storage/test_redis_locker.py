"""One writer per upload, the newer request wins: against a real server, by several processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from storage import redis_locker
from storage import redis_schema as schema
from storage.errors import RecordTooNew, StoreUnavailable, UploadLocked, UploadNotFound
from storage.redis_info import RedisInfoStore, call
from storage.redis_locker import RedisLocker, end, is_dead, process_identity
from storage.upload import Upload

if TYPE_CHECKING:
    from tests.storage.conftest import Lockers

# As if of another host: nobody here can tell whether it lives.
ELSEWHERE = "0000-1.1.1"


@pytest.fixture
async def upload_id(redis: Redis) -> str:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0)
    await RedisInfoStore(redis).create(upload)
    return upload.id


async def test_each_lock_has_a_higher_token(locker: Lockers, upload_id: str) -> None:
    async with locker() as one:
        async with one.hold(upload_id) as first:
            pass
        async with one.hold(upload_id) as second:
            assert second.upload.token > first.upload.token


async def test_the_holder_is_asked_to_stop_and_the_newcomer_follows(
    locker: Lockers, upload_id: str
) -> None:
    order = []

    async def newcomer(other: RedisLocker) -> None:
        async with other.hold(upload_id):
            order.append("newcomer in")

    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(locker())
        other = await stack.enter_async_context(locker())
        async with one.hold(upload_id) as lock:
            task = asyncio.create_task(newcomer(other))
            await lock.stop.wait()
            order.append("holder out")
        await task
    assert order == ["holder out", "newcomer in"]


async def test_requests_of_one_process_hand_over_as_well(locker: Lockers, upload_id: str) -> None:
    async with locker() as one:

        async def newcomer() -> int:
            async with one.hold(upload_id) as lock:
                return lock.upload.token

        async with one.hold(upload_id) as lock:
            task = asyncio.create_task(newcomer())
            await lock.stop.wait()
        assert await task > lock.upload.token


async def test_the_lock_of_a_record_that_cannot_be_read_is_given_back_at_once(
    locker: Lockers, upload_id: str, redis: Redis
) -> None:
    await redis.hset(schema.upload_key(upload_id), "version", "99")
    async with locker() as one:
        with pytest.raises(RecordTooNew):
            await one.take(upload_id, lambda: None)
        assert not await redis.exists(schema.lock_key(upload_id))


async def test_ten_waiters_all_get_their_turn(locker: Lockers, upload_id: str) -> None:
    inside = 0

    async def turn(locker: RedisLocker) -> None:
        nonlocal inside
        async with locker.hold(upload_id) as lock:
            inside += 1
            assert inside == 1
            # Hold on until the next one asks, as a stalled request would.
            with suppress(TimeoutError):
                await asyncio.wait_for(lock.stop.wait(), 0.2)
            inside -= 1

    async with locker() as one, locker() as other:
        await asyncio.gather(*(turn(one if n % 2 else other) for n in range(10)))


async def test_settled_reads_the_record_once_the_writer_is_gone(
    locker: Lockers, redis: Redis, upload_id: str
) -> None:
    async with locker() as one, locker() as other:
        async with one.hold(upload_id) as lock:
            task = asyncio.create_task(other.settled(upload_id))
            await lock.stop.wait()
            await redis.hset(schema.upload_key(upload_id), "offset", "7")
        assert (await task).offset == 7


async def test_an_unknown_upload_is_not_found(locker: Lockers) -> None:
    async with locker() as one:
        with pytest.raises(UploadNotFound):
            await one.settled(str(uuid4()))
        with pytest.raises(UploadNotFound):
            async with one.hold(str(uuid4())):
                pass


async def test_a_holder_that_does_not_let_go_is_waited_for_only_so_long(
    locker: Lockers, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_PATIENCE", 0.2)
    await redis.set(schema.lock_key(upload_id), f"{ELSEWHERE}:1", px=60_000)
    async with locker() as one:
        with pytest.raises(UploadLocked):
            await one.settled(upload_id)


async def test_a_lease_that_runs_out_frees_the_upload(
    locker: Lockers, redis: Redis, upload_id: str
) -> None:
    await redis.set(schema.lock_key(upload_id), f"{ELSEWHERE}:1", px=200)
    async with locker() as one, one.hold(upload_id) as lock:
        assert lock.upload.token == 1


async def test_a_lease_is_renewed_while_it_is_held(
    locker: Lockers, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_RENEWAL", 0.05)
    async with locker() as one, one.hold(upload_id) as lock:
        # A renewal sets it to what a lease lasts, which is far less.
        await redis.expire(schema.lock_key(upload_id), 3600)
        while await redis.ttl(schema.lock_key(upload_id)) > 60:
            await asyncio.sleep(0.01)
        assert await redis.get(schema.lock_key(upload_id)) == lock.value
        assert not lock.stop.is_set()


async def test_a_holder_whose_lease_was_lost_is_told_to_stop(
    locker: Lockers, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_RENEWAL", 0.05)
    async with locker() as one, one.hold(upload_id) as lock:
        await redis.set(schema.lock_key(upload_id), f"{ELSEWHERE}:9", px=60_000)
        await lock.stop.wait()
    assert await redis.get(schema.lock_key(upload_id)) == f"{ELSEWHERE}:9"


async def test_a_lease_that_ran_out_unseen_is_taken_again(
    locker: Lockers, redis: Redis, upload_id: str
) -> None:
    async with locker() as one, one.hold(upload_id) as lock:
        # Redis stood still for longer than a lease lasts.
        await redis.delete(schema.lock_key(upload_id))
        await one._renew_batch([(upload_id, lock)])
        assert await redis.get(schema.lock_key(upload_id)) == lock.value
        assert await redis.pttl(schema.lock_key(upload_id)) > 0
        assert not lock.stop.is_set()


@pytest.mark.parametrize("what", ["another had it", "it is complete", "forgotten", "given back"])
async def test_a_lease_that_ran_out_is_not_taken_again_where_it_is_over(
    locker: Lockers, redis: Redis, upload_id: str, what: str
) -> None:
    async with locker() as one, one.hold(upload_id) as lock:
        await redis.delete(schema.lock_key(upload_id))
        if what == "another had it":
            await redis.hincrby(schema.upload_key(upload_id), "token", 1)
        elif what == "it is complete":
            await redis.hset(schema.upload_key(upload_id), "complete", "1")
        elif what == "forgotten":
            await redis.delete(schema.upload_key(upload_id))
        else:
            await one.release(lock)
        await one._renew_batch([(upload_id, lock)])
        assert await redis.get(schema.lock_key(upload_id)) is None
        assert lock.stop.is_set() == (what != "given back")


@pytest.mark.parametrize("take", [True, False])
async def test_who_waited_for_a_lease_that_ran_out_asks_no_later_holder_to_let_go(
    locker: Lockers, redis: Redis, upload_id: str, *, take: bool
) -> None:
    # Nobody told them that it is free.
    await redis.set(schema.lock_key(upload_id), f"{ELSEWHERE}:9", px=300)
    async with locker() as one:
        if take:
            lock = await one.take(upload_id, lambda: None)
        else:
            await one.settled(upload_id)
            lock = await one.take(upload_id, lambda: None)
        await one._renew_batch([(upload_id, lock)])
        assert not lock.stop.is_set()
        await one.release(lock)


async def test_a_holder_hears_of_a_contender_whose_message_was_lost(
    locker: Lockers, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_RENEWAL", 0.05)
    async with locker() as one, one.hold(upload_id) as lock:
        await redis.sadd(schema.waiting_key(upload_id), ELSEWHERE)
        await lock.stop.wait()
        assert await redis.get(schema.lock_key(upload_id)) == lock.value


async def test_thousands_of_leases_are_renewed_in_one_go(
    locker: Lockers, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_BATCH", 7)
    info = RedisInfoStore(redis)
    uploads = [Upload(str(uuid4()), 10, None, 1.0, 2.0) for _ in range(20)]
    for upload in uploads:
        await info.create(upload)
    async with locker() as one, AsyncExitStack() as stack:
        locks = [await stack.enter_async_context(one.hold(upload.id)) for upload in uploads]
        for upload in uploads[::2]:
            await redis.set(schema.lock_key(upload.id), f"{ELSEWHERE}:9")
        await asyncio.gather(*(lock.stop.wait() for lock in locks[::2]))
        assert not any(lock.stop.is_set() for lock in locks[1::2])


async def test_who_creates_holds_it_though_the_record_was_rebuilt_a_moment_before(
    locker: Lockers, redis: Redis
) -> None:
    # A reconciler may find the journal before the record is stored.
    info, upload = RedisInfoStore(redis), Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
    async with locker() as one, locker() as two:
        await info.restore(upload, None)
        lock = one.grant(upload, lambda: None)
        await info.create(upload, lock)
        assert await redis.get(schema.lock_key(upload.id)) == lock.value
        taking = asyncio.create_task(two.take(upload.id, lambda: None))
        await lock.stop.wait()
        assert not taking.done()
        await one.release(lock)
        await two.release(await taking)


async def test_who_creates_takes_nothing_from_who_holds_what_was_rebuilt(
    locker: Lockers, redis: Redis
) -> None:
    info, upload = RedisInfoStore(redis), Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
    async with locker() as one, locker() as two:
        await info.restore(upload, None)
        async with two.hold(upload.id) as held:
            await info.create(upload, one.grant(upload, lambda: None))
            assert await redis.get(schema.lock_key(upload.id)) == held.value


async def test_a_message_nobody_understands_stops_nothing(
    locker: Lockers, redis: Redis, upload_id: str
) -> None:
    async with locker() as one, one.hold(upload_id) as lock:
        for text in ("", "nonsense", "stop", "stop  x"):
            await redis.publish(schema.process_channel(one._process), text)
        await redis.publish(schema.process_channel(one._process), f"stop {upload_id}")
        await lock.stop.wait()


async def test_a_dead_holder_of_this_host_is_not_waited_for(
    locker: Lockers, redis: Redis, upload_id: str
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "from storage.redis_locker import *; print(process_identity())"],
        check=True,
        capture_output=True,
        text=True,
    )
    await redis.set(schema.lock_key(upload_id), f"{child.stdout.strip()}:1")
    async with locker() as one, one.hold(upload_id):
        pass


async def test_a_lock_that_this_process_could_not_give_back_is_not_waited_for(
    locker: Lockers, redis: Redis, upload_id: str
) -> None:
    async with locker() as one:
        # Redis was away when it was to be given back.
        await redis.set(schema.lock_key(upload_id), f"{one._process}:1")
        async with one.hold(upload_id) as lock:
            assert await redis.get(schema.lock_key(upload_id)) == lock.value


async def test_a_holder_shuts_down_by_letting_go(locker: Lockers, upload_id: str) -> None:
    async with locker() as one, one.hold(upload_id) as lock:
        one.stop_all()
        assert lock.stop.is_set()
    async with locker() as other:
        other.stop_all()
        async with other.hold(upload_id) as late:
            assert late.stop.is_set()


async def test_a_lock_that_may_have_run_out_is_not_trusted(
    locker: Lockers, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with locker() as one, one.hold(upload_id) as lock:
        assert lock.valid()
        later = time.clock_gettime(time.CLOCK_BOOTTIME) + 5.0
        monkeypatch.setattr(time, "clock_gettime", lambda _: later)
        assert not lock.valid()
        # It was renewed: Redis still has it.
        await one._renew_batch([(upload_id, lock)])
        assert lock.valid()


async def test_a_lock_is_given_back_that_came_when_nobody_wanted_it_any_more(
    locker: Lockers, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    async def slow(*args: Any) -> Any:
        answer = await call(*args)
        answered.set()
        await asyncio.sleep(0.05)
        return answer

    monkeypatch.setattr(redis_locker, "call", slow)
    async with locker() as one:
        task = asyncio.create_task(one.take(upload_id, lambda: None))
        await answered.wait()
        assert await redis.exists(schema.lock_key(upload_id))
        await end(task)
        while await redis.exists(schema.lock_key(upload_id)):
            await asyncio.sleep(0.01)
        assert not one._held


async def test_a_locker_ends_whenever_it_is_cancelled(redis: Redis) -> None:
    for steps in range(60):
        locker = RedisLocker(redis)
        task = asyncio.create_task(locker.run())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=60)
        assert task.cancelled()


async def test_a_locker_ends_though_a_cancellation_is_swallowed(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = asyncio.Event()

    async def deaf(_: PubSub, channel: str) -> None:
        del channel
        listening.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

    monkeypatch.setattr(PubSub, "subscribe", deaf)
    task = asyncio.create_task(RedisLocker(redis).run())
    await listening.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.cancelled()


async def test_a_server_that_is_away_is_said_so() -> None:
    async with Redis.from_url("unix:///nowhere/redis.sock") as client:
        with pytest.raises(StoreUnavailable):
            await RedisLocker(client).settled(str(uuid4()))


def test_a_living_process_is_not_dead_and_one_that_ended_is() -> None:
    own = process_identity()
    assert not is_dead(own)
    host, pid, started = own.rsplit(".", 2)
    # The number may have been given to another process since.
    assert is_dead(f"{host}.{pid}.{int(started) - 1}")
    assert not is_dead(f"another-host.{pid}.{int(started) - 1}")
    with subprocess.Popen(["sleep", "60"]) as child:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        zombie = f"{host}.{child.pid}.{started}"
        assert is_dead(zombie)
