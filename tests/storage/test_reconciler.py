"""What was lost on the way is mended from the journals; against a real server."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rq import Worker
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from storage import journal, reconciler, redis_jobs, rq_queue
from storage import redis_schema as schema
from storage.errors import DiskFailed, StorageFull
from storage.filestore import FileStore
from storage.job import JobState
from storage.redis_locker import process_identity
from storage.upload import Upload
from tests.storage.place import RESULT, VIDEO, Place, dead_process


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


def complete_only_in_the_journal(place: Place) -> str:
    """Have an upload that Redis, rolled back, takes for unfinished."""
    upload_id = place.upload(complete=True)
    place.text.hset(schema.upload_key(upload_id), mapping={"complete": "0", "offset": "5"})
    place.text.hset(schema.job_key(upload_id), "state", "uploading")
    place.text.delete(schema.OUTBOX)
    return upload_id


def test_completion_that_a_crash_of_redis_forgot_is_found_in_the_journal(place: Place) -> None:
    upload_id = complete_only_in_the_journal(place)
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


def test_a_record_that_was_held_when_all_were_compared_is_mended_as_soon_as_it_is_not(
    place: Place,
) -> None:
    upload_id = complete_only_in_the_journal(place)
    # As a snapshot from before has it: whoever held it has let go since.
    place.text.set(schema.lock_key(upload_id), f"{process_identity()}:9")
    jobs = place.jobs()
    jobs.reconcile()
    assert place.queue.job_ids == []
    place.text.delete(schema.lock_key(upload_id))
    jobs.reconcile()
    assert place.queue.job_ids == [upload_id]


def test_who_comes_next_compares_again_what_was_held(place: Place) -> None:
    upload_id = complete_only_in_the_journal(place)
    place.text.set(schema.lock_key(upload_id), f"{process_identity()}:9")
    place.jobs().reconcile()
    place.text.delete(schema.lock_key(upload_id))
    # The first one is dead.
    place.jobs().reconcile()
    assert place.queue.job_ids == [upload_id]


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
    monkeypatch.setattr(redis_jobs, "PAUSES_AFTER_LOSSES", ())
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
        place.text.zadd(schema.OUTBOX, {upload_id: 1})
        jobs.drain()
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


@pytest.mark.parametrize("worker", ["of-another-host", process_identity()], ids=["other", "own"])
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
    monkeypatch.setattr(redis_jobs, "PAUSES_AFTER_LOSSES", (0, 0))
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    for _ in range(3):
        jobs.drain()
        place.take(upload_id, dead_process())
        jobs.reconcile()
    assert place.job(upload_id).error == "The analysis was interrupted 3 times"


def test_a_job_that_is_lost_again_and_again_waits_longer_for_its_next_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "PAUSES_AFTER_LOSSES", (0, 600, 1200))
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    due = []
    for _ in range(3):
        jobs.drain()
        place.take(upload_id, dead_process())
        jobs.redrive(upload_id)
        due.append(place.text.zscore(schema.OUTBOX, upload_id))
        assert jobs.drain() == (due[-1] < time.time())
        place.text.zadd(schema.OUTBOX, {upload_id: 1})
    assert due[0] < due[1] - 500 < due[2] - 1000


def test_a_job_whose_run_failed_in_rq_without_a_word_to_us_runs_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_PAGE", 0)
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    place.take(upload_id, process_identity())
    job = RqJob.fetch(upload_id, place.raw, serializer=JSONSerializer)
    [execution] = job.get_executions()
    worker = Worker([place.queue], connection=place.raw)
    worker.handle_job_failure(job, place.queue, execution=execution)
    jobs.reconcile()
    assert place.queue.job_ids == [upload_id]


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
