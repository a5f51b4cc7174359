"""Final uploads are complete with the last of their parts, whatever dies or is lost on the way."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis.asyncio

from storage import finals as finals_module
from storage import once, redis_sync
from storage import redis_schema as schema
from storage.durability import PerRequest
from storage.errors import DiskFailed, UploadGone
from storage.filestore import FileStore
from storage.job import JobState
from storage.journal import Log
from storage.redis_info import RedisInfoStore
from storage.redis_jobs import RedisJobs
from storage.rq_queue import Lanes, RqQueue, TimeLimit
from storage.sweeper import Retention
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

DAY = 86_400.0
MOST = 10**6


@dataclass(frozen=True, slots=True)
class Place:
    """One data directory and one Redis, as a process of ours sees them."""

    url: str
    data: FileStore
    directory: Path
    clients: list[redis.Redis] = field(default_factory=list)

    def jobs(self, max_size: int = MOST) -> RedisJobs:
        """Return the jobs as a new process sees them."""
        text, raw = redis_sync.clients(self.url)
        self.clients.extend((text, raw))
        queue = RqQueue(raw, Lanes.parse("tests"), "worker.analyse", TimeLimit(60))
        return RedisJobs(text, queue, self.data, Retention(), max_size)

    def close(self) -> None:
        """Close the clients of all jobs: they are part of a cycle, and go nobody knows when."""
        for client in self.clients:
            client.close()

    @property
    def text(self) -> Any:
        return redis_sync.clients(self.url)[0]

    def queued(self) -> list[str]:
        ids: list[str] = self.text.lrange("rq:queue:tests", 0, -1)
        return ids

    def info(self, step: Callable[[RedisInfoStore], Awaitable[Any]]) -> Any:
        """Do what the web side does."""

        async def with_client() -> Any:
            async with redis.asyncio.Redis.from_url(self.url, decode_responses=True) as client:
                return await step(RedisInfoStore(client))

        return asyncio.run(with_client())

    def part(self, body: bytes, *, have: int = 0, length: int | None = -1) -> Upload:
        """Create a partial upload of this body's length, of which some bytes are here."""
        known = len(body) if length == -1 else length
        now = time.time()
        part = Upload(str(uuid4()), known, None, now, now + DAY, concat="partial")
        self.data.create(part)
        self.info(lambda info: info.create(part))
        return self.append(part, body[:have]) if have else part

    def append(self, part: Upload, body: bytes, *, until: str = "told") -> Upload:
        """Add bytes; the last ones complete it."""
        writer = self.data.open(part)
        writer.write([body])
        length = part.length if part.length is not None else writer.offset
        done = writer.offset == length
        part = replace(writer.upload, offset=writer.offset, complete=done, length=length)
        writer.commit(part)
        writer.close()
        if until == "told":
            self.info(lambda info: info.commit(part, speed=0))
        return part

    def final(self, *parts: Upload) -> str:
        """Create a final upload as the web side does."""
        now = time.time()
        concat = "final;" + " ".join(f"/files/{part.id}" for part in parts)
        final = Upload(str(uuid4()), None, None, now, now + DAY, concat=concat)
        self.data.create(final)
        final = self.data.assemble(final.id, MOST)
        self.info(lambda info: info.create(final))
        return final.id

    def terminate(self, upload_id: str) -> None:
        """Remove an upload as the web side does on DELETE."""
        for final_id in self.info(lambda info: info.finals(upload_id)):
            self.data.assemble(final_id, MOST)
        self.data.remove(upload_id)
        record = Upload.from_hash(self.text.hgetall(schema.upload_key(upload_id)))
        self.info(lambda info: info.terminate(record, time.time() + DAY))

    def state(self, upload_id: str) -> str | None:
        state: str | None = self.text.hget(schema.job_key(upload_id), "state")
        return state

    def bytes_of(self, upload_id: str) -> bytes:
        with self.data.read(upload_id) as file:
            return file.read()

    def files(self, upload_id: str) -> list[str]:
        """Return what the names of an upload's files have behind its id, sorted."""
        found = self.directory.glob(f"{upload_id}*")
        return sorted(path.name.removeprefix(upload_id) for path in found)

    def assert_whole(self, final_id: str, body: bytes) -> None:
        assert self.bytes_of(final_id) == body
        record = Upload.from_hash(self.text.hgetall(schema.upload_key(final_id)))
        assert (record.offset, record.length, record.complete) == (len(body), len(body), True)
        assert record == replace(self.data.look(final_id), token=record.token)
        assert self.state(final_id) == JobState.PENDING
        assert self.queued() == [final_id]
        assert self.text.zcard(schema.OUTBOX) == 0


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    data = FileStore(tmp_path)
    data.prepare()
    with closing(Place(redis_url, data, tmp_path)) as place:
        yield place


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_final_upload_is_complete_with_the_last_of_its_parts(
    place: Place, order: tuple[int, ...]
) -> None:
    bodies = [b"one", b"two two", b""]
    # A part of nothing is one whose length is said late.
    parts = [place.part(body, length=None if not body else -1) for body in bodies]
    final_id = place.final(*parts)
    for index in order:
        assert place.state(final_id) == JobState.UPLOADING
        assert place.queued() == []
        place.append(parts[index], bodies[index])
        place.jobs().drain()
    place.assert_whole(final_id, b"".join(bodies))
    assert place.files(final_id) == ["", ".1", ".2", ".log"]
    assert place.text.keys("tusd:finals:*") == []


