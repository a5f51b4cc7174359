"""Helpers of a job in RQ's queue: as many as are asked for, and no trace of dead ones."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from storage.redis_sync import clients
from storage.rq_queue import Lanes, RqQueue, TimeLimit

if TYPE_CHECKING:
    from rq import Queue

ID = str(uuid4())
HELPERS = [f"{ID}_1", f"{ID}_2"]


@pytest.fixture
def queue(redis_url: str) -> RqQueue:
    lanes = Lanes.parse("short:100,tusd")
    return RqQueue(clients(redis_url)[1], lanes, "worker.analyse", TimeLimit(60))


def lane(queue: RqQueue, name: str) -> Queue:
    return next(one for one in queue.queues if one.name == name)


def test_helpers_wait_where_their_job_did_and_are_told_its_id_and_plan(queue: RqQueue) -> None:
    assert queue.call_helpers(ID, "plan", size=1000, count=2) == 2
    assert lane(queue, "tusd").get_job_ids() == HELPERS
    assert lane(queue, "short").get_job_ids() == []
    job = Job.fetch(HELPERS[0], connection=queue.redis, serializer=JSONSerializer)
    assert (job.func_name, list(job.args)) == ("worker.analyse", [ID, "plan"])


def test_helpers_that_wait_are_not_called_again_and_those_that_have_ended_are(
    queue: RqQueue,
) -> None:
    queue.call_helpers(ID, "plan", size=1, count=2)
    assert queue.call_helpers(ID, "plan", size=1, count=2) == 0
    job = Job.fetch(HELPERS[0], connection=queue.redis, serializer=JSONSerializer)
    lane(queue, "short").remove(HELPERS[0])
    job.set_status(JobStatus.FINISHED)
    assert queue.call_helpers(ID, "plan", size=1, count=2) == 1
    assert sorted(lane(queue, "short").get_job_ids()) == HELPERS


def test_two_may_remove_the_same_job_at_once(
    queue: RqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue({ID: 1})
    remove_runs = RqQueue._delete_executions

    def be_overtaken(late: RqQueue, job: Job) -> None:
        monkeypatch.undo()
        queue.delete(ID)
        remove_runs(late, job)

    monkeypatch.setattr(RqQueue, "_delete_executions", be_overtaken)
    queue.delete(ID)
    assert queue.redis.keys(f"*{ID}*") == []
    assert queue.ids() == set()


def test_nobody_is_called_where_there_is_nobody(queue: RqQueue) -> None:
    assert queue.call_helpers(ID, "plan", size=1, count=0) == 0
    assert queue.call_helpers(ID, "plan", size=1, count=-1) == 0


def test_helpers_take_no_place_among_the_jobs_that_wait(queue: RqQueue) -> None:
    later = str(uuid4())
    queue.call_helpers(ID, "plan", size=1000, count=2)
    queue.enqueue({later: 1000})
    assert queue.upcoming(5) == [later]


def test_a_helper_that_died_with_its_worker_leaves_nothing(queue: RqQueue) -> None:
    queue.call_helpers(ID, "plan", size=1000, count=2)
    tusd = lane(queue, "tusd")
    tusd.remove(HELPERS[0])
    job = Job.fetch(HELPERS[0], connection=queue.redis, serializer=JSONSerializer)
    job.set_status(JobStatus.STARTED)
    # An execution whose heartbeats have ended.
    queue.redis.zadd(tusd.started_job_registry.key, {f"{HELPERS[0]}:execution": 9e9})
    queue.forget_ended()
    assert not queue.redis.exists(job.key)
    assert queue.running() == set()
    assert tusd.get_job_ids() == HELPERS[1:]
