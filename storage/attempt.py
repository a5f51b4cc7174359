"""One run of a job, taken to an end of its own whatever happens in it."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import structlog
from rq.timeouts import JobTimeoutException

from storage.errors import (
    DiskFailed,
    RecordTooNew,
    StorageError,
    StorageFull,
    StoreUnavailable,
    UploadGone,
    UploadNotFound,
)
from storage.memory_limit import MemoryExhausted
from storage.redis_jobs import Cancelled, Superseded
from storage.rq_worker import TOO_LONG, reason, where
from storage.shares import ShareGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from storage.interfaces import DataStore
    from storage.memory_limit import MemoryLimit
    from storage.redis_jobs import Counts, RedisJobs

T = TypeVar("T")
Report: TypeAlias = "Callable[[Counts, Sequence[str]], None]"

log = structlog.get_logger()

# Seconds.
_PROGRESS = 0.1
_AWAY = 1.0
# A result waits so long for a Redis that is away or a disk that is full; then the run is put off.
_PATIENCE = 60.0
# What another attempt would meet again.
_HOPELESS = (UploadGone, UploadNotFound, JobTimeoutException, MemoryExhausted)
_EXHAUSTED = MemoryExhausted(
    "The analysis needs more memory than this server allows (JOB_MEMORY_BYTES)"
)
# What passes, and is nobody's crash.
_TROUBLES = (StoreUnavailable, StorageFull, DiskFailed)


class Outcome(NamedTuple):
    """Hold a result, and the JPEG of each of its plates' best shots, empty for none."""

    document: Mapping[str, Any]
    crops: Sequence[bytes]


def run(
    upload_id: str,
    data: DataStore,
    jobs: RedisJobs,
    analyse: Callable[[Report], Outcome],
    hopeless: tuple[type[Exception], ...] = (),
) -> None:
    """Take one job to its end; it may have been begun, and even finished, before.

    Errors of `analyse` that are `hopeless` another run would meet again; what its report raises it
    shall let through.

    Raises:
        StoreUnavailable: Redis went away and nothing could be told of it; another run follows.
    """
    with _logged(upload_id, data):
        try:
            if jobs.finish(upload_id):
                log.info("job.was_finished")
                return
            _attempt(upload_id, jobs, analyse, (*_HOPELESS, *hopeless))
        except Cancelled as error:
            log.info("job.dropped", reason=str(error))
            data.forget_shares(upload_id)
        except (Superseded, ShareGone) as error:
            log.info("job.dropped", reason=str(error))


def assist(
    upload_id: str,
    data: DataStore,
    help_out: Callable[[], int],
    hopeless: tuple[type[Exception], ...] = (),
) -> None:
    """Help with a job that another worker runs; what fails here is left to that one."""
    ignored: tuple[type[Exception], ...] = (*_HOPELESS, *_TROUBLES, *hopeless, ShareGone)
    with _logged(upload_id, data):
        try:
            log.info("job.helped", shares=help_out())
        except ignored as error:
            log.info("job.not_helped", reason=_sentence(error))


def within(limit: MemoryLimit, step: Callable[[], T]) -> T:
    """Do a step within a limit of memory; raise MemoryExhausted too."""
    limit.impose()
    try:
        found = step()
    except (StorageError, JobTimeoutException):
        raise
    except Exception as error:
        if limit.reached() or _is_out_of_memory(error):
            raise _EXHAUSTED from error
        raise
    finally:
        limit.lift()
    if limit.reached():
        # Some libraries go on without what they could not have.
        raise _EXHAUSTED
    return found


@contextmanager
def _logged(upload_id: str, data: DataStore) -> Iterator[None]:
    """Name in each line of the log the job, and the request that created its upload."""
    names = {"job": upload_id}
    with suppress(StorageError):
        if request_id := data.look(upload_id).request_id:
            names["request"] = request_id
    with structlog.contextvars.bound_contextvars(**names):
        yield


def _attempt(
    upload_id: str,
    jobs: RedisJobs,
    analyse: Callable[[Report], Outcome],
    hopeless: tuple[type[Exception], ...],
) -> None:
    attempt = jobs.start(upload_id)
    log.info("job.started", attempt=attempt)
    try:
        outcome = analyse(_Reporter(jobs, upload_id, attempt))
    except hopeless as error:
        # Another attempt would end alike.
        sentence = _sentence(error)
        _patiently(lambda: jobs.fail(upload_id, attempt, sentence))
        log.info("job.failed", reason=sentence)
        return
    except (Cancelled, Superseded, ShareGone, StoreUnavailable):
        raise
    except RecordTooNew as error:
        _put_off(upload_id, jobs, attempt, error)
        return
    except Exception as error:
        # What it says may hold a plate or a name.
        log.debug("job.raised", exc_info=True)
        again = jobs.died(upload_id, reason(error))
        log.warning("job.crashed", reason=reason(error), where=where(error), again=again)
        return
    try:
        _patiently(lambda: jobs.complete(upload_id, *outcome))
    except _TROUBLES as error:
        _put_off(upload_id, jobs, attempt, error)
        return
    found = outcome.document
    log.info("job.completed", frames=found["frames"], plates=len(found["plates"]))


def _put_off(upload_id: str, jobs: RedisJobs, attempt: int, obstacle: StorageError) -> None:
    log.warning("job.postponed", reason=str(obstacle))
    # If not even that can be said, it counts as lost with its worker.
    with suppress(StoreUnavailable):
        jobs.postpone(upload_id, attempt, str(obstacle))


def _sentence(error: Exception) -> str:
    if isinstance(error, JobTimeoutException):
        return TOO_LONG
    return str(error)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "bad_alloc" in str(error)


def _patiently(step: Callable[[], None]) -> None:
    """Repeat an idempotent step while Redis is away or the disk is full, for a while."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return step()
        except _TROUBLES:
            if time.monotonic() > deadline:
                raise
            time.sleep(_AWAY)


class _Reporter:
    """Write progress not more often than anybody looks; raise Cancelled or Superseded."""

    def __init__(self, jobs: RedisJobs, upload_id: str, attempt: int) -> None:
        self._jobs = jobs
        self._upload_id = upload_id
        self._attempt = attempt
        self._next = 0.0
        self._told: set[str] = set()

    def __call__(self, counts: Counts, texts: Sequence[str]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PROGRESS
        new = [text for text in texts if text not in self._told]
        # The analysis needs no Redis: it goes on while that is away.
        with suppress(StoreUnavailable):
            self._jobs.progress(self._upload_id, self._attempt, counts, new)
            self._told.update(new)
