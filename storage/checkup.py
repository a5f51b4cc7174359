"""What is amiss between UPLOAD_DIR, Redis and RQ, and its cures: for the doctor and the server.

To examine changes nothing. A cure looks again before it does anything, under the same locks as
everybody, so both may be done while servers and workers run. What no program can decide has none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from storage import redis_schema as schema
from storage import traces
from storage.errors import (
    DiskFailed,
    JournalDamaged,
    RecordTooNew,
    StoreUnavailable,
    UploadGone,
    UploadNotFound,
)
from storage.orphans import ID, Orphans, missing
from storage.redis_sync import alone, call, one_by_one, redis_errors, release, surely_dead
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis import Redis

    from storage.interfaces import DataStore
    from storage.job import Ended
    from storage.orphans import Orphan
    from storage.reconciler import Reconciler
    from storage.rq_queue import RqQueue
    from storage.sweeper import Sweeper
    from storage.traces import Traces

log = structlog.get_logger()

# Seconds. The sweeper may be a little late.
_LATE = 60.0
_UNREADABLE = (ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe one thing that is amiss.

    `name` is an upload's id or a file, `cure` says in a participle what `mend` does, which tells
    False where nothing was to be done any more or somebody is at work. Without `mend` a person has
    to act, and `cure` says how.
    """

    kind: str
    name: str
    what: str
    cure: str
    mend: Callable[[], bool] | None = None


class Jobs(Protocol):
    """What is asked and done of jobs (storage.redis_jobs.RedisJobs)."""

    def redrive(self, upload_id: str) -> None: ...