def test_a_final_upload_of_finished_parts_is_complete_at_once(place: Place) -> None:
    parts = [place.part(body, have=3) for body in (b"abc", b"def")]
    final_id = place.final(*parts)
    assert place.data.look(final_id).complete
    assert place.jobs().drain() == 1
    place.assert_whole(final_id, b"abcdef")


def test_a_part_may_come_twice_and_in_other_final_uploads_too(place: Place) -> None:
    part, other = place.part(b"abc"), place.part(b"de")
    first, second = place.final(part, other, part), place.final(part)
    place.append(part, b"abc")
    place.append(other, b"de")
    place.jobs().drain()
    assert place.bytes_of(first) == b"abcdeabc"
    assert place.bytes_of(second) == b"abc"
    assert sorted(place.queued()) == sorted([first, second])


def test_files_of_a_part_that_changed_hands_are_found_and_removed(place: Place) -> None:
    part, other = place.part(b"abcdef", have=3), place.part(b"gh")
    sleeper = place.data.open(replace(part, token=1))
    part = place.append(replace(part, token=2), b"def", until="stored")
    sleeper.write([b"XXXXXXXXX"])
    sleeper.close()
    final_id = place.final(other, part)
    assert place.files(final_id) == [".1", ".3", ".log"]
    place.append(other, b"gh")
    place.jobs().drain()
    assert place.bytes_of(final_id) == b"ghabcdef"
    assert place.files(final_id) == ["", ".1", ".3", ".log"]
    place.data.remove(final_id)
    assert place.files(final_id) == [".log"]
    assert place.bytes_of(part.id) == b"abcdef"


def test_a_part_removed_after_it_was_complete_takes_nothing_away(place: Place) -> None:
    first, second = place.part(b"abc"), place.part(b"def")
    final_id = place.final(first, second)
    place.append(second, b"def")
    # Nobody has looked at the outbox in between.
    place.terminate(second.id)
    place.data.purge(second.id)
    place.jobs().drain()
    place.append(first, b"abc")
    place.jobs().drain()
    place.assert_whole(final_id, b"abcdef")


def test_a_part_that_expires_after_it_was_complete_takes_nothing_away(place: Place) -> None:
    first, second = place.part(b"abc"), place.part(b"def")
    final_id = place.final(first, second)
    place.append(replace(second, expires_at=1.0), b"def")
    place.jobs().sweep()
    with pytest.raises(UploadGone):
        place.data.look(second.id)
    place.append(first, b"abc")
    place.jobs().drain()
    place.assert_whole(final_id, b"abcdef")


@pytest.mark.parametrize("how", ["removed", "expired", "forgotten"])
def test_a_final_upload_is_gone_with_a_part_that_was_never_complete(place: Place, how: str) -> None:
    first, second = place.part(b"abc"), place.part(b"def")
    final_id = place.final(first, second)
    place.append(replace(first, expires_at=1.0 if how == "expired" else DAY), b"ab")
    place.append(second, b"def")
    place.jobs().drain()
    assert place.files(final_id) == [".1", ".log"]
    match how:
        case "removed":
            place.terminate(first.id)
        case "expired":
            place.jobs().sweep()
        case _:
            place.data.purge(first.id)
            place.text.delete(schema.upload_key(first.id))
            place.text.zadd(schema.EXPIRING, {first.id: 1})
            place.jobs().sweep()
    with pytest.raises(UploadGone):
        place.data.look(final_id)
    place.jobs().drain()
    with pytest.raises(UploadGone):
        place.data.recover(final_id)
    assert place.state(final_id) == JobState.CANCELLED
    assert not place.text.exists(schema.upload_key(final_id))
    assert place.files(final_id) == [".log"]
    assert place.queued() == []
    assert place.text.keys("tusd:finals:*") == []
    # The other part is still good for another one.
    assert place.bytes_of(place.final(second)) == b"def"


