"""RQ's side of a job; the only place of the stores where RQ's own keys are touched."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from math import ceil, inf
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError
from rq import Queue, Worker
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.scripts import UNIQUE_ENQUEUE_SCRIPT
from rq.serializers import JSONSerializer
from rq.worker_registration import get_keys

from storage.job import MB
from storage.redis_sync import surely_dead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis import Redis

# Seconds that RQ remembers an ended job; what became of it stands in our own hash.
_REMEMBERED = 3600
# A job just taken from the queue is in no list for a moment. After so long nobody took it.
_DOUBT = 10.0
# Whom nobody asked about for so long is no longer in doubt.
_FORGOTTEN = 86_400.0
# What a job's helpers are called.
_HELPER = re.compile(r".+_[1-9][0-9]*")
_OVER = {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED}


@dataclass(frozen=True, slots=True)
class Lanes:
    """Name RQ's queues, the most urgent first, each with the largest video in bytes it takes."""

    by_priority: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Lanes:
        """Read `short:20000000,tusd`; without a number a queue takes every size."""
        pairs = (one.strip().partition(":") for one in text.split(","))
        return cls(tuple((name, float(most) if most else inf) for name, _, most in pairs))

    @property
    def names(self) -> list[str]:
        """Return the names, the most urgent first."""
        return [name for name, _ in self.by_priority]

    def of(self, size: int) -> str:
        """Return the first one that takes a video of so many bytes, or else the last one."""
        return next((name for name, most in self.by_priority if size <= most), self.names[-1])


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Say how many seconds one analysis may take, and how many more for each MB of its video."""

    base: float
    per_mb: float = 0.0

    def of(self, size: int) -> int:
        """Return the seconds for a video of so many bytes."""
        return ceil(self.base + self.per_mb * size / MB)


@dataclass(frozen=True, slots=True)
class _Order:
    """Hold what is to be enqueued: its id, what it is told, and the bytes of its video."""

    id: str
    arguments: tuple[str, ...]
    size: int


class RqQueue:
    """Enqueue, look for and delete RQ's jobs; raises errors of Redis."""

    def __init__(self, redis: Redis, lanes: Lanes, function: str, limit: TimeLimit) -> None:
        """Use a client that does not decode; `function` is named by string, never imported."""
        self.redis = redis
        self._lanes = lanes
        self._function = function
        self._limit = limit
        # When it began and when somebody asked last.
        self._doubted: dict[str, tuple[float, float]] = {}

    @property
    def queues(self) -> list[Queue]:
        """Return RQ's queues, the most urgent first."""
        return [self._queue(name) for name in self._lanes.names]

    def _queue(self, name: str) -> Queue:
        return Queue(name, connection=self.redis, serializer=JSONSerializer)

    def enqueue(self, sizes: Mapping[str, int]) -> int:
        """Enqueue those jobs that RQ has not, in one exchange; return how many.

        `sizes` has the bytes of each one's video by its id. One that RQ holds for ended, or that
        was lost with its worker, makes way.
        """
        return self._ensure([_Order(one, (one,), size) for one, size in sizes.items()])

    def call_helpers(self, job_id: str, plan: str, size: int, count: int) -> int:
        """Enqueue so many helpers of a job, as `enqueue`; each is told its id and that plan."""
        return self._ensure(
            [_Order(f"{job_id}_{number}", (job_id, plan), size) for number in range(1, count + 1)]
        )

    def _ensure(self, orders: Sequence[_Order]) -> int:
        enqueued = self._enqueue(orders)
        over = [one for one in orders if one.id not in enqueued and self._makes_way(one.id)]
        for one in over:
            self.delete(one.id)
        return len(enqueued) + (len(self._enqueue(over)) if over else 0)

    def _enqueue(self, orders: Sequence[_Order]) -> set[str]:
        """Return those that were not known by their id.

        It is what `Queue.enqueue(unique=True)` does, which takes a round trip for each.
        """
        script = self.redis.register_script(UNIQUE_ENQUEUE_SCRIPT)
        queues = {queue.name: queue for queue in self.queues}
        with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.sadd(Queue.redis_queues_keys, *(queue.key for queue in queues.values()))
            for order in orders:
                queue = queues[self._lanes.of(order.size)]
                keys = [Job.key_for(order.id), queue.key]
                script(keys, [order.id, "R", -1, *self._fields(queue, order)], pipeline)
            answers = pipeline.execute()[1:]
        return {order.id for order, new in zip(orders, answers, strict=True) if new}

    def _fields(self, queue: Queue, order: _Order) -> Iterator[str]:
        # How often it may run is counted in our own hash: RQ does not try again by itself.
        job = queue.create_job(
            self._function,
            args=list(order.arguments),
            job_id=order.id,
            description=self._function,
            timeout=self._limit.of(order.size),
            result_ttl=_REMEMBERED,
            failure_ttl=_REMEMBERED,
        )
        job.enqueued_at = datetime.now(UTC)
        fields: dict[str, str] = job.to_dict()
        return chain.from_iterable(fields.items())

    def _makes_way(self, job_id: str) -> bool:
        job = self._fetch(job_id)
        over = job is None or job.get_status(refresh=False) in _OVER
        return over or bool(self._is_lost(job_id))

    def is_lost(self, job_id: str) -> bool:
        """Tell whether RQ will not run a job that has not ended, and nobody runs it."""
        lost = self._is_lost(job_id)
        if lost is not None:
            self._doubted.pop(job_id, None)
            return lost
        return self._in_doubt_for(job_id) > _DOUBT

    def _is_lost(self, job_id: str) -> bool | None:
        """Tell as `is_lost`, or None: a worker may just be about to say that it runs it."""
        job = self._fetch(job_id)
        if job is None:
            return True
        status = job.get_status(refresh=False)
        if status not in {JobStatus.QUEUED, JobStatus.STARTED, *_OVER}:
            return False
        runs = [execution for execution in self._executions() if execution.job_id == job_id]
        if any(self._lives(execution) for execution in runs) or self._is_queued(job_id):
            return False
        return None if status is JobStatus.QUEUED and not runs else True

    def _is_queued(self, job_id: str) -> bool:
        return any(queue.get_job_position(job_id) is not None for queue in self.queues)

    def _in_doubt_for(self, job_id: str) -> float:
        now = time.monotonic()
        since, _ = self._doubted.get(job_id, (now, now))
        kept = {one: asked for one, asked in self._doubted.items() if now - asked[1] < _FORGOTTEN}
        self._doubted = kept | {job_id: (since, now)}
        return now - since

    def _lives(self, execution: Execution) -> bool:
        # It has a time to live that the worker's heartbeat prolongs.
        if not self.redis.exists(execution.key):
            return False
        worker = self.redis.hget(execution.key, "worker_name")
        return worker is None or not surely_dead(_text(worker))

    def _executions(self) -> Iterator[Execution]:
        for queue in self.queues:
            registry = queue.started_job_registry
            for job_id, execution_id in registry.get_job_and_execution_ids(cleanup=False):
                yield Execution(execution_id, job_id, self.redis)

    def upcoming(self, most: int) -> list[str]:
        """Return the ids of the jobs that wait, the next one first, `most` of them at most."""
        found: list[str] = []
        for queue in self.queues:
            if len(found) < most:
                found += queue.get_job_ids(0, most - len(found))
        return [one for one in found if not _HELPER.fullmatch(one)]

    def running(self) -> set[str]:
        """Return the ids of jobs that a worker has taken, dead ones' too."""
        taken = {one for queue in self.queues for one in queue.intermediate_queue.get_job_ids()}
        return {execution.job_id for execution in self._executions()} | taken

    def failed(self) -> set[str]:
        """Return the ids of jobs whose last run RQ saw fail: not even that they did was told."""
        return {
            one
            for queue in self.queues
            for one in queue.failed_job_registry.get_job_ids(cleanup=False)
        }

    def waiting(self) -> set[str]:
        """Return the ids of jobs that wait in a queue."""
        return {one for queue in self.queues for one in queue.get_job_ids()}

    def ids(self) -> set[str]:
        """Return the ids of jobs that wait or that a worker has taken."""
        return self.waiting() | self.running()

    def delete(self, job_id: str) -> None:
        """Remove every trace of the job; idempotent."""
        self._doubted.pop(job_id, None)
        job = self._fetch(job_id)
        if job is not None:
            self._delete_executions(job)
            # Another one may remove it just now: so does a worker whose run has ended.
            with suppress(InvalidJobOperation):
                job.delete()
        for queue in self.queues:
            queue.intermediate_queue.remove(job_id)
        # A late heartbeat may have left a hash that is no job, and that keeps its id taken.
        self.redis.delete(Job.key_for(job_id))

    def _delete_executions(self, job: Job) -> None:
        # Job.delete() trips over executions whose hash has run out.
        with self.redis.pipeline() as pipeline:
            for execution in self._executions():
                if execution.job_id == job.id:
                    execution.delete(job=job, pipeline=pipeline)
            pipeline.delete(job.execution_registry.key)
            pipeline.execute()

    def workers(self) -> int:
        """Count the living workers of these queues."""
        keys = [key for key in self._worker_keys() if not surely_dead(_name(key))]
        return int(self.redis.exists(*keys)) if keys else 0

    def _worker_keys(self) -> set[str]:
        return {key for queue in self.queues for key in get_keys(queue)}

    def bury_dead_workers(self) -> None:
        """Strike off the workers of this host that died without a word."""
        for key in self._worker_keys():
            if surely_dead(_name(key)):
                worker = Worker.find_by_key(key, connection=self.redis, serializer=JSONSerializer)
                if worker is not None:
                    worker.register_death()  # type: ignore[no-untyped-call]

    def forget_ended(self) -> None:
        """Cut RQ's lists of ended jobs to those it still remembers."""
        for queue in self.queues:
            for registry in (FinishedJobRegistry, FailedJobRegistry):
                registry(queue=queue).cleanup()
        for one in self.running() | self.failed():
            # Of a job they are looked after with its record; nobody waits for a helper.
            if _HELPER.fullmatch(one) and self._is_lost(one):
                self.delete(one)

    def _fetch(self, job_id: str) -> Job | None:
        try:
            return Job.fetch(job_id, connection=self.redis, serializer=JSONSerializer)
        except (NoSuchJobError, ResponseError):
            return None


def _name(key: str) -> str:
    return key.removeprefix(Worker.redis_worker_namespace_prefix)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
