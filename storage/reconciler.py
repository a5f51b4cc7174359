"""Mend what was lost on the way: records that Redis lacks or has from before, jobs nobody will run.

The journals are the truth. After Redis was restarted every record is compared with its own, and at
times those that are missing or unfinished.
"""

from __future__ import annotations

import secrets
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from storage import redis_schema as schema
from storage.errors import DiskFailed, UploadGone, UploadNotFound
from storage.redis_locker import process_identity
from storage.redis_sync import alone, call, left_alone, one_by_one, redis_errors
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

    from storage.interfaces import DataStore
    from storage.job import Ended
    from storage.rq_queue import RqQueue
    from storage.sweeper import Sweeper

log = structlog.get_logger()

_BATCH = 200
# Jobs that one call looks at beside the running ones.
_PAGE = 500
# Seconds.
_FULL_PASS = 600.0


class Jobs(Protocol):
    """What is done to a job (storage.redis_jobs.RedisJobs)."""

    def drain(self) -> int: ...
    def active(self, ids: Sequence[str]) -> set[str]: ...
    def finish(self, upload_id: str) -> bool: ...
    def end(self, upload_id: str, attempt: int, ended: Ended) -> bool: ...
    def redrive(self, upload_id: str) -> None: ...


class Reconciler:
    """Compare Redis with the journals and with RQ; every method blocks and raises StorageError."""

    def __init__(
        self, redis: Redis, queue: RqQueue, data: DataStore, sweeper: Sweeper, jobs: Jobs
    ) -> None:
        """Use a client that decodes responses."""
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis
        self._rq = queue
        self._data = data
        self._sweeper = sweeper
        self._jobs = jobs
        self._listed = 0
        self._full_pass_at = 0.0
        # Those behind their journals that somebody held, and who has this list.
        self._held: set[str] = set()
        self._name = secrets.token_hex(8)

    def reconcile(self) -> int:
        """Restore records and redrive jobs; return how many.

        Of the jobs it looks at all that run or failed in RQ and, from call to call, at the next of
        the rest.
        """
        with alone(self._redis, "reconcile") as mine:
            if not mine:
                return 0
            count = self._restore_all()
            for upload_id in self._lost():
                with one_by_one(upload_id):
                    self._jobs.redrive(upload_id)
                    count += 1
            self._jobs.drain()
        return count

    # --- jobs nobody will run

    @redis_errors()
    def _lost(self) -> list[str]:
        self._rq.bury_dead_workers()
        likely = self._rq.running() | self._rq.failed()
        page = self._redis.zrange(schema.JOBS, self._listed, self._listed + _PAGE - 1)
        self._listed = self._listed + _PAGE if len(page) == _PAGE else 0
        ids = sorted(likely | set(page))
        active = self._jobs.active(ids)
        waiting = self._rq.waiting() if active else set()
        # The outbox before RQ: what left it in between is found there.
        return [
            upload_id
            for upload_id in ids
            if upload_id in active
            and upload_id not in waiting
            and self._redis.zscore(schema.OUTBOX, upload_id) is None
            and self._rq.is_lost(upload_id)
        ]

    # --- records that Redis lacks or has from before

    def _restore_all(self) -> int:
        """Rebuild records from the journals after Redis was emptied or restarted, and at times."""
        run, checked = self._run_id()
        held, self._held = self._held, set()
        count = self._restore(held)
        # Nobody else takes this for compared: the list may die with this process.
        nearly = f"{run} but for those of {self._name}"
        doubt = checked not in {run, nearly}
        if doubt or time.monotonic() >= self._full_pass_at:
            try:
                count += self._compare_all(doubt=doubt)
            except DiskFailed as error:
                # What runs needs no list of what is there.
                log.warning("reconcile.no_listing", reason=str(error))
                return count
        compared = nearly if self._held else run
        if compared != checked:
            with redis_errors():
                self._redis.set(schema.CHECKED, compared)
        return count

    def _compare_all(self, *, doubt: bool) -> int:
        """Compare all that may lack something; where Redis itself is in `doubt`, just all."""
        ids, count = self._data.ids(), 0
        while batch := list(islice(ids, _BATCH)):
            # A snapshot of Redis may be older than any journal.
            count += self._restore(batch if doubt else self._incomplete(batch))
        self._full_pass_at = time.monotonic() + _FULL_PASS
        return count

    def _restore(self, ids: Iterable[str]) -> int:
        count = 0
        for upload_id in ids:
            with one_by_one(upload_id):
                count += self.restore(upload_id)
        return count

    @redis_errors()
    def _run_id(self) -> tuple[str, str | None]:
        return self._redis.info("server")["run_id"], self._redis.get(schema.CHECKED)

    @redis_errors()
    def _incomplete(self, ids: Sequence[str]) -> list[str]:
        """Return those whose record is missing, or does not say that all bytes are here."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for upload_id in ids:
                pipeline.hget(schema.upload_key(upload_id), "complete")
            answers = pipeline.execute()
        return [one for one, complete in zip(ids, answers, strict=True) if complete != "1"]

    def restore(self, upload_id: str) -> bool:
        """Let record and job say what the journal says; tell whether they did not."""
        try:
            upload, ended = self._data.recover(upload_id)
        except UploadGone:
            return self._drop(upload_id)
        except UploadNotFound:
            return False
        if upload.waiting:
            return self._wait_on(upload, ended)
        stored = self._store(upload, ended)
        raised = not stored and self._raise(upload)
        ends = upload.complete and not upload.partial and self._end(upload_id, ended)
        return stored or raised or ends

    @redis_errors()
    def _wait_on(self, final: Upload, ended: Ended | None) -> bool:
        """Let the drain look whether a final upload still has to wait for its parts."""
        self._redis.zadd(schema.OUTBOX, {final.id: time.time()})
        return self._store(final, ended)

    @redis_errors()
    def _store(self, upload: Upload, ended: Ended | None) -> bool:
        """Store a rebuilt record, unless there is one."""
        if self._redis.exists(schema.upload_key(upload.id)):
            return False
        self._data.settle(upload.id)
        return bool(call(self._redis, schema.STORE, *schema.store(upload, ended, time.time())))

    def _raise(self, upload: Upload) -> bool:
        """Say in a record what the journal says; while somebody writes he knows better."""
        with redis_errors():
            fields = self._redis.hgetall(schema.upload_key(upload.id))
        if not fields or not Upload.from_hash(fields).is_behind(upload):
            return False
        with left_alone(self._redis, upload.id) as token, redis_errors():
            if not token:
                # Or a lock came back with an older Redis, and whoever had it has let go since.
                self._held.add(upload.id)
                return False
            # Once more: whoever had the lock may have written.
            upload, _ = self._data.recover(upload.id)
            self._data.settle(upload.id)
            keys, args = schema.raise_to(upload, time.time(), f"{process_identity()}:{token}")
            raised = bool(call(self._redis, schema.RAISE, keys, args) == 1)
        if raised:
            log.warning("upload.raised", upload=upload.id, offset=upload.offset)
        return raised

    def _end(self, upload_id: str, ended: Ended | None) -> bool:
        if not self._jobs.active([upload_id]):
            return False
        if self._jobs.finish(upload_id):
            return True
        return ended is not None and self._jobs.end(upload_id, 0, ended)

    def _drop(self, upload_id: str) -> bool:
        """Drop the record of an upload that was removed, as its removal did."""
        with left_alone(self._redis, upload_id) as token:
            if token:
                self._sweeper.terminate(upload_id, token)
                return True
        self._sweeper.remember_tombstone(upload_id)
        return False
