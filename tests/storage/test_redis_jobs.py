"""Jobs reach RQ once and end once, whatever is lost on the way; against a real server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from storage import redis_jobs
from storage import redis_schema as schema
from storage.errors import StoreUnavailable, UploadGone
from storage.filestore import FileStore
from storage.job import JobState
from storage.redis_jobs import Cancelled, Counts, Superseded
from storage.redis_locker import process_identity
from storage.rq_queue import Lanes, RqQueue, TimeLimit
from tests.storage.place import RESULT, VIDEO, Place

if TYPE_CHECKING:
    from pathlib import Path

# --- from the outbox to RQ


def test_a_complete_upload_is_enqueued_once_by_name_with_its_id(place: Place) -> None:
    upload_id = place.upload(complete=True)
    assert place.jobs().drain() == 1
    assert place.jobs().drain() == 0
    assert place.outbox() == []
    assert place.queue.job_ids == [upload_id]
    job = RqJob.fetch(upload_id, place.raw, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.timeout) == ("worker.analyse", [upload_id], 60)


def test_jobs_wait_in_the_order_in_which_they_are_taken(place: Place) -> None:
    queue = RqQueue(place.raw, Lanes.parse("short:10,tests"), "worker.analyse", TimeLimit(60))
    queue.enqueue({"long": 99, "longer": 100, "quick": 1})
    assert queue.upcoming(10) == ["quick", "long", "longer"]
    assert queue.upcoming(2) == ["quick", "long"]
    assert queue.upcoming(1) == ["quick"]


def test_a_drain_killed_before_it_cleared_the_outbox_enqueues_nothing_twice(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.jobs().drain()
    place.text.zadd(schema.OUTBOX, {upload_id: 1})
    assert place.jobs().drain() == 0
    assert place.outbox() == []
    assert place.queue.job_ids == [upload_id]


def test_a_drain_killed_in_the_midst_of_a_batch_goes_on_with_the_rest(place: Place) -> None:
    ids = [place.upload(complete=True) for _ in range(4)]
    place.jobs().queue.enqueue(dict.fromkeys(ids[1:3], 1))
    assert place.jobs().drain() == 2
    assert place.outbox() == []
    assert place.queue.job_ids == [ids[1], ids[2], ids[0], ids[3]]


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


def test_each_plate_is_told_once_however_often_it_is_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "_MOST_TEXTS", 3)
    upload_id = place.upload(complete=True)
    jobs = place.jobs()

    def told() -> list[str]:
        texts: list[str] = place.text.lrange(schema.plates_key(upload_id), 0, -1)
        return texts

    attempt = jobs.start(upload_id)
    jobs.progress(upload_id, attempt, Counts(1, 7, 1, 1), ["AB12CDE", "X1"])
    jobs.progress(upload_id, attempt, Counts(2, 7, 1, 1))
    again = jobs.start(upload_id)
    jobs.progress(upload_id, again, Counts(1, 7, 1, 1), ["X1", "Y2", "Z3"])
    assert told() == ["AB12CDE", "X1", "Y2"]
    with pytest.raises(Superseded):
        jobs.progress(upload_id, attempt, Counts(3, 7, 1, 1), ["OLD1"])
    place.terminate(upload_id)
    with pytest.raises(Cancelled):
        jobs.progress(upload_id, again, Counts(3, 7, 1, 1), ["LATE2"])
    assert told() == []


@pytest.mark.parametrize("state", ["waiting", "running", "ended"])
def test_nothing_is_left_of_a_removed_job_but_that_it_was_removed(place: Place, state: str) -> None:
    place.data.prepare()
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    if state != "waiting":
        place.take(upload_id, process_identity())
        jobs.progress(upload_id, jobs.start(upload_id), Counts(1, 7, 1, 1), ["AB12CDE"])
    if state == "ended":
        jobs.complete(upload_id, RESULT, [b"a picture"])
        jobs.queue.delete(upload_id)
    place.terminate(upload_id)
    jobs.drain()
    if state == "running":
        # Its worker still runs it, and is told so by the next progress.
        jobs.forget_run(upload_id)
        assert place.outbox() == [upload_id]
        place.text.zadd(schema.OUTBOX, {upload_id: 1})
        jobs.drain()
    left = {key for key, value in place.everything().items() if upload_id.encode() in value}
    # Of its executions a worker keeps a list of its own, and cleans it.
    assert {key for key in left if not key.startswith("rq:worker:")} == {schema.EXPIRING}
    named = {key for key in place.everything() if upload_id in key}
    assert named == {schema.job_key(upload_id)}
    assert place.text.hgetall(schema.job_key(upload_id)).keys() == {"state", "updated_at"}
    assert place.data.result(upload_id) is None
    assert [path.name for path in place.directory.rglob("*.*") if upload_id in str(path)] == [
        f"{upload_id}.log"
    ]


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


def test_a_crashed_job_waits_a_moment_for_its_next_run_and_says_why(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "PAUSES_AFTER_DEATHS", (600,))
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.drain()
    jobs.start(upload_id)
    assert jobs.died(upload_id, "it was killed by SIGKILL")
    assert place.job(upload_id).message == (
        "The analysis is put off and will be tried again: it was killed by SIGKILL"
    )
    assert jobs.drain() == 0
    assert place.outbox() == [upload_id]
    RqJob.fetch(upload_id, place.raw, serializer=JSONSerializer).cancel()
    place.text.zadd(schema.OUTBOX, {upload_id: 1})
    assert jobs.drain() == 1
    assert jobs.start(upload_id) == 2
    assert place.job(upload_id).obstacle is None


def test_a_job_enters_the_most_urgent_queue_that_takes_its_video(place: Place) -> None:
    limit = TimeLimit(10.5, per_mb=20)
    queue = RqQueue(place.raw, Lanes.parse("short:1048576, long"), "worker.analyse", limit)
    queue.enqueue({"small": 1, "fits": 2**20, "large": 2**20 + 1})
    assert [one.name for one in queue.queues] == ["short", "long"]
    assert [one.job_ids for one in queue.queues] == [["small", "fits"], ["large"]]
    jobs = [RqJob.fetch(one, place.raw, serializer=JSONSerializer) for one in ("small", "large")]
    assert [job.timeout for job in jobs] == [11, 31]
    assert queue.ids() == {"small", "fits", "large"}
    queue.delete("large")
    assert queue.ids() == {"small", "fits"}


def test_the_third_death_fails_the_job_with_the_reason(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs()
    jobs.start(upload_id)
    assert [jobs.died(upload_id, "it was killed by SIGKILL") for _ in range(3)] == [1, 1, 0]
    job = place.job(upload_id)
    assert job.state is JobState.FAILED
    assert job.error == "The analysis crashed 3 times, last because it was killed by SIGKILL"
