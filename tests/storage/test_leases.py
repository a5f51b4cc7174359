"""Leases outlast requests, cost no exchange while they do, and go to whoever asks for them."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from storage import leases as leases_module
from storage import redis_locker
from storage import redis_schema as schema
from storage.errors import RecordBehind, StoreUnavailable, UploadLocked, UploadNotFound
from storage.filestore import FileStore
from storage.leases import Leases, how_many
from storage.redis_info import RedisInfoStore, call
from storage.redis_locker import RedisLocker, end
from storage.syncs import Syncs
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    from storage.leases import Lease
    from tests.storage.conftest import Lockers

    Processes = Callable[..., AbstractAsyncContextManager[Leases]]

# So long that nothing in a test runs out by itself.
LONG = 600.0


@pytest.fixture
def data(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "uploads")
    store.prepare()
    return store


@pytest.fixture
async def new(redis: Redis, data: FileStore) -> Callable[[], Any]:
    """Make uploads of 10 bytes in all stores."""

    async def make() -> str:
        upload = Upload(str(uuid4()), 10, None, 1.0, 2.0)
        data.create(upload)
        await RedisInfoStore(redis).create(upload)
        return upload.id

    return make


@pytest.fixture
async def upload_id(new: Callable[[], Any]) -> str:
    made: str = await new()
    return made


@pytest.fixture
def process(locker: Lockers, data: FileStore) -> Processes:
    """Make Leases, each as if in a process of its own."""

    @asynccontextmanager
    async def running(keep: float = LONG, **more: Any) -> AsyncIterator[Leases]:
        async with locker() as one:
            leases = Leases(one, data, keep=keep, **more)
            yield leases
            await leases.aclose()
            assert not any((leases._places, leases._kept, leases._leaving, one._held))

    return running


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tell which scripts a locker ran, but for the renewals."""
    seen: list[str] = []
    names = {schema.ACQUIRE: "acquire", schema.RELEASE: "release"}

    async def noted(redis: Redis, script: schema.Script, *args: Any) -> Any:
        if script in names:
            seen.append(names[script])
        return await call(redis, script, *args)

    monkeypatch.setattr(redis_locker, "call", noted)
    return seen


async def append(lease: Lease, content: bytes, redis: Redis) -> None:
    """Take bytes as a request does."""
    writer = await lease.writer()
    writer.write([content])
    done = writer.offset == lease.upload.length
    lease.upload = replace(lease.upload, offset=writer.offset, complete=done)
    writer.commit(lease.upload)
    await RedisInfoStore(redis).commit(lease.upload, speed=0)


async def written(leases: Leases, upload_id: str, redis: Redis, content: bytes = b"abc") -> Lease:
    async with leases.hold(upload_id) as lease:
        await append(lease, content, redis)
    return lease


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.01)


async def lock_of(redis: Redis, upload_id: str) -> str | None:
    # redis-py's types cannot say that it decodes.
    value: Any = await redis.get(schema.lock_key(upload_id))
    return None if value is None else str(value)


async def gone(redis: Redis, upload_id: str) -> None:
    async with asyncio.timeout(60):
        while await lock_of(redis, upload_id):
            await asyncio.sleep(0.01)


def open_files(data: FileStore) -> int:
    directory = str(data._directory)
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += str(fd.readlink()).startswith(directory)
    return count


async def test_the_next_request_of_an_upload_finds_lock_and_files_at_hand(
    process: Processes, redis: Redis, upload_id: str, data: FileStore, exchanges: list[str]
) -> None:
    async with process() as one:
        first = await written(one, upload_id, redis)
        exchanges.clear()
        size = (data._directory / f"{upload_id}.log").stat().st_size
        async with one.hold(upload_id) as lease:
            assert lease.upload.offset == 3
            assert not lease.stop.is_set()
            assert lease.upload.token == first.upload.token
            await lease.writer()
            # Nothing was opened: no line stands in the journal.
            assert (data._directory / f"{upload_id}.log").stat().st_size == size
            await append(lease, b"defg", redis)
        assert exchanges == []
        assert (await one.settled(upload_id)).offset == 7
        assert exchanges == []
    assert data.recover(upload_id)[0].offset == 7
    assert await lock_of(redis, upload_id) is None
    assert open_files(data) == 0


