"""Jobs reach RQ once and end once, whatever is lost on the way; against a real server."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis.asyncio
from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from storage import journal, reconciler, redis_jobs, redis_sync, rq_queue
from storage import redis_schema as schema
from storage.errors import DiskFailed, StorageFull, StoreUnavailable, UploadGone, UploadNotFound
from storage.filestore import FileStore
from storage.job import Job, JobState
from storage.redis_info import RedisInfoStore
from storage.redis_jobs import Cancelled, Counts, RedisJobs, Superseded
from storage.redis_locker import process_identity
from storage.rq_queue import RqQueue
from storage.sweeper import Retention
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

VIDEO = b"not really a video"
RESULT = {"frames": 7, "plates": [{"text": "AB12CDE"}], "detections": 5}
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Place:
    """One data directory and one Redis, as a process of ours sees them."""

    url: str
    data: FileStore
    directory: Path

    def jobs(self, retention: Retention | None = None) -> RedisJobs:
        """Return the jobs as a new process sees them."""
        text, raw = redis_sync.clients(self.url)
        queue = RqQueue(raw, "tests", "worker.analyse", 60)
        return RedisJobs(text, queue, self.data, retention or Retention())

    @property
    def text(self) -> Any:
        return redis_sync.clients(self.url)[0]

    @property
    def raw(self) -> Any:
        return redis_sync.clients(self.url)[1]

    @property
    def queue(self) -> Queue:
        return Queue("tests", connection=self.raw, serializer=JSONSerializer)

    def info(self, step: Callable[[RedisInfoStore], Awaitable[Any]]) -> Any:
        """Do what the web side does."""

        async def with_client() -> Any:
            async with redis.asyncio.Redis.from_url(self.url, decode_responses=True) as client:
                return await step(RedisInfoStore(client))

        return asyncio.run(with_client())

    def upload(self, *, complete: bool, expires_at: float | None = None) -> str:
        """Store an upload as the web side does, with all its bytes or half of them."""
        now = time.time()
        due = now + DAY if expires_at is None else expires_at
        upload = Upload(str(uuid4()), len(VIDEO), None, now, due)
        self.data.create(upload)
        self.info(lambda info: info.create(upload))
        writer = self.data.open(upload)
        writer.write([VIDEO if complete else VIDEO[:5]])
        stored = replace(upload, offset=writer.offset, complete=complete)
        writer.commit(stored)
        writer.close()
        self.info(lambda info: info.commit(stored, speed=0))
        return upload.id

    def terminate(self, upload_id: str) -> None:
        """Remove an upload as the web side does on DELETE."""
        self.data.remove(upload_id)
        record = self.record(upload_id)
        self.info(lambda info: info.terminate(record, time.time() + DAY))

    def job(self, upload_id: str) -> Job:
        return Job.from_hash(upload_id, self.text.hgetall(schema.job_key(upload_id)))

    def record(self, upload_id: str) -> Upload:
        return Upload.from_hash(self.text.hgetall(schema.upload_key(upload_id)))

    def dumped(self) -> dict[str, bytes]:
        """Take a snapshot of our keys."""
        return {key: self.raw.dump(key) for key in self.text.scan_iter("tusd:*")}

    def outbox(self) -> list[str]:
        ids: list[str] = self.text.zrange(schema.OUTBOX, 0, -1)
        return ids

    def due(self, upload_id: str) -> float | None:
        score: float | None = self.text.zscore(schema.EXPIRING, upload_id)
        return score

    def make_due(self, upload_id: str) -> None:
        self.text.zadd(schema.EXPIRING, {upload_id: 1})

    def rq_status(self, upload_id: str) -> JobStatus:
        return RqJob.fetch(upload_id, self.raw, serializer=JSONSerializer).get_status()

    def take(self, upload_id: str, worker: str) -> None:
        """Take the job from RQ as a worker of that name does, up to the fork."""
        taken, _ = Queue.dequeue_any(
            [self.queue], None, connection=self.raw, serializer=JSONSerializer
        ) or (None, None)
        assert taken is not None
        assert taken.id == upload_id
        with self.raw.pipeline() as pipeline:
            Execution.create(taken, 60, pipeline=pipeline, worker_name=worker)
            taken.prepare_for_execution(worker, pipeline=pipeline)
            pipeline.lrem(self.queue.intermediate_queue_key, 1, taken.id)
            pipeline.execute()


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Place:
    data = FileStore(tmp_path)
    data.prepare()
    return Place(redis_url, data, tmp_path)


def dead_process() -> str:
    """Name a process of this host that lives no longer."""
    host, _, _ = process_identity().rsplit(".", 2)
    return f"{host}.{os.getpid()}.1"


# --- from the outbox to RQ


def test_a_complete_upload_is_enqueued_once_by_name_with_its_id(place: Place) -> None:
    upload_id = place.upload(complete=True)
    assert place.jobs().drain() == 1
    assert place.jobs().drain() == 0
    assert place.outbox() == []
    assert place.queue.job_ids == [upload_id]
    job = RqJob.fetch(upload_id, place.raw, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.timeout) == ("worker.analyse", [upload_id], 60)


def test_a_drain_killed_before_it_cleared_the_outbox_enqueues_nothing_twice(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.jobs().drain()
    place.text.zadd(schema.OUTBOX, {upload_id: 1})
    assert place.jobs().drain() == 0
    assert place.outbox() == []
    assert place.queue.job_ids == [upload_id]


def test_many_drains_at_once_enqueue_each_upload_once(place: Place) -> None:
    ids = {place.upload(complete=True) for _ in range(12)}
    with ThreadPoolExecutor(6) as threads:
        counts = list(threads.map(lambda _: place.jobs().drain(), range(6)))
    assert sum(counts) == 12
    assert len(place.queue.job_ids) == 12
    assert set(place.queue.job_ids) == ids


def test_an_unfinished_upload_is_not_enqueued(place: Place) -> None:
    place.upload(complete=False)
    assert place.jobs().drain() == 0
    assert place.queue.job_ids == []


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "removed"])
def test_an_outbox_entry_without_a_waiting_job_is_dropped(place: Place, *, ended: bool) -> None:
    upload_id = place.upload(complete=True)
    if ended:
        place.jobs().fail(upload_id, 0, "no")
    else:
        place.terminate(upload_id)
    place.text.zadd(schema.OUTBOX, {upload_id: 1})
    assert place.jobs().drain() == 0
    assert place.outbox() == []
    assert place.queue.job_ids == []


def test_a_job_that_rq_holds_for_ended_makes_way_for_a_retry(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.jobs().drain()
    RqJob.fetch(upload_id, place.raw, serializer=JSONSerializer).cancel()
    place.text.zadd(schema.OUTBOX, {upload_id: 1})
    assert place.jobs().drain() == 1
    assert place.queue.job_ids == [upload_id]
    assert place.rq_status(upload_id) is JobStatus.QUEUED


def test_without_redis_everything_says_so(tmp_path: Path) -> None:
    place = Place(f"unix://{tmp_path}/none.sock", FileStore(tmp_path), tmp_path)
    jobs = place.jobs()
    for step in (jobs.drain, jobs.reconcile, jobs.sweep, jobs.workers):
        with pytest.raises(StoreUnavailable):
            step()


# --- one run of a job


def test_a_job_goes_from_pending_over_processing_to_completed(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    attempt = jobs.start(upload_id)
    jobs.progress(upload_id, attempt, Counts(2, 7, 1, 2))
    job = place.job(upload_id)
    assert (job.state, job.done, job.total) == (JobState.PROCESSING, 2, 7)
    jobs.complete(upload_id, RESULT)
    job = place.job(upload_id)
    assert job.state is JobState.COMPLETED
    assert job.message == "Processed 7/7 frames (1 unique plates, 5 total detections)"
    assert json.loads(place.data.result(upload_id) or b"") == RESULT
    ended = place.data.recover(upload_id)[1]
    assert ended is not None
    assert (ended.state, ended.frames, ended.plates) == (JobState.COMPLETED, 7, 1)
    with pytest.raises(UploadGone):
        place.data.read(upload_id)


def test_what_clients_see_never_falls_in_a_second_attempt(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.progress(upload_id, jobs.start(upload_id), Counts(5, 7, 1, 4))
    jobs.progress(upload_id, jobs.start(upload_id), Counts(1, 7, 0, 0))
    job = place.job(upload_id)
    assert (job.done, job.plates, job.detections, job.attempt) == (5, 1, 4, 2)


def test_an_older_attempt_is_refused_and_changes_nothing(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    older, newer = jobs.start(upload_id), jobs.start(upload_id)
    with pytest.raises(Superseded):
        jobs.progress(upload_id, older, Counts(7, 7, 9, 9))
    jobs.fail(upload_id, older, "the older one failed")
    job = place.job(upload_id)
    assert (job.state, job.done, job.error) == (JobState.PROCESSING, 0, None)
    assert place.data.recover(upload_id)[1] is None
    jobs.progress(upload_id, newer, Counts(1, 7, 0, 0))


def test_the_first_published_result_stands_and_wins_over_a_failure(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.fail(upload_id, jobs.start(upload_id), "no")
    assert place.job(upload_id).state is JobState.FAILED
    jobs.complete(upload_id, RESULT)
    jobs.complete(upload_id, {"frames": 1, "plates": [], "detections": 0})
    job = place.job(upload_id)
    assert (job.state, job.plates, job.error) == (JobState.COMPLETED, 1, None)
    assert json.loads(place.data.result(upload_id) or b"") == RESULT
    jobs.fail(upload_id, 0, "too late")
    assert place.job(upload_id).state is JobState.COMPLETED
    with pytest.raises(Superseded):
        jobs.start(upload_id)


def test_a_failed_job_keeps_its_video_and_its_sentence(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.fail(upload_id, jobs.start(upload_id), "Uploaded file is empty")
    assert place.job(upload_id).message == "Uploaded file is empty"
    ended = place.data.recover(upload_id)[1]
    assert ended is not None
    assert (ended.state, ended.error) == (JobState.FAILED, "Uploaded file is empty")
    with place.data.read(upload_id) as video:
        assert video.read() == VIDEO


def test_a_run_whose_upload_is_removed_is_cancelled_and_publishes_nothing(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    attempt = jobs.start(upload_id)
    place.terminate(upload_id)
    with pytest.raises(Cancelled):
        jobs.progress(upload_id, attempt, Counts(1, 7, 0, 0))
    with pytest.raises(Cancelled):
        jobs.complete(upload_id, RESULT)
    assert place.data.result(upload_id) is None
    assert place.job(upload_id).state is JobState.CANCELLED
    with pytest.raises(Cancelled):
        jobs.start(upload_id)


def test_a_result_published_after_the_last_trace_was_forgotten_is_removed(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.data.purge(upload_id)
    with pytest.raises(Cancelled):
        place.jobs().complete(upload_id, RESULT)
    assert place.data.result(upload_id) is None


def test_the_third_death_fails_the_job_with_the_reason(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.start(upload_id)
    assert [jobs.died(upload_id, "it was killed by SIGKILL") for _ in range(3)] == [1, 1, 0]
    job = place.job(upload_id)
    assert job.state is JobState.FAILED
    assert job.error == "The analysis crashed 3 times, last because it was killed by SIGKILL"


# --- the reconciler


def test_an_emptied_redis_gets_records_jobs_and_outbox_back(place: Place) -> None:
    waiting, half = place.upload(complete=True), place.upload(complete=False)
    done, failed, gone = (place.upload(complete=True) for _ in range(3))
    jobs = place.jobs()
    jobs.complete(done, RESULT)
    jobs.fail(failed, 0, "no")
    place.data.remove(gone)
    jobs.reconcile()
    place.text.flushall()
    jobs.reconcile()
    assert place.queue.job_ids == [waiting]
    states = {one: place.job(one).state for one in (waiting, half, done, failed)}
    assert states == {
        waiting: JobState.PENDING,
        half: JobState.UPLOADING,
        done: JobState.COMPLETED,
        failed: JobState.FAILED,
    }
    assert place.job(half).done == 5
    assert place.job(done).plates == 1
    assert place.job(failed).error == "no"
    assert not place.text.exists(schema.upload_key(gone))
    assert place.due(gone) is not None


def test_a_result_published_before_redis_was_emptied_ends_the_job(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.data.publish_result(upload_id, json.dumps(RESULT).encode())
    place.text.flushall()
    place.jobs().reconcile()
    assert place.job(upload_id).state is JobState.COMPLETED
    assert place.outbox() == place.queue.job_ids == []


def test_completion_that_a_crash_of_redis_forgot_is_found_in_the_journal(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.text.hset(schema.upload_key(upload_id), mapping={"complete": "0", "offset": "5"})
    place.text.hset(schema.job_key(upload_id), "state", "uploading")
    place.text.delete(schema.OUTBOX)
    place.jobs().reconcile()
    record = Upload.from_hash(place.text.hgetall(schema.upload_key(upload_id)))
    assert (record.offset, record.complete) == (len(VIDEO), True)
    assert place.queue.job_ids == [upload_id]


def test_a_completion_that_a_successor_overtook_completes_nothing(place: Place) -> None:
    upload_id = place.upload(complete=False)
    upload = replace(place.data.recover(upload_id)[0], token=1)
    for token, offset, complete in ((1, len(VIDEO), True), (2, 7, False)):
        with (place.directory / f"{upload_id}.log").open("ab") as file:
            line = replace(upload, token=token, offset=offset, complete=complete)
            file.write(journal.commit_line(line, "boot"))
    place.jobs().reconcile()
    record = place.record(upload_id)
    assert (record.offset, record.complete) == (7, False)
    assert record.token > 2
    assert place.outbox() == place.queue.job_ids == []


def test_a_record_that_somebody_writes_is_not_mended(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.text.hset(schema.upload_key(upload_id), mapping={"complete": "0", "offset": "5"})
    place.text.set(schema.lock_key(upload_id), f"{process_identity()}:9")
    before = place.record(upload_id)
    place.jobs().reconcile()
    assert place.record(upload_id) == before


def test_a_redis_that_was_rolled_back_is_raised_to_the_journals(place: Place) -> None:
    growing, removed = place.upload(complete=False), place.upload(complete=True)
    done, failed, published = (place.upload(complete=True) for _ in range(3))
    jobs = place.jobs()
    jobs.reconcile()
    before = place.dumped()
    writer = place.data.open(replace(place.record(growing), token=8))
    writer.write([VIDEO[5:9]])
    writer.commit(replace(writer.upload, offset=9))
    writer.close()
    place.terminate(removed)
    jobs.complete(done, RESULT)
    jobs.fail(failed, 0, "no")
    place.data.publish_result(published, json.dumps(RESULT).encode())
    place.text.flushall()
    for key, value in before.items():
        place.raw.restore(key, 0, value)
    place.text.set(schema.CHECKED, "another run")
    place.jobs().reconcile()
    record = place.record(growing)
    assert (record.offset, record.token) == (9, 9)
    assert not place.text.exists(schema.upload_key(removed))
    states = {one: place.job(one).state for one in (removed, done, failed, published)}
    assert states == {
        removed: JobState.CANCELLED,
        done: JobState.COMPLETED,
        failed: JobState.FAILED,
        published: JobState.COMPLETED,
    }
    assert place.job(failed).error == "no"
    assert place.outbox() == []


@pytest.mark.parametrize("name", ["directory", "unreadable"])
def test_a_journal_that_the_disk_does_not_give_stops_no_other(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, sound = place.upload(complete=True), place.upload(complete=True)
    path = place.directory / f"{bad}.log"
    if name == "directory":
        path.unlink()
        path.mkdir()
    else:
        read = Path.read_bytes

        def refused(self: Path) -> bytes:
            if self == path:
                raise PermissionError(errno.EACCES, "Permission denied")
            return read(self)

        monkeypatch.setattr(Path, "read_bytes", refused)
    place.text.flushall()
    place.jobs().reconcile()
    assert place.queue.job_ids == [sound]


def test_a_directory_that_cannot_be_listed_stops_no_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = place.upload(complete=True)
    place.text.delete(schema.OUTBOX)

    def ids(_: FileStore) -> list[str]:
        raise DiskFailed("the disk does not do its work: Input/output error")

    monkeypatch.setattr(FileStore, "ids", ids)
    place.jobs().reconcile()
    assert place.queue.job_ids == [upload_id]


def test_a_run_that_was_put_off_is_tried_again_later_and_counts_for_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "MOST_LOSSES", 1)
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    for _ in range(3):
        jobs.drain()
        place.take(upload_id, dead_process())
        jobs.postpone(upload_id, jobs.start(upload_id), "the disk has no room left")
        assert place.job(upload_id).message == (
            "The analysis is put off and will be tried again: the disk has no room left"
        )
        jobs.reconcile()
        assert place.queue.job_ids == []
        place.text.hset(schema.job_key(upload_id), "not_before", "1")
        jobs.reconcile()
        assert place.queue.job_ids == [upload_id]
    jobs.start(upload_id)
    assert place.job(upload_id).obstacle is None


def test_a_result_counts_though_the_disk_cannot_take_a_line_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = place.upload(complete=True)

    def full(*_: object) -> None:
        raise StorageFull("the disk has no room left")

    monkeypatch.setattr(FileStore, "end_job", full)
    place.jobs().complete(upload_id, RESULT)
    assert place.job(upload_id).state is JobState.COMPLETED


def test_jobs_nobody_asks_about_any_more_are_not_kept_in_mind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [place.upload(complete=True) for _ in range(3)]
    jobs = place.jobs()
    jobs.drain()
    queue = jobs.queue
    for _ in ids:
        place.raw.lmove(place.queue.key, place.queue.intermediate_queue_key)
    assert [queue.is_lost(one) for one in ids] == [False] * 3
    assert set(queue._doubted) == set(ids)
    RqJob.fetch(ids[0], place.raw, serializer=JSONSerializer).delete()
    assert queue.is_lost(ids[0])
    assert set(queue._doubted) == set(ids[1:])
    monkeypatch.setattr(rq_queue, "_FORGOTTEN", 0.0)
    queue.is_lost(ids[1])
    assert set(queue._doubted) == {ids[1]}


def test_a_damaged_journal_does_not_stop_the_others(place: Place) -> None:
    damaged, sound = place.upload(complete=True), place.upload(complete=True)
    (place.directory / f"{damaged}.log").write_bytes(b"L\nxx\n")
    place.text.flushall()
    place.jobs().reconcile()
    assert place.queue.job_ids == [sound]


def test_a_job_that_rq_has_lost_runs_again(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.jobs().drain()
    place.queue.empty()  # type: ignore[no-untyped-call]
    place.jobs().reconcile()
    assert place.queue.job_ids == [upload_id]


def test_a_job_whose_worker_is_dead_runs_again_at_once(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    place.take(upload_id, dead_process())
    jobs.start(upload_id)
    jobs.reconcile()
    assert place.queue.job_ids == [upload_id]
    assert place.rq_status(upload_id) is JobStatus.QUEUED
    assert place.job(upload_id).state is JobState.PROCESSING


@pytest.mark.parametrize("worker", ["of-another-host", process_identity()])
def test_a_job_under_a_live_execution_is_left_alone(place: Place, worker: str) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    place.take(upload_id, worker)
    jobs.start(upload_id)
    jobs.reconcile()
    assert place.queue.job_ids == []
    assert place.rq_status(upload_id) is JobStatus.STARTED


def test_an_execution_without_heartbeats_counts_as_lost(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    place.take(upload_id, "of-another-host")
    for key in place.raw.scan_iter("rq:execution:*"):
        place.raw.delete(key)
    jobs.reconcile()
    assert place.queue.job_ids == [upload_id]


def test_a_job_stuck_between_queue_and_worker_runs_again_after_a_moment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    place.raw.lmove(place.queue.key, place.queue.intermediate_queue_key)
    jobs.reconcile()
    assert place.queue.job_ids == []
    monkeypatch.setattr(rq_queue, "_DOUBT", -1.0)
    jobs.reconcile()
    assert place.queue.job_ids == [upload_id]
    assert place.queue.intermediate_queue.get_job_ids() == []


def test_a_published_result_ends_a_lost_job_without_another_run(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    place.take(upload_id, dead_process())
    place.data.publish_result(upload_id, json.dumps(RESULT).encode())
    jobs.reconcile()
    assert place.job(upload_id).state is JobState.COMPLETED
    assert place.queue.job_ids == []


def test_a_job_lost_too_often_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_jobs, "MOST_LOSSES", 2)
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    for _ in range(3):
        jobs.drain()
        place.take(upload_id, dead_process())
        jobs.reconcile()
    assert place.job(upload_id).error == "The analysis was interrupted 3 times"


def test_the_reconciler_goes_page_by_page_through_all_jobs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_PAGE", 2)
    ids = {place.upload(complete=True) for _ in range(5)}
    jobs = place.jobs()
    jobs.drain()
    place.queue.empty()  # type: ignore[no-untyped-call]
    for _ in range(3):
        jobs.reconcile()
    assert set(place.queue.job_ids) == ids


def test_a_reconciler_that_died_at_work_is_not_waited_for(place: Place) -> None:
    place.text.set(schema.lock_key("reconcile"), f"{dead_process()}:1", px=60_000)
    place.upload(complete=True)
    place.text.delete(schema.OUTBOX)
    assert place.jobs().reconcile() == 1


def test_one_reconciler_works_at_a_time(place: Place) -> None:
    place.text.set(schema.lock_key("reconcile"), f"{process_identity()}:1", px=60_000)
    place.upload(complete=True)
    place.text.delete(schema.OUTBOX)
    assert place.jobs().reconcile() == 0


def test_dead_workers_of_this_host_are_struck_off_and_not_counted(place: Place) -> None:
    for name in (dead_process(), process_identity()):
        worker = Worker([place.queue], name=name, connection=place.raw)
        worker.register_birth()  # type: ignore[no-untyped-call]
    jobs = place.jobs()
    assert jobs.workers() == 1
    jobs.reconcile()
    assert [worker.name for worker in Worker.all(place.raw)] == [process_identity()]


# --- the sweeper


def test_an_unfinished_upload_past_its_expiry_is_removed(place: Place) -> None:
    upload_id = place.upload(complete=False, expires_at=time.time() - 1)
    assert place.jobs().sweep() == 1
    assert place.job(upload_id).state is JobState.CANCELLED
    assert not place.text.exists(schema.upload_key(upload_id), schema.lock_key(upload_id))
    with pytest.raises(UploadGone):
        place.data.recover(upload_id)


def test_an_unfinished_upload_that_its_journal_prolonged_stays(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.make_due(upload_id)
    assert place.jobs().sweep() == 0
    assert place.job(upload_id).state is JobState.UPLOADING
    assert (place.due(upload_id) or 0) > time.time() + DAY / 2


def test_an_upload_under_a_lock_is_not_swept_and_nobody_is_interrupted(place: Place) -> None:
    upload_id = place.upload(complete=False, expires_at=time.time() - 1)
    holder = f"{process_identity()}:9"
    place.text.set(schema.lock_key(upload_id), holder, px=60_000)
    with place.text.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(schema.process_channel(process_identity()))
        assert place.jobs().sweep() == 0
        assert heard.get_message(timeout=0.05) is None
    assert place.text.get(schema.lock_key(upload_id)) == holder
    assert place.job(upload_id).state is JobState.UPLOADING


def test_a_waiting_job_is_not_swept(place: Place) -> None:
    upload_id = place.upload(complete=True, expires_at=time.time() - 1)
    assert place.jobs().sweep() == 0
    assert place.job(upload_id).state is JobState.PENDING
    place.data.read(upload_id).close()


@pytest.mark.parametrize(
    ("state", "retention", "stays"),
    [
        ("completed", Retention(keep_uploads=0), False),
        ("completed", Retention(keep_uploads=60), True),
        ("completed", Retention(keep_uploads=-1), True),
        ("failed", Retention(keep_failed=0), False),
        ("failed", Retention(keep_failed=60), True),
        ("failed", Retention(keep_failed=-1), True),
    ],
)
def test_a_video_stays_as_long_as_the_settings_say(
    place: Place, *, state: str, retention: Retention, stays: bool
) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs(retention)
    if state == "completed":
        jobs.complete(upload_id, RESULT)
    else:
        jobs.fail(upload_id, 0, "no")
    jobs.sweep()
    assert (place.directory / upload_id).exists() == stays
    assert place.job(upload_id).state == state
    assert place.text.exists(schema.upload_key(upload_id))


def test_a_kept_video_is_removed_when_due_and_its_result_stays(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs(Retention(keep_uploads=60))
    jobs.complete(upload_id, RESULT)
    place.make_due(upload_id)
    assert jobs.sweep() == 1
    assert not (place.directory / upload_id).exists()
    assert place.data.result(upload_id) is not None
    assert (place.due(upload_id) or 0) > time.time() + 6 * DAY


def test_record_result_and_traces_go_when_the_result_is_due(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs(Retention(result_ttl=0))
    jobs.drain()
    jobs.complete(upload_id, RESULT)
    assert jobs.sweep() == 1
    assert place.data.result(upload_id) is None
    with pytest.raises(UploadNotFound):
        place.data.recover(upload_id)
    left = [key for key in place.text.scan_iter() if upload_id in key]
    assert left == []
    for zset in (schema.EXPIRING, schema.JOBS, schema.OUTBOX):
        assert place.text.zscore(zset, upload_id) is None
    assert place.queue.job_ids == []


def test_a_tombstone_is_forgotten_when_due(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.terminate(upload_id)
    place.make_due(upload_id)
    assert place.jobs().sweep() == 1
    with pytest.raises(UploadNotFound):
        place.data.recover(upload_id)
    assert place.due(upload_id) is None


def test_a_removal_that_died_before_redis_knew_is_completed(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.data.remove(upload_id)
    place.make_due(upload_id)
    assert place.jobs().sweep() == 1
    assert place.job(upload_id).state is JobState.CANCELLED


def test_a_record_that_cannot_be_read_stands_in_no_others_way(place: Place) -> None:
    newer = place.upload(complete=False, expires_at=time.time() - 2)
    expired = place.upload(complete=False, expires_at=time.time() - 1)
    place.text.hset(schema.upload_key(newer), "version", "99")
    assert place.jobs().sweep() == 1
    assert place.job(newer).state is JobState.UPLOADING
    assert place.job(expired).state is JobState.CANCELLED
    assert (place.due(newer) or 0) > time.time()


def test_a_finished_upload_whose_job_is_unknown_is_not_swept(place: Place) -> None:
    upload_id = place.upload(complete=True, expires_at=time.time() - 1)
    place.text.delete(schema.job_key(upload_id))
    assert place.jobs().sweep() == 0
    place.data.read(upload_id).close()


def test_a_record_whose_files_are_gone_stands_in_no_others_way(place: Place) -> None:
    lost = place.upload(complete=False, expires_at=time.time() - 2)
    expired = place.upload(complete=False, expires_at=time.time() - 1)
    for path in place.directory.glob(f"{lost}*"):
        path.unlink()
    assert place.jobs().sweep() == 2
    assert place.job(lost).state is place.job(expired).state is JobState.CANCELLED


def test_a_journal_that_the_disk_does_not_give_stops_no_sweep(place: Place) -> None:
    bad = place.upload(complete=False, expires_at=time.time() - 2)
    expired = place.upload(complete=False, expires_at=time.time() - 1)
    (place.directory / f"{bad}.log").unlink()
    (place.directory / f"{bad}.log").mkdir()
    assert place.jobs().sweep() == 1
    assert place.job(expired).state is JobState.CANCELLED
    assert (place.due(bad) or 0) > time.time()


@pytest.fixture
def refusing(place: Place) -> Iterator[Callable[[], None]]:
    """Let Redis refuse to write, as on a full disk."""
    text = place.text
    kept = {name: text.config_get(name)[name] for name in ("min-replicas-to-write",)}
    yield lambda: text.config_set("min-replicas-to-write", 1)
    for name, value in kept.items():
        text.config_set(name, value)


def test_where_redis_only_reads_what_expired_long_ago_makes_room(
    place: Place, refusing: Callable[[], None]
) -> None:
    now = time.time()
    long_ago, held, locked = (place.upload(complete=False, expires_at=now - 99) for _ in range(3))
    just = place.upload(complete=False, expires_at=now - 9)
    finished = place.upload(complete=True, expires_at=now - 99)
    place.text.set(schema.lock_key(locked), f"{process_identity()}:9")
    writer = place.data.open(replace(place.record(held), token=9))
    refusing()
    with pytest.raises(StoreUnavailable):
        place.jobs().sweep()
    writer.close()
    here = [
        one for one in (long_ago, held, locked, just, finished) if (place.directory / one).exists()
    ]
    assert here == [held, locked, just, finished]
    with pytest.raises(UploadGone):
        place.data.recover(long_ago)
