"""Jobs in Redis for the sync side: from the outbox to RQ, attempts and their ends.

RQ carries the work; what became of a job stands in its hash, and a published result means
completed whatever Redis says. So a job may run twice (rule 5), but it ends once.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import structlog

from storage import redis_schema as schema
from storage.checkup import Checkup
from storage.errors import (
    AnotherDirectory,
    DiskFailed,
    JobNotRetried,
    StorageError,
    StorageFull,
    UploadGone,
    UploadNotFound,
)
from storage.finals import Finals
from storage.job import Ended, JobState
from storage.marker import Marker
from storage.reconciler import Reconciler
from storage.redis_sync import call, clients, redis_errors
from storage.rq_queue import Lanes, RqQueue, TimeLimit
from storage.sweeper import Retention, Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

    from storage.interfaces import DataStore

log = structlog.get_logger()

# Seconds until the next run after each one that crashed under a living worker, or was lost with its
# worker; then the job has failed.
PAUSES_AFTER_DEATHS: tuple[float, ...] = (1, 5)
PAUSES_AFTER_LOSSES: tuple[float, ...] = (0, 1, 2, 4, 8, 15, 15, 15, 15, 15)
_BATCH = 50
# Plates that are told while an analysis runs.
_MOST_TEXTS = 1000
# Seconds until a run that was put off is tried again.
_PUT_OFF = 300.0
# Seconds. A run whose worker dies leaves that much later what RQ has of it.
_RUN_ENDS = 30.0
_CHECKUP = 600.0


class Cancelled(StorageError):
    """The upload of this job was removed: its run shall stop."""


class Superseded(StorageError):
    """A newer attempt runs this job, or it has ended: this run shall stop."""


class Counts(NamedTuple):
    """Count frames, done and in all, plates and readings of plates."""

    done: int
    total: int
    plates: int
    detections: int


class JobSettings(Protocol):
    """What is read of the settings."""

    @property
    def queue(self) -> str: ...
    @property
    def job_timeout_seconds(self) -> float: ...
    @property
    def job_timeout_seconds_per_mb(self) -> float: ...
    @property
    def keep_uploads_seconds(self) -> int: ...
    @property
    def keep_failed_seconds(self) -> int: ...
    @property
    def result_ttl_seconds(self) -> float: ...
    @property
    def max_file_size(self) -> int: ...


class RedisJobs:
    """Move jobs on; every method blocks, may be called by many at once, and raises StorageError."""

    def __init__(
        self,
        redis: Redis,
        queue: RqQueue,
        data: DataStore,
        retention: Retention,
        max_size: int = sys.maxsize,
    ) -> None:
        """Use a client that decodes responses; an upload has at most `max_size` bytes."""
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis
        self._rq = queue
        self._data = data
        self._retention = retention
        self._finals = Finals(redis, data, max_size, retention.result_ttl)
        self._sweeper = Sweeper(redis, queue, data, retention, self._finals)
        self._reconciler = Reconciler(redis, queue, data, self._sweeper, self)
        self.marker = Marker(redis, data.directory)
        self.checkup = Checkup(
            redis, queue, data=data, sweeper=self._sweeper, reconciler=self._reconciler, jobs=self
        )
        self._checkup_at = 0.0
        self._refused = False

    @classmethod
    def connect(
        cls, url: str, data: DataStore, settings: JobSettings, function: str = "worker.analyse"
    ) -> Self:
        """Compose the whole for a Redis URL; `function` names what RQ runs with the upload's id."""
        text, raw = clients(url)
        limit = TimeLimit(settings.job_timeout_seconds, settings.job_timeout_seconds_per_mb)
        queue = RqQueue(raw, Lanes.parse(settings.queue), function, limit)
        retention = Retention(
            keep_uploads=settings.keep_uploads_seconds,
            keep_failed=settings.keep_failed_seconds,
            result_ttl=settings.result_ttl_seconds,
        )
        return cls(text, queue, data, retention, settings.max_file_size)

    @property
    def queue(self) -> RqQueue:
        """Return RQ's side."""
        return self._rq

    @redis_errors()
    def workers(self) -> int:
        """Count the workers that wait for or run jobs; raise AnotherDirectory too."""
        self.marker.known()
        return self._rq.workers()

    @redis_errors()
    def upcoming(self, most: int) -> list[str]:
        """Return the ids of the jobs that wait for a worker, the next one first."""
        return self._rq.upcoming(most)

    # --- from the outbox to RQ

    @redis_errors()
    def drain(self) -> int:
        """Hand what is in the outbox to RQ; return how many jobs are new there.

        A final upload in it that waits for parts is assembled as far as it can be.
        """
        count = 0
        while (drained := self._drain_oldest())[0]:
            count += drained[1]
        return count

    @redis_errors()
    def drain_oldest(self) -> bool:
        """Hand the oldest ones in the outbox to RQ, as `drain`; tell whether more may wait."""
        return self._drain_oldest()[0] == _BATCH

    def _drain_oldest(self) -> tuple[int, int]:
        """Return how many were due in the outbox, and how many of them were new to RQ."""
        found = self._redis.zrangebyscore(
            schema.OUTBOX, "-inf", time.time(), start=0, num=_BATCH, withscores=True
        )
        if not found:
            return 0, 0
        ids = [upload_id for upload_id, _ in found]
        # One that is complete with this enters the outbox anew.
        self._finals.assemble(ids)
        active, removed = self._look(ids)
        count = self._rq.enqueue(active)
        self._clean(removed)
        # Dying before this, it is enqueued again: RQ knows it by its id.
        entries = [value for pair in found for value in pair]
        call(self._redis, schema.DRAINED, (schema.OUTBOX,), entries)
        return len(found), count

    def _clean(self, removed: Sequence[str]) -> None:
        """Remove what RQ has of removed uploads; of one that runs when its run has ended."""
        running = self._rq.running() if removed else set()
        for upload_id in removed:
            if upload_id in running:
                self._redis.zadd(schema.OUTBOX, {upload_id: time.time() + _RUN_ENDS})
            else:
                self._rq.delete(upload_id)

    @redis_errors()
    def forget_run(self, upload_id: str) -> None:
        """Remove what RQ has of a run that ended, if its upload was removed meanwhile."""
        if not self._redis.exists(schema.upload_key(upload_id)):
            self._rq.delete(upload_id)

    @redis_errors()
    def active(self, ids: Sequence[str]) -> set[str]:
        """Return those whose record is here and whose job has not ended."""
        return set(self._look(ids)[0])

    def _look(self, ids: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """Return the size in bytes of those that are active, and those that have no record."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for upload_id in ids:
                pipeline.exists(schema.upload_key(upload_id))
                pipeline.hmget(schema.job_key(upload_id), "state", "size")
            answers = pipeline.execute()
        looked = list(zip(ids, answers[::2], answers[1::2], strict=True))
        active = {
            upload_id: int(size or 0)
            for upload_id, here, (state, size) in looked
            if here and state in schema.ACTIVE
        }
        return active, [upload_id for upload_id, here, _ in looked if not here]

    # --- one run of a job

    @redis_errors()
    def start(self, upload_id: str) -> int:
        """Begin an attempt and return its number; raise Cancelled or Superseded."""
        attempt: int = call(self._redis, schema.JOB_START, schema.pair(upload_id), (time.time(),))
        _check(attempt)
        return attempt

    @redis_errors()
    def progress(
        self, upload_id: str, attempt: int, counts: Counts, texts: Sequence[str] = ()
    ) -> None:
        """Tell how far an attempt is, and what it has read; raise Cancelled or Superseded.

        A text that was told before is left out.
        """
        keys = (schema.job_key(upload_id), schema.plates_key(upload_id))
        args = (attempt, time.time(), *counts, _MOST_TEXTS, *texts)
        _check(call(self._redis, schema.JOB_PROGRESS, keys, args))

    @redis_errors()
    def call_helpers(self, upload_id: str, plan: str, most: int) -> None:
        """Let other workers help with a job that this one runs, `most` of them at most.

        They come when they have done what waits for them already.
        """
        size = int(self._redis.hget(schema.job_key(upload_id), "size") or 0)
        self._rq.call_helpers(upload_id, plan, size, min(most, self._rq.workers() - 1))

    def complete(
        self, upload_id: str, document: Mapping[str, Any], crops: Sequence[bytes] = ()
    ) -> None:
        """Publish a result durably and end the job; the first one that was published stands.

        `crops` are the JPEG of each of its plates' best shots, empty for none.

        Raises:
            Cancelled: the upload was removed meanwhile, and the result with it.
        """
        self._data.publish_result(upload_id, json.dumps(document).encode(), crops)
        self.finish(upload_id)

    def finish(self, upload_id: str) -> bool:
        """End a job whose result is published; False when there is none. Raises as `complete`."""
        result = self._data.result(upload_id)
        if result is None:
            return False
        # Removal buries the journal before it removes the result: one of the two sees the other.
        ended = self._remember_completed(upload_id, json.loads(result))
        self.end(upload_id, 0, ended)
        self._data.forget_shares(upload_id)
        if self._retention.keep_uploads == 0:
            self._data.remove_bytes(upload_id)
        return True

    def _remember_completed(self, upload_id: str, result: Mapping[str, Any]) -> Ended:
        try:
            _, ended = self._data.recover(upload_id)
            if ended is None or ended.state is not JobState.COMPLETED:
                ended = self._ended(JobState.COMPLETED, result=result)
                self._remember(upload_id, ended)
        except UploadGone as error:
            self._data.remove(upload_id)
            raise Cancelled("the upload was removed while its video was analysed") from error
        except UploadNotFound as error:
            self._data.purge(upload_id)
            raise Cancelled("the upload was removed while its video was analysed") from error
        return ended

    def _remember(self, upload_id: str, ended: Ended) -> None:
        try:
            self._data.end_job(upload_id, ended)
        except (StorageFull, DiskFailed) as error:
            # The end stands in Redis; should that be lost, the result or another run tells it.
            log.warning("job.end_not_remembered", job=upload_id, reason=str(error))

    def _ended(
        self, state: JobState, error: str | None = None, result: Mapping[str, Any] | None = None
    ) -> Ended:
        due, until = self._retention.of(state, now := time.time())
        if result is None:
            return Ended(state, due, until, error, at=now)
        counts = (int(result["frames"]), len(result["plates"]), int(result["detections"]))
        return Ended(state, due, until, error, *counts, at=now)

    def fail(self, upload_id: str, attempt: int, error: str) -> None:
        """End a job without a result, unless a newer attempt runs; attempt 0 ends any."""
        ended = self._ended(JobState.FAILED, error)
        if self.end(upload_id, attempt, ended):
            with suppress(UploadGone, UploadNotFound):
                self._remember(upload_id, ended)
            self._data.forget_shares(upload_id)

    @redis_errors()
    def end(self, upload_id: str, attempt: int, ended: Ended) -> bool:
        """End a job in Redis only; False when it has ended, was removed or a newer attempt runs."""
        keys = (*schema.pair(upload_id), schema.EXPIRING, schema.OUTBOX)
        times = (time.time(), ended.due, ended.until)
        counts = (ended.frames, ended.frames, ended.plates, ended.detections)
        args = (upload_id, attempt, *times, ended.state.value, ended.error or "", *counts)
        return bool(call(self._redis, schema.JOB_END, keys, args) == 1)

    @redis_errors()
    def postpone(self, upload_id: str, attempt: int, obstacle: str) -> None:
        """Let a run end without an end of its job: another one follows some minutes later.

        It counts neither as a crash nor as a loss.
        """
        keys = (schema.job_key(upload_id), schema.OUTBOX)
        args = (upload_id, attempt, now := time.time(), now + _PUT_OFF, obstacle)
        call(self._redis, schema.JOB_POSTPONE, keys, args)

    def retry(self, upload_id: str) -> None:
        """Let a failed job run again, as if it never had.

        Raises:
            JobNotRetried: it has not failed, or its video is gone.
            UploadGone: it was removed.
        """
        with redis_errors():
            state = self._redis.hget(schema.job_key(upload_id), "state")
        if state != JobState.FAILED:
            raise JobNotRetried(f"only a failed job can be tried again, this one is {state}")
        try:
            self._data.read(upload_id).close()
        except UploadGone:
            raise JobNotRetried("the video of this job is no longer here: upload it anew") from None
        # First of all: a Redis that is rebuilt would take it for failed.
        self._data.end_job(upload_id, None)
        self._begin_anew(upload_id)
        log.info("job.retried", job=upload_id)

    @redis_errors()
    def _begin_anew(self, upload_id: str) -> None:
        keys, args = (*schema.pair(upload_id), schema.OUTBOX), (upload_id, time.time())
        answer = call(self._redis, schema.JOB_RETRY, keys, args)
        if answer < 0:
            raise UploadGone("this upload was removed")
        if answer == 0:
            raise JobNotRetried("somebody else has just tried this job again")

    def died(self, upload_id: str, why: str) -> bool:
        """Count a run that crashed under a living worker; tell whether another one follows."""
        count = self._interrupted(upload_id, "deaths", PAUSES_AFTER_DEATHS, why)
        if count > len(PAUSES_AFTER_DEATHS):
            self.fail(upload_id, 0, f"The analysis crashed {count} times, last because {why}")
        return 0 < count <= len(PAUSES_AFTER_DEATHS)

    def redrive(self, upload_id: str) -> None:
        """Let a job run again that was lost with its worker; fail it when that is too often."""
        if self._data.result(upload_id) is not None:
            self.finish(upload_id)
            return
        count = self._interrupted(upload_id, "losses", PAUSES_AFTER_LOSSES)
        if count > len(PAUSES_AFTER_LOSSES):
            self.fail(upload_id, 0, f"The analysis was interrupted {count} times")
        elif count:
            self._requeue(upload_id)

    @redis_errors()
    def _interrupted(
        self, upload_id: str, how: str, pauses: Sequence[float], obstacle: str = ""
    ) -> int:
        keys = (*schema.pair(upload_id), schema.OUTBOX)
        args = (upload_id, how, time.time(), obstacle, *pauses)
        count: int = call(self._redis, schema.JOB_INTERRUPTED, keys, args)
        return count

    @redis_errors()
    def _requeue(self, upload_id: str) -> None:
        # It is in the outbox: dying before this, the drain sees that nobody runs it.
        self._rq.delete(upload_id)
        log.warning("job.redriven", job=upload_id)

    def sweep(self) -> int:
        """Remove what is due: unfinished uploads, videos, at last records and results.

        At times it looks for what no other step would ever find (storage.checkup).
        """
        if not self._ours(self.marker.known):
            return 0
        count = self._sweeper.sweep()
        if time.monotonic() >= self._checkup_at:
            self._checkup_at = time.monotonic() + _CHECKUP
            count += self.checkup.mend()
        return count

    def reconcile(self) -> int:
        """Mend what was lost on the way: records that Redis lacks, jobs nobody will run."""
        return self._reconciler.reconcile() if self._ours(self.marker.claim) else 0

    def _ours(self, look: Callable[[], object]) -> bool:
        """Tell whether this Redis is this directory's; it is said once where it is not."""
        try:
            look()
        except AnotherDirectory as error:
            if not self._refused:
                log.warning("redis.of_another_directory", reason=str(error))
            self._refused = True
        else:
            self._refused = False
        return not self._refused


def _check(answer: int) -> None:
    if answer < 0:
        raise Cancelled("the upload was removed while its video was analysed")
    if answer == 0:
        raise Superseded("a newer attempt runs this job, or it has ended")