async def test_what_the_last_request_wrote_and_did_not_commit_is_written_over(
    process: Processes, redis: Redis, upload_id: str, data: FileStore
) -> None:
    async with process() as one:
        async with one.hold(upload_id) as lease:
            await append(lease, b"abc", redis)
            (await lease.writer()).write([b"XXXX"])
        async with one.hold(upload_id) as lease:
            assert (await lease.writer()).offset == 3
            await append(lease, b"defghij", redis)
    with data.read(upload_id) as file:
        assert file.read() == b"abcdefghij"


async def fails(lease: Lease) -> None:
    await lease.writer()
    raise ValueError


async def discards(lease: Lease) -> None:
    await lease.writer()
    lease.discard()


async def opens_nothing(lease: Lease) -> None:
    assert lease.upload.offset == 0


async def does_not_say_what_it_committed(lease: Lease) -> None:
    writer = await lease.writer()
    writer.write([b"abc"])
    writer.commit(replace(lease.upload, offset=3))


@pytest.mark.parametrize("deed", [fails, discards, opens_nothing, does_not_say_what_it_committed])
async def test_what_went_wrong_or_is_not_worth_it_is_not_kept(
    process: Processes, redis: Redis, upload_id: str, data: FileStore, deed: Callable[..., Any]
) -> None:
    async with process() as one:
        with suppress(ValueError):
            async with one.hold(upload_id) as lease:
                await deed(lease)
        assert await lock_of(redis, upload_id) is None
        assert open_files(data) == 0


async def test_a_complete_upload_is_not_kept(
    process: Processes, redis: Redis, upload_id: str, data: FileStore
) -> None:
    async with process() as one:
        await written(one, upload_id, redis, b"abcdefghij")
        assert await lock_of(redis, upload_id) is None
        assert open_files(data) == 0
        assert (await one.settled(upload_id)).complete


async def test_a_request_that_is_cancelled_leaves_nothing_behind(
    process: Processes, redis: Redis, upload_id: str, data: FileStore
) -> None:
    holding = asyncio.Event()

    async def request(leases: Leases) -> None:
        async with leases.hold(upload_id) as lease:
            await append(lease, b"abc", redis)
            holding.set()
            await asyncio.sleep(3600)

    async with process() as one:
        task = asyncio.create_task(request(one))
        await holding.wait()
        task.cancel()
        await asyncio.wait({task})
        assert await lock_of(redis, upload_id) is None
        assert open_files(data) == 0


async def test_a_request_that_is_cancelled_at_any_moment_leaves_nothing_behind(
    process: Processes, redis: Redis, upload_id: str, data: FileStore
) -> None:
    async def request(leases: Leases) -> None:
        async with leases.hold(upload_id) as lease:
            await lease.writer()
            await asyncio.sleep(3600)

    async with process() as one:
        for steps in range(40):
            task = asyncio.create_task(request(one))
            for _ in range(steps):
                await asyncio.sleep(0.0005 if steps % 2 else 0)
            await end(task)
            await gone(redis, upload_id)
        await written(one, upload_id, redis)
    assert open_files(data) == 0


async def test_what_is_kept_is_let_go_of_after_some_time(
    process: Processes, redis: Redis, upload_id: str, data: FileStore
) -> None:
    async with process(keep=0.05) as one:
        await written(one, upload_id, redis)
        await gone(redis, upload_id)
        await until(lambda: not one._leaving)
        assert open_files(data) == 0
        async with one.hold(upload_id) as lease:
            assert lease.upload.offset == 3


async def test_under_an_interval_little_is_committed_only_when_it_is_time_or_somebody_waits(
    process: Processes, upload_id: str
) -> None:
    async with process(syncs=Syncs(LONG, 6)) as leases, leases.hold(upload_id) as lease:
        writer = await lease.writer()
        writer.write([b"a"])
        assert lease.due
        await lease.commit(replace(lease.upload, offset=1))
        # That was the turn for a long time.
        writer.write([b"bcd"])
        assert not lease.due
        waiting = asyncio.create_task(lease.commit(replace(lease.upload, offset=4)))
        assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
        assert writer.upload.offset == 1
        # Enough bytes are one, too.
        lease._syncs._turns.next(3)
        await waiting
        assert writer.upload.offset == 4


