"""Remove what is due: unfinished uploads, videos, and at last records and results.

The zset only says when to look. An unfinished upload is removed when its journal says so too, under
its lock, and nobody is interrupted for it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from storage import redis_schema as schema
from storage.errors import JournalDamaged, StoreUnavailable, UploadGone, UploadNotFound
from storage.job import JobState
from storage.redis_sync import LEASE, alone, call, left_alone, one_by_one, redis_errors
from storage.upload import Upload

if TYPE_CHECKING:
    from redis import Redis

    from storage.finals import Finals
    from storage.interfaces import DataStore
    from storage.rq_queue import RqQueue

log = structlog.get_logger()

_BATCH = 200
_ENDED = (JobState.COMPLETED, JobState.FAILED)
# Seconds. Not infinity: times must stay times for whoever formats them.
_FOR_EVER = 100 * 365 * 86400.0
_LOOK_AGAIN = 3600.0
# What expired so long ago is removed without a lock, where Redis gives none.
_SURELY = 60.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Say in seconds how long things stay after a job's end; -1 means for ever.

    While the video stays, its record and result stay too.
    """

    keep_uploads: float = 0
    keep_failed: float = 86_400
    result_ttl: float = 604_800

    def of(self, state: JobState, now: float) -> tuple[float, float]:
        """Return when the video is due and when record and result are."""
        keep = self.keep_uploads if state is JobState.COMPLETED else self.keep_failed
        due = now + (keep if keep >= 0 else _FOR_EVER)
        return due, max(due, now + self.result_ttl)


class Sweeper:
    """Remove what is due; every method blocks and raises StorageError."""

    def __init__(
        self, redis: Redis, queue: RqQueue, data: DataStore, retention: Retention, finals: Finals
    ) -> None:
        """Use a client that decodes responses."""
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis
        self._rq = queue
        self._data = data
        self._retention = retention
        self._finals = finals

    def sweep(self) -> int:
        """Remove what is due: unfinished uploads, videos, at last records and results."""
        try:
            with alone(self._redis, "sweep") as mine:
                return sum(self._sweep(one) for one in self._due()) if mine else 0
        except StoreUnavailable:
            self._make_room()
            raise

    @redis_errors()
    def _due(self, offset: int = 0) -> list[str]:
        due: list[str] = self._redis.zrange(
            schema.EXPIRING, "-inf", str(time.time()), byscore=True, offset=offset, num=_BATCH
        )
        return due

    def _make_room(self) -> None:
        """Remove the bytes that are surely due where Redis only reads: on a full disk, say."""
        offset = 0
        while due := self._due(offset):
            offset += len(due)
            for upload_id in due:
                with one_by_one(upload_id), suppress(UploadGone, UploadNotFound):
                    if self._unlocked(upload_id) and self._data.expire(
                        upload_id, time.time() - _SURELY
                    ):
                        log.info("upload.expired", upload=upload_id)

    @redis_errors()
    def _unlocked(self, upload_id: str) -> bool:
        return not self._redis.exists(schema.lock_key(upload_id))

    def _sweep(self, upload_id: str) -> bool:
        with one_by_one(upload_id):
            return self.look(upload_id)
        self._look_again(upload_id, _LOOK_AGAIN)
        return False

    def look(self, upload_id: str) -> bool:
        """Remove of one upload what is due; tell whether that was anything."""
        record, state = self._record(upload_id)
        if record is None:
            return self._sweep_tombstone(upload_id)
        if record.waiting:
            return self._wait_on(upload_id)
        if record.perishable:
            return self._expire(record)
        if state not in _ENDED:
            self._look_again(upload_id, _LOOK_AGAIN)
            return False
        if record.expires_at <= time.time():
            return self._forget(upload_id)
        self._data.remove_bytes(upload_id)
        self._look_again(upload_id, record.expires_at - time.time())
        return True

    @redis_errors()
    def _wait_on(self, final_id: str) -> bool:
        # It goes with its parts: should that have been missed, the drain sees it.
        self._redis.zadd(schema.OUTBOX, {final_id: time.time()})
        self._look_again(final_id, _LOOK_AGAIN)
        return False

    def _sweep_tombstone(self, upload_id: str) -> bool:
        with suppress(JournalDamaged):
            try:
                self._data.recover(upload_id)
            except (UploadGone, UploadNotFound):
                return self._forget(upload_id)
        # Its record is rebuilt by the reconciler.
        self._look_again(upload_id, _LOOK_AGAIN)
        return False

    def _expire(self, record: Upload) -> bool:
        """Remove an unfinished or partial upload under its lock, if its journal says it is due."""
        with left_alone(self._redis, record.id) as token:
            if not token:
                self._look_again(record.id, LEASE)
                return False
            expires_at = self._journal_expiry(record)
            if expires_at > time.time():
                self._look_again(record.id, expires_at - time.time())
                return False
            if record.partial:
                self._finals.take(record.id)
            self._data.remove(record.id)
            self.terminate(record.id, token)
        log.info("upload.expired", upload=record.id)
        return True

    def _journal_expiry(self, record: Upload) -> float:
        try:
            return self._data.recover(record.id)[0].expires_at
        except UploadGone:
            return 0.0
        except (JournalDamaged, UploadNotFound):
            return record.expires_at

    @redis_errors()
    def terminate(self, upload_id: str, token: int) -> None:
        """Drop the record of an upload that was removed; its job is cancelled."""
        now = time.time()
        built = schema.terminate(upload_id, token, now, now + self._retention.result_ttl)
        call(self._redis, schema.TERMINATE, *built)

    @redis_errors()
    def remember_tombstone(self, upload_id: str) -> None:
        """Let the tombstone of an upload without a record be forgotten one day."""
        due = time.time() + self._retention.result_ttl
        self._redis.zadd(schema.EXPIRING, {upload_id: due}, nx=True)

    def _forget(self, upload_id: str) -> bool:
        # Files first: dying in between, the rest is still due.
        self._data.purge(upload_id)
        self.forget_record(upload_id)
        return True

    @redis_errors()
    def forget_record(self, upload_id: str) -> None:
        """Drop every trace of an upload from Redis; its files are not touched."""
        self._rq.delete(upload_id)
        keys = (*schema.pair(upload_id), schema.EXPIRING, schema.OUTBOX, schema.JOBS)
        call(self._redis, schema.FORGET, keys, (upload_id, time.time()))

    @redis_errors()
    def _record(self, upload_id: str) -> tuple[Upload | None, str | None]:
        fields = self._redis.hgetall(schema.upload_key(upload_id))
        state = self._redis.hget(schema.job_key(upload_id), "state")
        return (Upload.from_hash(fields) if fields else None), state

    @redis_errors()
    def _look_again(self, upload_id: str, seconds: float) -> None:
        self._redis.zadd(schema.EXPIRING, {upload_id: time.time() + seconds})