class Checkup:
    """Find what is amiss, and mend it; every method blocks and raises StorageError."""

    def __init__(
        self,
        redis: Redis,
        queue: RqQueue,
        *,
        data: DataStore,
        sweeper: Sweeper,
        reconciler: Reconciler,
        jobs: Jobs,
    ) -> None:
        """Use a client that decodes responses."""
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis
        self._rq = queue
        self._data = data
        self._sweeper = sweeper
        self._reconciler = reconciler
        self._jobs = jobs
        self._orphans = Orphans(data.directory)

    def mend(self) -> int:
        """Mend what can be found without reading every journal; return how much it was."""
        with alone(self._redis, "checkup") as mine:
            if not mine:
                return 0
            try:
                return sum(self._mended(finding) for finding in self.examine(thorough=False))
            except DiskFailed as error:
                log.warning("checkup.no_listing", reason=str(error))
        return 0

    def _mended(self, finding: Finding) -> bool:
        with one_by_one(finding.name):
            if finding.mend is not None and finding.mend():
                log.warning("checkup.mended", name=finding.name, what=finding.what)
                return True
        return False

    def examine(self, *, thorough: bool) -> Iterator[Finding]:
        """Yield what is amiss, and change nothing; `thorough` reads every journal."""
        # Redis first: a creation tells it last, so what is known there has its journal by now.
        known = traces.known(self._redis)
        ids = known.ids | self._queued()
        journals = sorted(self._data.ids())
        yield from map(self._orphan, self._orphans.find())
        yield from self._without_journal(sorted(ids.difference(journals)))
        yield from self._of_the_dead(known.locks)
        yield from self._awaited_by_nobody(known.awaited)
        yield from self._all(journals) if thorough else self._some(journals)

    # --- files without a journal

    def _orphan(self, orphan: Orphan) -> Finding:
        what = f"{orphan.why} ({orphan.size} bytes)"
        return Finding("file", orphan.name, what, "removed", partial(self._orphans.remove, orphan))

    # --- Redis without a journal

    @redis_errors()
    def _queued(self) -> set[str]:
        # The queue may carry others' jobs too.
        return {one for one in self._rq.ids() if ID.fullmatch(one)}

    def _without_journal(self, ids: Sequence[str]) -> Iterator[Finding]:
        what = "Redis knows it, but it has no journal in UPLOAD_DIR"
        cure = "removed from Redis and from the queue"
        for upload_id, found in traces.of(self._redis, ids):
            # That it was removed is told until the sweeper forgets it.
            told = found.state == "cancelled" and found.due is not None and not found.record
            if not told:
                yield Finding("record", upload_id, what, cure, partial(self._forget, upload_id))

    def _forget(self, upload_id: str) -> bool:
        try:
            self._data.recover(upload_id)
        except UploadNotFound:
            if not self._is_locked(upload_id):
                self._sweeper.forget_record(upload_id)
                return True
        except UploadGone:
            pass
        return False

    @redis_errors()
    def _is_locked(self, upload_id: str) -> bool:
        return bool(self._redis.exists(schema.lock_key(upload_id)))

    # --- locks of the dead

    def _of_the_dead(self, locks: Sequence[str]) -> Iterator[Finding]:
        for name in locks:
            with redis_errors():
                value = str(self._redis.get(schema.lock_key(name)) or "")
            if surely_dead(value.rpartition(":")[0]):
                what = "a process that has died holds its lock"
                yield Finding("lock", name, what, "freed", partial(self._free, name, value))

    def _free(self, name: str, value: str) -> bool:
        release(self._redis, name, value)
        return True

    # --- parts that nobody waits for

    def _awaited_by_nobody(self, parts: Sequence[str]) -> Iterator[Finding]:
        for part_id in parts:
            with redis_errors():
                finals = sorted(self._redis.smembers(schema.finals_key(part_id)))
            for final_id, found in traces.of(self._redis, finals):
                if not found.record or found.record.get("complete") == "1":
                    what = f"it waits no more for its part {part_id}, Redis says it does"
                    mend = partial(self._wait_no_more, part_id, final_id)
                    yield Finding("record", final_id, what, "removed from those that wait", mend)

    @redis_errors()
    def _wait_no_more(self, part_id: str, final_id: str) -> bool:
        return bool(self._redis.srem(schema.finals_key(part_id), final_id))

    # --- journals, as far as Redis and a list of files tell

    def _some(self, journals: Sequence[str]) -> Iterator[Finding]:
        with_bytes = self._orphans.uploads_with_bytes()
        with_crops = self._orphans.uploads_with_crops()
        for upload_id, found in traces.of(self._redis, journals):
            left = upload_id in with_bytes or (not found.record and upload_id in with_crops)
            if found.record and found.due is None:
                yield self._unwatched(upload_id)
            elif left and self._is_removed(upload_id):
                yield self._half_removed(upload_id)

    def _is_removed(self, upload_id: str) -> bool:
        with one_by_one(upload_id):
            try:
                self._data.recover(upload_id)
            except UploadGone:
                return True
            except UploadNotFound:
                return False
        return False

    def _unwatched(self, upload_id: str) -> Finding:
        what = "nothing would ever look whether its time is over"
        mend = partial(self._watch, upload_id)
        return Finding("expiry", upload_id, what, "listed to be looked at", mend)

    def _watch(self, upload_id: str) -> bool:
        try:
            upload, ended = self._data.recover(upload_id)
        except (UploadGone, UploadNotFound):
            return self._reconciler.restore(upload_id)
        with redis_errors():
            # What a job's end left in the record counts where the disk took no line of it.
            told = self._redis.hget(schema.upload_key(upload_id), "expires_at")
            due = ended.due if ended else float(told or upload.expires_at)
            return bool(self._redis.zadd(schema.EXPIRING, {upload_id: due}, nx=True))

    def _half_removed(self, upload_id: str) -> Finding:
        what = "it was removed, but not all of its files"
        mend = partial(self._remove_rest, upload_id)
        return Finding("file", upload_id, what, "removed", mend)

    def _remove_rest(self, upload_id: str) -> bool:
        if self._is_removed(upload_id):
            self._data.remove(upload_id)
            self._reconciler.restore(upload_id)
            return True
        return False

    # --- journals, each read whole

    def _all(self, journals: Sequence[str]) -> Iterator[Finding]:
        with_bytes = self._orphans.uploads_with_bytes() | self._orphans.uploads_with_crops()
        for upload_id in journals:
            # One by one: what was read long ago Redis may have learnt since.
            [(_, found)] = traces.of(self._redis, [upload_id])
            try:
                yield from self._of_journal(upload_id, found, has_bytes=upload_id in with_bytes)
            except StoreUnavailable:
                raise
            except UploadNotFound:
                # It was forgotten meanwhile.
                continue
            except RecordTooNew as error:
                yield Finding("journal", upload_id, str(error), "upgrade tusd-py")
            except (DiskFailed, JournalDamaged, *_UNREADABLE) as error:
                yield _damaged(upload_id, error)

    def _of_journal(self, upload_id: str, found: Traces, *, has_bytes: bool) -> Iterator[Finding]:
        try:
            upload, ended = self._data.recover(upload_id)
        except UploadGone:
            yield from self._of_tombstone(upload_id, found, has_bytes=has_bytes)
            return
        result = self._data.result(upload_id) is not None
        over = result or ended is not None
        expired = upload.perishable and upload.expires_at < time.time() - _LATE
        if lacking := None if over or upload.waiting else self._lacking(upload):
            yield _lost_bytes(upload, lacking)
        if expired and not found.locked:
            yield self._expired(upload, found)
        elif finding := self._of_record(upload, found, over=over):
            yield finding
        elif found.due is None:
            yield self._unwatched(upload_id)

    def _lacking(self, upload: Upload) -> str | None:
        lacking = missing(self._data.directory, upload)
        # It may have been removed, or ended, since its journal was read.
        if lacking and self._data.recover(upload.id) == (upload, None):
            return lacking
        return None

    def _of_tombstone(self, upload_id: str, found: Traces, *, has_bytes: bool) -> Iterator[Finding]:
        if has_bytes or self._data.result(upload_id) is not None:
            yield self._half_removed(upload_id)
        elif found.record or found.listed:
            what = "it was removed, but Redis has it still"
            mend = partial(self._bury, upload_id)
            yield Finding("record", upload_id, what, "removed from Redis", mend)
        elif found.due is None:
            what = "it was removed, but nothing would ever forget that"
            mend = partial(self._remember, upload_id)
            yield Finding("expiry", upload_id, what, "listed to be forgotten", mend)

    def _bury(self, upload_id: str) -> bool:
        self._reconciler.restore(upload_id)
        with redis_errors():
            if self._redis.exists(schema.upload_key(upload_id)):
                return False
            for zset in (schema.OUTBOX, schema.JOBS):
                self._redis.zrem(zset, upload_id)
            self._rq.delete(upload_id)
        return True

    def _remember(self, upload_id: str) -> bool:
        self._sweeper.remember_tombstone(upload_id)
        return True

    def _expired(self, upload: Upload, found: Traces) -> Finding:
        what = f"it expired {_ago(upload.expires_at)} ago"
        mend = partial(self._expire, upload.id, known=bool(found.record))
        return Finding("expiry", upload.id, what, "removed", mend)

    def _expire(self, upload_id: str, *, known: bool) -> bool:
        if not known:
            self._reconciler.restore(upload_id)
        return self._sweeper.look(upload_id)

    def _of_record(self, upload: Upload, found: Traces, *, over: bool) -> Finding | None:
        """Return what is amiss with record and job of an upload that is here."""
        if not found.record:
            return self._restorable(upload, "Redis has no record of it")
        try:
            record = Upload.from_hash(found.record)
        except _UNREADABLE:
            return self._restorable(upload, "its record in Redis cannot be read", anew=True)
        # Who writes it knows better.
        if record.is_behind(upload) and not found.locked:
            return self._restorable(upload, f"Redis knows of {record.offset} bytes only")
        return None if upload.partial else self._of_job(upload, found, over=over)

    def _restorable(self, upload: Upload, what: str, *, anew: bool = False) -> Finding:
        mend = self._rebuild if anew else self._reconciler.restore
        cure = "restored from its journal"
        return Finding("record", upload.id, what, cure, partial(mend, upload.id))

    def _rebuild(self, upload_id: str) -> bool:
        """Store the record anew, under a token that is no lower."""
        upload, ended = self._data.recover(upload_id)
        with redis_errors():
            if self._redis.exists(schema.lock_key(upload_id)):
                return False
            token = str(self._redis.hget(schema.upload_key(upload_id), "token"))
            self._redis.delete(schema.upload_key(upload_id))
            return self._store(upload, ended, int(token) if token.isdecimal() else 0)

    def _store(self, upload: Upload, ended: Ended | None, token: int) -> bool:
        raised = replace(upload, token=max(token, upload.token))
        return bool(call(self._redis, schema.STORE, *schema.store(raised, ended, time.time())))

    def _of_job(self, upload: Upload, found: Traces, *, over: bool) -> Finding | None:
        if found.state is None:
            return self._restorable(upload, "Redis has no job of it", anew=True)
        if not upload.complete or found.state not in schema.ACTIVE:
            return None
        if over:
            mend = partial(self._reconciler.restore, upload.id)
            return Finding("job", upload.id, "it has ended, Redis says it waits", "ended", mend)
        if found.waits or not self._is_lost(upload.id):
            return None
        redrive = partial(self._redrive, upload.id)
        return Finding("job", upload.id, "it waits, but in no queue", "put into the queue", redrive)

    @redis_errors()
    def _is_lost(self, upload_id: str) -> bool:
        return self._rq.is_lost(upload_id)

    def _redrive(self, upload_id: str) -> bool:
        self._jobs.redrive(upload_id)
        return True


def _damaged(upload_id: str, error: Exception) -> Finding:
    reason = str(error) if isinstance(error, DiskFailed | JournalDamaged) else repr(error)
    return Finding(
        "journal",
        upload_id,
        f"its journal cannot be read: {reason}",
        f"put {upload_id}.log back from a backup, or remove the files of this upload",
    )


def _lost_bytes(upload: Upload, lacking: str) -> Finding:
    return Finding(
        "data",
        upload.id,
        f"bytes that were acknowledged are missing: {lacking}",
        "put its files back from a backup, or remove the upload with DELETE",
    )


def _ago(then: float) -> str:
    seconds = time.time() - then
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