async def test_the_oldest_goes_when_there_are_too_many(
    process: Processes, redis: Redis, new: Callable[[], Any], data: FileStore
) -> None:
    ids = [await new() for _ in range(5)]
    async with process(most=2) as one:
        for upload_id in ids:
            await written(one, upload_id, redis)
        await until(lambda: not one._leaving)
        assert [bool(await lock_of(redis, one_)) for one_ in ids] == [False] * 3 + [True] * 2
        assert open_files(data) == 4


async def test_another_process_gets_what_is_kept_at_once(
    process: Processes, redis: Redis, upload_id: str, data: FileStore
) -> None:
    async with process() as one, process() as other:
        await written(one, upload_id, redis)
        assert (await other.settled(upload_id)).offset == 3
        assert open_files(data) == 0
        await written(one, upload_id, redis)
        async with other.hold(upload_id) as lease:
            assert lease.upload.offset == 6
            await append(lease, b"ghij", redis)
        assert lease.upload.segments == ((0, 0),)


async def test_what_is_kept_goes_though_the_message_was_lost(
    process: Processes, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_RENEWAL", 0.05)
    async with process() as one:
        await written(one, upload_id, redis)
        await redis.sadd(schema.waiting_key(upload_id), "somebody")
        await gone(redis, upload_id)


async def test_another_process_stops_the_holder_and_what_it_held_is_not_kept(
    process: Processes, redis: Redis, upload_id: str
) -> None:
    async with process() as one, process() as other:
        async with one.hold(upload_id) as lease:
            asked = asyncio.create_task(other.settled(upload_id))
            await lease.stop.wait()
            await append(lease, b"abc", redis)
        assert not one._kept
        assert (await asked).offset == 3


async def test_a_newer_request_stops_the_holder_and_goes_on_with_what_it_has(
    process: Processes, redis: Redis, upload_id: str, exchanges: list[str]
) -> None:
    async with process() as one:
        async with one.hold(upload_id) as lease:
            exchanges.clear()
            newer = asyncio.create_task(written(one, upload_id, redis, b"defg"))
            await lease.stop.wait()
            await append(lease, b"abc", redis)
        assert (await newer).upload.offset == 7
        assert exchanges == []


async def test_requests_come_in_the_order_in_which_they_were_made(
    process: Processes, upload_id: str
) -> None:
    order: list[int] = []
    stopped: list[int] = []

    async def turn(leases: Leases, number: int) -> None:
        async with leases.hold(upload_id) as lease:
            await lease.writer()
            order.append(number)
            await asyncio.sleep(0.01)
            if lease.stop.is_set():
                stopped.append(number)

    async with process() as one:
        await asyncio.gather(*(turn(one, number) for number in range(10)))
    assert order == list(range(10))
    # Nobody wants what the last one has.
    assert stopped == list(range(9))


async def test_ten_that_only_look_cost_one_interruption(
    process: Processes, redis: Redis, upload_id: str, exchanges: list[str]
) -> None:
    async with process() as one:
        async with one.hold(upload_id) as lease:
            exchanges.clear()
            looks = [asyncio.create_task(one.settled(upload_id)) for _ in range(10)]
            await lease.stop.wait()
            await append(lease, b"abc", redis)
        assert {(await look).offset for look in looks} == {3}
        assert exchanges == []
        async with one.hold(upload_id) as lease:
            assert not lease.stop.is_set()


async def test_who_gave_up_waiting_stops_nobody_after(
    process: Processes, redis: Redis, upload_id: str
) -> None:
    async with process() as one:
        async with one.hold(upload_id) as lease:
            waiter = asyncio.create_task(written(one, upload_id, redis))
            await lease.stop.wait()
            waiter.cancel()
            await asyncio.wait({waiter})
        async with one.hold(upload_id) as lease:
            assert not lease.stop.is_set()
            assert lease.upload.offset == 0


async def test_a_holder_that_does_not_let_go_is_waited_for_only_so_long(
    process: Processes, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_PATIENCE", 0.1)
    async with process() as one, one.hold(upload_id):
        with pytest.raises(UploadLocked):
            await one.settled(upload_id)


async def test_a_journal_that_somebody_changed_is_looked_at(
    process: Processes, redis: Redis, upload_id: str, data: FileStore, exchanges: list[str]
) -> None:
    async with process() as one:
        lease = await written(one, upload_id, redis)
        exchanges.clear()
        # As if Redis had been emptied and somebody else had got the lock.
        with suppress(RecordBehind):
            data.open(replace(lease.upload, token=9)).close()
        assert (await one.settled(upload_id)).offset == 3
        assert exchanges == ["release", "acquire"]


async def test_a_lease_that_may_have_run_out_is_not_trusted(
    process: Processes, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process sleeps, and wakes before anything is renewed.
    monkeypatch.setattr(redis_locker, "_RENEWAL", 3600)
    async with process() as one:
        lease = await written(one, upload_id, redis)
        lock = one._kept[upload_id][0].lock
        later = time.clock_gettime(time.CLOCK_BOOTTIME) + 3600
        with monkeypatch.context() as asleep:
            asleep.setattr(time, "clock_gettime", lambda _: later)
            assert not lock.valid()
            async with one.hold(upload_id) as again:
                assert again is not lease
                assert again.upload.token > lease.upload.token


async def test_a_lease_that_redis_forgot_is_dropped(
    process: Processes, redis: Redis, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_RENEWAL", 0.05)
    async with process() as one:
        await written(one, upload_id, redis)
        await redis.flushall()
        await until(lambda: not one._kept and not one._leaving)
        with pytest.raises(UploadNotFound):
            await one.settled(upload_id)


async def test_a_shutdown_keeps_nothing_and_stops_everybody(
    process: Processes, redis: Redis, new: Callable[[], Any], data: FileStore
) -> None:
    kept, used, late = [await new() for _ in range(3)]
    async with process() as one:
        await written(one, kept, redis)
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(one.hold(used))
            await lease.writer()
            one.stop_all()
            assert lease.stop.is_set()
            await gone(redis, kept)
            async with one.hold(late) as after:
                assert after.stop.is_set()
                await after.writer()
            assert await lock_of(redis, late) is None
        assert await lock_of(redis, used) is None
    assert open_files(data) == 0


async def test_leases_end_though_somebody_never_lets_go(
    locker: Lockers, data: FileStore, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_AT_THE_END", 0.1)
    async with locker() as one:
        leases = Leases(one, data)
        async with leases.hold(upload_id) as lease:
            await leases.aclose()
            assert lease.stop.is_set()


async def test_an_unknown_upload_leaves_no_trace(process: Processes) -> None:
    async with process() as one:
        with pytest.raises(UploadNotFound):
            await one.settled(str(uuid4()))
        with pytest.raises(UploadNotFound):
            async with one.hold(str(uuid4())):
                pass
        assert not one._places


async def test_a_redis_that_does_not_answer_hangs_nobody(
    redis: Redis, data: FileStore, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_locker, "_EXCHANGE", 0.05)
    monkeypatch.setattr(redis_locker, "_GIVE_BACK", 0.05)
    leases = Leases(RedisLocker(redis), data, keep=LONG)
    await written(leases, upload_id, redis)

    async def never(*_: Any) -> Any:
        await asyncio.sleep(20)
        raise StoreUnavailable

    monkeypatch.setattr(redis_locker, "call", never)
    with pytest.raises(ValueError, match="a mistake"):
        async with leases.hold(upload_id):
            raise ValueError("a mistake")
    assert open_files(data) == 0
    with pytest.raises(StoreUnavailable):
        await leases.settled(upload_id)


@pytest.mark.parametrize(("files", "leases"), [(1024, 102), (2**20, 10_000)])
def test_as_many_are_kept_as_files_allow(
    monkeypatch: pytest.MonkeyPatch, files: int, leases: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert how_many() == leases
