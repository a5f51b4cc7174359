"""A job that many watch is read once for all of them, whenever it changed."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from storage.bell import Bell
from storage.errors import StorageError, StoreUnavailable, UploadGone, UploadNotFound
from storage.job import Job, JobState
from tusd_py import feeds as module
from tusd_py.feeds import Feeds, Places, Reader, Sight
from tusd_py.news import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from storage.upload import Upload
    from tusd_py.feeds import Feed

pytestmark = pytest.mark.anyio

ID = str(uuid4())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACE", 0.0)
    monkeypatch.setattr(module, "_TOLD", 10**9)


class Store:
    """Hold one job, and tell who watches that it changed."""

    def __init__(self, found: Sight | Exception) -> None:
        self.found = found
        self.reads = 0
        self.watches = 0
        self._bell = Bell()

    @asynccontextmanager
    async def of(self, job_id: str) -> AsyncIterator[Store]:
        assert job_id == ID
        self.watches += 1
        try:
            yield self
        finally:
            self.watches -= 1

    async def wait(self) -> None:
        await self._bell.wait()
        self._bell.clear()

    async def read(self, job_id: str) -> Sight:
        assert job_id == ID
        self.reads += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def change(self, found: Sight | Exception) -> None:
        self.found = found
        self._bell.set()


def job(state: JobState = JobState.PROCESSING, done: int = 0) -> Sight:
    return Sight(Job(ID, state, done=done, total=10))


def feeds_of(store: Store) -> Feeds:
    return Feeds(store, store.read, lambda job, _, base: f"{base}{job.state.value} {job.done}")


async def rung(bell: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        await bell.wait()
        bell.clear()


async def until_read(store: Store, count: int) -> None:
    async with asyncio.timeout(30):
        while store.reads < count:
            await asyncio.sleep(0)
    # And what was read is known.
    await asyncio.sleep(0.01)


async def test_a_thousand_watchers_are_one_watch_and_one_reading_per_change() -> None:
    store = Store(job())
    feeds = feeds_of(store)
    bells = [Bell() for _ in range(1000)]
    async with AsyncExitStack() as stack:
        watched = [await stack.enter_async_context(feeds.of([ID], bell)) for bell in bells]
        assert store.watches == 1
        assert store.reads == 1
        for bell in bells:
            bell.clear()
        store.change(job(done=5))
        for bell in bells:
            await rung(bell)
        assert store.reads == 2
        assert {one[0].described("") for one in watched} == {"processing 5"}
    await asyncio.sleep(0)
    assert store.watches == 0


async def test_while_a_crowd_is_told_requests_of_others_come_in_between() -> None:
    store = Store(job())
    feeds = feeds_of(store)
    bells = [Bell() for _ in range(2000)]
    async with AsyncExitStack() as stack:
        for bell in bells:
            await stack.enter_async_context(feeds.of([ID], bell))
            bell.clear()
        store.change(job(done=5))
        seen = set()
        async with asyncio.timeout(30):
            while sum(bell.is_set() for bell in bells) < len(bells):
                await asyncio.sleep(0)
                seen.add(sum(bell.is_set() for bell in bells))
        assert len(seen) > 3


async def test_what_is_as_it_was_wakes_nobody() -> None:
    store, bell = Store(job()), Bell()
    async with feeds_of(store).of([ID], bell):
        bell.clear()
        store.change(job())
        await until_read(store, 2)
        assert not bell.is_set()


@pytest.mark.parametrize(
    ("error", "logged"), [(StoreUnavailable(), False), (ZeroDivisionError(), True)]
)
async def test_who_cannot_be_read_just_now_is_read_again(
    error: Exception, *, logged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    store, bell = Store(error), Bell()
    async with feeds_of(store).of([ID], bell) as [feed]:
        assert (feed.sight, feed.missing) == (None, None)
        assert ("feed.failed" in capsys.readouterr().out) == logged
        store.change(job())
        await rung(bell)
        assert feed.sight == job()
        store.change(error)
        await until_read(store, 3)
        assert feed.sight == job()


@pytest.mark.parametrize("error", [UploadNotFound(), UploadGone()])
async def test_what_was_here_and_is_not_any_more_was_cancelled(error: StorageError) -> None:
    store, bell = Store(job()), Bell()
    async with feeds_of(store).of([ID], bell) as [feed]:
        bell.clear()
        store.change(error)
        await rung(bell)
        assert feed.sight is not None
        assert feed.sight.job.state is JobState.CANCELLED


async def test_what_never_was_is_missing() -> None:
    async with feeds_of(Store(UploadNotFound())).of([ID], Bell()) as [feed]:
        assert isinstance(feed.missing, UploadNotFound)
        assert feed.sight is None


async def test_a_job_is_described_once_for_all_who_reach_us_alike() -> None:
    store = Store(job())
    described = []

    def describe(job: Job, _: Upload | None, base: str) -> str:
        described.append(base)
        return base + job.id

    async with Feeds(store, store.read, describe).of([ID], Bell()) as [feed]:
        for base in ("", "https://one", "", "https://one"):
            assert feed.described(base) == base + ID
    assert described == ["", "https://one"]


async def test_bases_that_clients_make_up_are_not_kept_for_ever() -> None:
    async with feeds_of(Store(job())).of([ID], Bell()) as [feed]:
        for number in range(1000):
            feed.described(str(number))
        assert len(feed._described) <= 8


async def test_who_leaves_while_others_stay_is_not_rung() -> None:
    store, gone, stays = Store(job()), Bell(), Bell()
    feeds = feeds_of(store)
    async with feeds.of([ID], stays):
        async with feeds.of([ID], gone):
            pass
        gone.clear()
        stays.clear()
        store.change(job(done=3))
        await rung(stays)
        assert not gone.is_set()


class Info:
    """Have plates and no record, and note what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def plates(self, job_id: str) -> Sequence[str]:
        assert job_id == ID
        self.asked.append("plates")
        return ["AB1", "CD2"]

    async def find(self, job_id: str) -> None:
        self.asked.append("record")


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (JobState.UPLOADING, ["record"]),
        (JobState.PENDING, ["record", "place"]),
        (JobState.PROCESSING, ["record", "plates"]),
        (JobState.FAILED, ["record", "plates"]),
        (JobState.CANCELLED, []),
    ],
)
async def test_of_a_job_no_more_is_read_than_its_state_can_have(
    state: JobState, asked: list[str]
) -> None:
    info = Info()

    async def find(job_id: str) -> Job:
        return Job(job_id, state)

    def waiting(most: int) -> list[str]:
        assert most >= 1000
        info.asked.append("place")
        return [*map(str, range(6)), ID]

    places = Places(waiting)
    sight = await Reader(find, info, places, lambda _: None).read(ID)  # type: ignore[arg-type]
    assert info.asked == asked
    assert sight.position == (7 if "place" in asked else None)
    assert sight.plates == (("AB1", "CD2") if "plates" in asked else ())