def test_parts_that_are_too_long_together_end_in_no_upload(place: Place) -> None:
    part = place.part(b"abc", length=None)
    final_id = place.final(part, part)
    place.append(part, b"abc")
    place.jobs(max_size=5).drain()
    assert place.state(final_id) == JobState.CANCELLED
    assert place.files(final_id) == [".log"]


def test_a_final_upload_that_waits_does_not_expire(place: Place) -> None:
    part = place.part(b"abc")
    final_id = place.final(part)
    place.jobs().drain()
    place.text.zadd(schema.EXPIRING, {final_id: 1})
    place.jobs().sweep()
    assert not place.data.expire(final_id, time.time() + 9 * DAY)
    assert place.state(final_id) == JobState.UPLOADING
    assert place.text.zscore(schema.EXPIRING, final_id) > time.time()
    # It is looked at then, should the end of a part have been missed.
    assert place.text.zscore(schema.OUTBOX, final_id)


def test_a_removed_final_upload_leaves_its_parts_and_is_not_assembled_again(place: Place) -> None:
    first, second = place.part(b"abc"), place.part(b"def", have=3)
    final_id = place.final(first, second)
    place.terminate(final_id)
    assert place.files(final_id) == [".log"]
    place.append(first, b"abc")
    place.jobs().drain()
    assert place.files(final_id) == [".log"]
    assert place.bytes_of(first.id) == b"abc"
    assert place.bytes_of(second.id) == b"def"


def test_a_removal_while_parts_are_linked_leaves_no_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = place.part(b"abc", have=3), place.part(b"def")
    final_id = place.final(first, second)
    link = os.link

    def remove_then_link(source: Path, target: Path) -> None:
        if target.name.startswith(final_id):
            place.data.remove(final_id)
        link(source, target)

    place.append(second, b"def")
    monkeypatch.setattr(os, "link", remove_then_link)
    with pytest.raises(UploadGone):
        place.data.assemble(final_id, MOST)
    assert place.files(final_id) == [".log"]


def test_an_emptied_redis_is_filled_from_the_files(place: Place) -> None:
    first, second, third = (place.part(body) for body in (b"abc", b"def", b"ghi"))
    final_id = place.final(first, second, third)
    place.append(first, b"abc")
    place.jobs().drain()
    place.append(second, b"def", until="stored")
    place.text.flushall()
    place.jobs().reconcile()
    assert place.state(final_id) == JobState.UPLOADING
    assert place.files(final_id) == ["", ".1", ".log"]
    third = Upload.from_hash(place.text.hgetall(schema.upload_key(third.id)))
    place.append(third, b"ghi")
    place.jobs().drain()
    place.assert_whole(final_id, b"abcdefghi")


def test_an_emptied_redis_completes_what_only_the_files_have_complete(place: Place) -> None:
    part = place.part(b"abc")
    final_id = place.final(part)
    place.append(part, b"abc", until="stored")
    place.text.flushall()
    place.jobs().reconcile()
    place.assert_whole(final_id, b"abc")


def test_a_completion_that_a_rolled_back_redis_forgot_is_found(place: Place) -> None:
    part = place.part(b"abc")
    final_id = place.final(part)
    keys = [*schema.pair(part.id), *schema.pair(final_id), f"tusd:finals:{part.id}"]
    raw: Any = redis_sync.clients(place.url)[1]
    older = {key: dump for key in keys if (dump := raw.dump(key))}
    place.append(part, b"abc")
    place.jobs().drain()
    raw.flushall()
    for key, dump in older.items():
        raw.restore(key, 0, dump)
    place.jobs().reconcile()
    place.assert_whole(final_id, b"abc")


class Killed(BaseException):
    """Stand for kill -9: nothing in our code catches it."""


STEPS = {
    once: ("create",),
    PerRequest: ("directory",),
    Log: ("append",),
    finals_module: ("call",),
    redis_sync: ("release",),
}