async def test_the_queue_is_read_once_for_many_who_ask_and_again_where_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[int] = []

    def waiting(most: int) -> list[str]:
        reads.append(most)
        if len(reads) == 1:
            raise StoreUnavailable
        return ["a", "b"]

    places = Places(waiting)
    first = await asyncio.gather(*[places.of("a") for _ in range(10)], return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) for one in first)
    monkeypatch.setattr(module, "_PLACES", 3600.0)
    places._until = 0.0
    assert (
        await asyncio.gather(*[places.of(one) for one in ("a", "b", "c") * 50]) == [1, 2, None] * 50
    )
    assert await places.of("b") == 2
    assert len(reads) == 2


async def test_plates_that_only_the_vote_found_come_behind_those_that_were_told() -> None:
    async def find(job_id: str) -> Job:
        return Job(job_id, JobState.COMPLETED)

    found = [{"text": text} for text in ("CD2", "EF3", "EF3")]
    result = json.dumps({"plates": found}).encode()
    reader = Reader(find, Info(), Places(lambda _: []), lambda _: result)  # type: ignore[arg-type]
    assert (await reader.read(ID)).plates == ("AB1", "CD2", "EF3")


def test_an_unknown_feed_has_no_news_yet() -> None:
    feed: Feed = module.Feed(ID, Store(job()).read, lambda *_: "")
    watcher = Watcher([feed], "", "")
    assert (watcher.refusal(), watcher.news(), watcher.ended) == (None, [], False)