def kill_before(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], bool]:
    """Die before so many steps that others could see; tell whether it has come to it."""
    left = itertools.count(step, -1)
    killed: list[bool] = []

    def dying(do: Callable[..., Any]) -> Callable[..., Any]:
        def die_or_do(*args: Any, **more: Any) -> Any:
            if next(left) <= 0:
                killed.append(True)
                raise Killed
            return do(*args, **more)

        return die_or_do

    for place, names in STEPS.items():
        for name in names:
            monkeypatch.setattr(place, name, dying(getattr(place, name)))
    monkeypatch.setattr(os, "link", dying(os.link))
    monkeypatch.setattr(RedisInfoStore, "create", dying(RedisInfoStore.create))
    return lambda: bool(killed)


@pytest.mark.parametrize("flush", [False, True], ids=["redis kept", "redis emptied"])
def test_a_crash_at_any_step_of_assembling_is_mended(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, flush: bool
) -> None:
    for step in range(100):
        place.text.flushall()
        first, second, third = (place.part(body) for body in (b"abc", b"def", b"ghi"))
        final_id = place.final(first, second, third)
        place.append(first, b"abc")
        place.append(third, b"ghi")
        with monkeypatch.context() as patched:
            died = kill_before(patched, step)
            with suppress(Killed):
                place.jobs().drain()
                place.append(second, b"def")
                place.jobs().drain()
        if not died():
            break
        second = place.data.look(second.id)
        if not second.complete:
            second = replace(second, token=second.token + 1)
            place.append(second, b"def"[second.offset :], until="stored")
        if flush:
            place.text.flushall()
        place.jobs().reconcile()
        place.assert_whole(final_id, b"abcdefghi")
        for upload_id in (final_id, first.id, second.id, third.id):
            place.data.purge(upload_id)
    assert step > 8


def test_a_crash_at_any_step_of_creating_leaves_a_whole_upload_or_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(100):
        place.text.flushall()
        parts = [place.part(body, have=3) for body in (b"abc", b"def")]
        with monkeypatch.context() as patched:
            died = kill_before(patched, step)
            with suppress(Killed):
                place.final(*parts)
        place.jobs().reconcile()
        made = set(place.data.ids()) - {part.id for part in parts}
        for final_id in made:
            place.assert_whole(final_id, b"abcdef")
        assert len(made) == (step > 0)
        for upload_id in place.data.ids():
            place.data.purge(upload_id)
        assert not [path for path in place.directory.glob("*-*") if path.is_file()]
        if not died():
            break
    assert step > 4


def test_many_at_once_assemble_it_once(place: Place) -> None:
    parts = [place.part(bytes([65 + index]), have=1) for index in range(20)]
    last = place.part(b"end")
    final_id = place.final(*parts, last)
    place.append(last, b"end")
    with ThreadPoolExecutor(6) as threads:
        counts = list(threads.map(lambda _: place.jobs().drain(), range(6)))
    place.jobs().drain()
    assert sum(counts) <= 1
    place.assert_whole(final_id, bytes(range(65, 85)) + b"end")


def test_what_comes_into_the_outbox_while_it_is_drained_stays_in_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = place.part(b"abc"), place.part(b"def")
    final_id = place.final(first, second)
    place.append(first, b"abc")
    assemble = place.data.assemble
    looked: list[Upload] = []

    def assemble_just_before_the_last_part_is_complete(self: FileStore, *args: Any) -> Upload:
        del self
        looked.append(assemble(*args))
        if len(looked) == 1:
            place.append(second, b"def")
        return looked[-1]

    monkeypatch.setattr(FileStore, "assemble", assemble_just_before_the_last_part_is_complete)
    assert place.jobs().drain() == 1
    assert [final.complete for final in looked] == [False, True]
    place.assert_whole(final_id, b"abcdef")


def test_a_disk_that_fails_costs_no_final_upload(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = place.part(b"abc")
    final_id = place.final(part)
    place.append(part, b"abc")

    def broken(*_: Any) -> Upload:
        raise DiskFailed("broken")

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "assemble", broken)
        place.jobs().drain()
    assert place.state(final_id) == JobState.UPLOADING
    place.jobs().reconcile()
    place.assert_whole(final_id, b"abc")


def test_a_length_is_told_once_all_parts_have_one(place: Place) -> None:
    first, second = place.part(b"abc", length=None), place.part(b"def")
    final_id = place.final(first, second, second)
    assert place.data.look(final_id).length is None
    place.append(replace(first, length=10), b"abc", until="stored")
    assert place.data.look(final_id).length == 16
