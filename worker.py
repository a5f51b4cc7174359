"""Composition root of jobs: what RQ runs for a finished upload, and the worker that forks."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from math import inf
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

import cv2
import structlog
from redis.exceptions import RedisError
from rq import Worker
from rq.exceptions import DequeueTimeout
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException
from rq.worker import WorkerStatus
from rq.worker_registration import get_keys

from processing import engines, pipeline
from processing.container import HEAD_SIZE, looks_like_still, looks_like_video
from processing.errors import EmptyVideo, NotAVideo, ProcessingError
from processing.options import InvalidOption, Options
from processing.read import EasyOcrOptions
from settings import Settings
from storage.embedded import Embedded, EmbeddedUnavailable
from storage.errors import (
    DiskFailed,
    RecordTooNew,
    StorageError,
    StorageFull,
    StoreUnavailable,
    UploadGone,
    UploadNotFound,
)
from storage.filestore import FileStore
from storage.linux import die_with
from storage.memory_limit import MemoryExhausted, MemoryLimit
from storage.redis_jobs import Cancelled, Counts, RedisJobs, Superseded
from storage.redis_locker import process_identity
from storage.redis_server import examine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rq import Queue
    from rq.executions import Execution
    from rq.job import Job

    from processing.engines import Engine
    from processing.pipeline import Progress
    from processing.result import Analysis
    from storage.interfaces import DataStore

    _Analyse = Callable[[str, DataStore, Callable[[Progress], None]], Analysis]

log = structlog.get_logger()

# What `main` was given, for the jobs of its forks: options win over the environment.
_given: ContextVar[Settings] = ContextVar("settings")

# Imported before the fork, so that a job need not; models are built in the child only.
_HEAVY = ("onnxruntime", "rapidocr", "open_image_models", "fast_plate_ocr")
# Seconds.
_PROGRESS = 0.1
_WAIT_FOR_JOB = 1
_HEARTBEAT = 2
_RECONCILE = 5.0
_SWEEP = 30.0
_AWAY = 1.0
# Without a heartbeat for so long, an execution counts as lost with its host.
_LEASE = 30
# A result waits so long for a Redis that is away or a disk that is full; then the run is put off.
_PATIENCE = 60.0
# What another attempt would meet again.
_HOPELESS = (
    ProcessingError,
    InvalidOption,
    UploadGone,
    UploadNotFound,
    JobTimeoutException,
    MemoryExhausted,
)
_EXHAUSTED = MemoryExhausted(
    "The analysis needs more memory than this server allows (JOB_MEMORY_BYTES)"
)
# What passes, and is nobody's crash.
_TROUBLES = (StoreUnavailable, StorageFull, DiskFailed)


def analyse(upload_id: str) -> None:
    """Analyse a finished upload; RQ runs it by name, in a process of its own."""
    settings = _given.get(None) or Settings()
    data = FileStore(settings.upload_dir)
    jobs = RedisJobs.connect(redis_url(settings), data, settings)
    cv2.setNumThreads(settings.analysis_threads)
    run(upload_id, data, jobs, lambda: choose_engine(settings), memory_limit(settings))


def memory_limit(settings: Settings) -> MemoryLimit:
    """Return what a job may take; the driver of a GPU reserves more than there is."""
    return MemoryLimit(0 if settings.easyocr_gpu else settings.job_memory_bytes)


def redis_url(settings: Settings) -> str:
    """Return where Redis is or, embedded, will be."""
    return settings.redis_url or Embedded(settings.upload_dir / "redis").url


def choose_engine(settings: Settings) -> Engine:
    """Build detector and reader; raise ReaderUnavailable."""
    easyocr = EasyOcrOptions(
        model_dir=settings.easyocr_model_dir,
        network_dir=settings.easyocr_model_dir and settings.easyocr_model_dir / "user_network",
        network=settings.easyocr_recog_network,
        gpu=settings.easyocr_gpu,
    )
    return engines.choose(
        settings.plate_reader,
        alpr_model_dir=settings.alpr_model_dir,
        plate_model_dir=settings.plate_model_dir,
        easyocr=easyocr,
        threads=settings.analysis_threads,
        region=settings.plate_region,
        max_pixels=settings.max_pixels,
    )


def run(
    upload_id: str,
    data: DataStore,
    jobs: RedisJobs,
    engine: Callable[[], Engine],
    limit: MemoryLimit | None = None,
) -> None:
    """Take one job to its end; it may have been begun, and even finished, before.

    Raises:
        StoreUnavailable: Redis went away and nothing could be told of it; another run follows.
    """
    with structlog.contextvars.bound_contextvars(job=upload_id, **_request(upload_id, data)):
        try:
            if jobs.finish(upload_id):
                log.info("job.was_finished")
                return
            _attempt(upload_id, data, jobs, partial(_within, limit or MemoryLimit(0), engine))
        except (Cancelled, Superseded) as error:
            log.info("job.dropped", reason=str(error))


def _request(upload_id: str, data: DataStore) -> dict[str, str]:
    """Return what the log shall say of the request that created the upload."""
    with suppress(StorageError):
        if request_id := data.look(upload_id).request_id:
            return {"request": request_id}
    return {}


def _attempt(upload_id: str, data: DataStore, jobs: RedisJobs, analyse: _Analyse) -> None:
    attempt = jobs.start(upload_id)
    log.info("job.started", attempt=attempt)
    try:
        _glance(upload_id, data)
        analysis = analyse(upload_id, data, _Reporter(jobs, upload_id, attempt))
    except _HOPELESS as error:
        # Another attempt would end alike.
        sentence = _sentence(error)
        _patiently(lambda: jobs.fail(upload_id, attempt, sentence))
        log.info("job.failed", reason=sentence)
        return
    except (Cancelled, Superseded, StoreUnavailable):
        raise
    except RecordTooNew as error:
        _put_off(upload_id, jobs, attempt, error)
        return
    except Exception as error:
        # What it says may hold a plate or a name.
        log.debug("job.raised", exc_info=True)
        again = jobs.died(upload_id, _reason(error))
        log.warning("job.crashed", reason=_reason(error), where=_where(error), again=again)
        return
    document = _document(upload_id, analysis)
    try:
        _patiently(lambda: jobs.complete(upload_id, document, analysis.crops))
    except _TROUBLES as error:
        _put_off(upload_id, jobs, attempt, error)
        return
    log.info("job.completed", frames=analysis.frames, plates=len(analysis.plates))


def _glance(upload_id: str, data: DataStore) -> None:
    """Find out what no decoder need see, before models are loaded; raise ProcessingError."""
    with data.read(upload_id) as video:
        head = video.read(HEAD_SIZE)
    if not head:
        raise EmptyVideo
    if not looks_like_video(head) and not looks_like_still(head):
        raise NotAVideo


def _put_off(upload_id: str, jobs: RedisJobs, attempt: int, obstacle: StorageError) -> None:
    log.warning("job.postponed", reason=str(obstacle))
    # If not even that can be said, it counts as lost with its worker.
    with suppress(StoreUnavailable):
        jobs.postpone(upload_id, attempt, str(obstacle))


def _document(upload_id: str, analysis: Analysis) -> dict[str, Any]:
    """Build the result (docs/results.md)."""
    document = {"job_id": upload_id, "finished_at": time.time(), **analysis.to_json()}
    for number, (plate, crop) in enumerate(zip(document["plates"], analysis.crops, strict=True)):
        # Relative to the address of the result.
        plate["image"] = f"plates/{number}/image" if crop else None
    return document


def _within(
    limit: MemoryLimit,
    engine: Callable[[], Engine],
    upload_id: str,
    data: DataStore,
    report: Callable[[Progress], None],
) -> Analysis:
    """Analyse within a limit of memory; raise MemoryExhausted too."""
    limit.impose()
    try:
        analysis = _analysis(upload_id, data, engine(), report)
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
    return analysis


def _analysis(
    upload_id: str, data: DataStore, engine: Engine, report: Callable[[Progress], None]
) -> Analysis:
    log.info("job.reader", reader=engine.name, reason=engine.reason)
    upload, _ = data.recover(upload_id)
    options = Options.parse(upload.described)
    with data.read(upload_id) as video:
        return pipeline.analyse(
            video,
            engine.detector,
            engine.reader,
            report,
            every=options.frame_skip,
            min_confidence=options.min_confidence,
            region=engine.region,
            max_pixels=engine.max_pixels,
            reason=engine.reason,
        )


def _reason(error: BaseException) -> str:
    # Its words may hold anything, but those of the store are ours.
    return (
        str(error) if isinstance(error, DiskFailed) else f"of an unexpected {type(error).__name__}"
    )


def _where(error: BaseException) -> str:
    """Name the lines of code that an error went through."""
    return ", ".join(f"{frame.name}:{frame.lineno}" for frame in extract_tb(error.__traceback__))


def _sentence(error: Exception) -> str:
    if isinstance(error, JobTimeoutException):
        return "The analysis took longer than this server allows (JOB_TIMEOUT_SECONDS)"
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

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PROGRESS
        counts = Counts(
            done=progress.done_frames,
            total=progress.total_frames,
            plates=progress.unique_plates,
            detections=progress.total_detections,
        )
        new = [text for text in progress.texts if text not in self._told]
        # The analysis needs no Redis: it goes on while that is away.
        with suppress(StoreUnavailable):
            self._jobs.progress(self._upload_id, self._attempt, counts, new)
            self._told.update(new)


class CrashAwareWorker(Worker):
    """Fork for each job, and see to it that every job ends whatever dies.

    The loop is our own, RQ's is left at the first error of Redis. There are no threads: the
    process forks. So RQ's commands (stop-job, kill-horse) are not listened to.
    """

    def __init__(self, jobs: RedisJobs, revive: Callable[[], None], *, grace: float = inf) -> None:
        """`revive` starts Redis when it is ours and does not answer; it may block.

        Asked to stop, it lets its job run on for `grace` seconds before it gives it back.
        """
        super().__init__(
            jobs.queue.queues,
            name=process_identity(),
            connection=jobs.queue.redis,
            serializer=JSONSerializer,
            job_monitoring_interval=_HEARTBEAT,
            worker_ttl=_LEASE,
            log_job_description=False,
            # Else it would need Redis here already.
            prepare_for_work=False,
        )
        self.hostname = socket.gethostname()
        self.pid = os.getpid()
        self._jobs = jobs
        self._revive = revive
        self._grace = grace
        self._stop_at = inf
        self._reachable = True
        self._reconcile_at = self._sweep_at = 0.0

    def run(self) -> None:
        """Work until asked to stop; a Redis that is away is waited for."""
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        try:
            while not self._stop_requested:
                try:
                    self._work_while_reachable()
                except (RedisError, StoreUnavailable) as error:
                    self._away(error)
        except SystemExit:
            self._hand_back()
        with suppress(RedisError):
            self.register_death()  # type: ignore[no-untyped-call]
        log.info("worker.stopped")

    def _work_while_reachable(self) -> None:
        # What is left of us from before Redis went away.
        self.executions.clear()
        self._register()
        log.info("worker.ready" if self._reachable else "redis.back", queues=self.queue_names())
        self._reachable = True
        while not self._stop_requested:
            self.set_state(WorkerStatus.IDLE)
            self.heartbeat()
            self._maintain()
            self._wait_for_job()

    def _register(self) -> None:
        # RQ takes what is left of this very process for another one of its name.
        self.connection.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]

    def _hand_back(self) -> None:
        """Let another worker run what the second signal killed here."""
        with suppress(StorageError, RedisError):
            for execution in self.executions.values():
                self._jobs.redrive(execution.job_id)
            self._jobs.drain()

    def _wait_for_job(self) -> None:
        # One queue at a time: RQ keeps only then a job in sight while it passes from queue to fork.
        # And so short that a signal needs not interrupt it: nothing is lost in between.
        taken = self._take(self.queues, None) if len(self.queues) > 1 else None
        taken = taken or self._take(self.queues[:1], _WAIT_FOR_JOB)
        if taken is not None:
            self.execute_job(*taken)
            self._jobs.forget_run(taken[0].id)

    def _take(self, queues: Sequence[Queue], seconds: int | None) -> tuple[Job, Queue] | None:
        """Take the first job of the first queue that has one, or wait for one so long."""
        for queue in queues:
            with suppress(DequeueTimeout):
                taken: tuple[Job, Queue] | None = self.queue_class.dequeue_any(
                    [queue],
                    seconds,
                    connection=self.connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                )
                if taken:
                    return taken
        return None

    def _maintain(self) -> None:
        """Do what the web processes do too, so that jobs flow without them."""
        now = time.monotonic()
        self._upkeep(self._jobs.drain)
        if now >= self._reconcile_at:
            # Whatever becomes of it: else the next turn would not get to the queue either.
            self._reconcile_at = now + _RECONCILE
            self._be_known()
            self._upkeep(self._jobs.reconcile)
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP
            self._upkeep(self._jobs.sweep)
            self._jobs.queue.forget_ended()

    def _be_known(self) -> None:
        """Register again where Redis was emptied meanwhile."""
        if self.key not in get_keys(self.queues[0]):
            self._register()

    def _upkeep(self, step: Callable[[], int]) -> None:
        try:
            step()
        except StorageError as error:
            # Should Redis be away, the queue will tell.
            log.warning("upkeep.failed", reason=str(error))
        except Exception:
            # One bad record must not keep the others from being analysed.
            log.exception("upkeep.failed")

    def _away(self, error: Exception) -> None:
        if self._reachable:
            log.warning("redis.away", reason=str(error))
        self._reachable = False
        try:
            self._revive()
        except EmbeddedUnavailable as unavailable:
            log.warning("redis.not_started", reason=str(unavailable))
        time.sleep(_AWAY)

    # --- what RQ calls

    def _shutdown(self) -> None:
        self._stop_requested = True
        self._stop_at = time.monotonic() + self._grace
        log.info("worker.stopping", running=bool(self.horse_pid))

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork a child that dies when this process does."""
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                # Else it would outlive the worker, and the job run twice.
                die_with(parent)
                os.setpgrp()
                self.main_work_horse(job, queue)
            finally:
                # Whatever happens, it must not go on as a second worker.
                os._exit(os.EX_SOFTWARE)
        self._horse_pid = child

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Say after how many seconds without a heartbeat an execution counts as lost."""
        del job, working_time
        return _LEASE

    def prepare_job_execution(
        self,
        job: Job,
        remove_from_intermediate_queue: bool = True,  # noqa: FBT001, FBT002  RQ's signature
    ) -> None:
        """Tell RQ that it runs; each job comes by way of its queue's intermediate one."""
        del remove_from_intermediate_queue
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Keep the execution ours; a Redis that is away stops no job.

        No upkeep is done meanwhile: one that takes long would let this lease run out, and the job
        would run twice.

        Raises:
            SystemExit: the job runs on beyond the grace of a stop.
        """
        if time.monotonic() > self._stop_at:
            log.warning("worker.grace_over", job=job.id)
            self.kill_horse()
            self.wait_for_horse()
            raise SystemExit
        try:
            super().maintain_heartbeats(job, execution)
            self._be_known()
        except (RedisError, StorageError):
            with suppress(EmbeddedUnavailable):
                self._revive()

    def handle_work_horse_killed(
        self, job: Job, retpid: int | None, ret_val: int | None, rusage: Any
    ) -> None:
        """Count a death that no Python code could see."""
        del retpid, rusage
        why = _cause(ret_val)
        log.warning("job.died", job=job.id, reason=why)
        if ret_val is None:
            self._jobs.fail(job.id, 0, _sentence(JobTimeoutException()))
        else:
            self._jobs.died(job.id, why)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log what nobody foresaw; what it says may hold a plate or a name."""
        log.error("job.raised", job=job.id, reason=_reason(exc_info[1]), where=_where(exc_info[1]))
        log.debug("job.raised", job=job.id, exc_info=exc_info)


def _cause(status: int | None) -> str:
    if status is None:
        return "it did not end in time"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        # What C++ does that gets no more memory.
        hint = ", as when memory runs out (JOB_MEMORY_BYTES)" if name == "SIGABRT" else ""
        return f"it was killed by {name}{hint}"
    return f"its process ended with code {os.waitstatus_to_exitcode(status)}"


def main(settings: Settings) -> int:
    """Work until SIGTERM or Ctrl-C; the second one does not wait for the running job.

    Raises:
        EmbeddedUnavailable: no private Redis can run here.
        DiskFailed: UPLOAD_DIR cannot be used.
        AnotherDirectory: this Redis belongs to another UPLOAD_DIR.
        ClusterRefused: this Redis is one of a cluster.
    """
    # Until the worker takes signals itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ready(settings):
        work(settings)
    return 0


@contextmanager
def ready(settings: Settings) -> Iterator[None]:
    """See that all is there that workers need, and keep the private Redis. Raises as `main`."""
    FileStore(settings.upload_dir).prepare()
    # Before the first fork: what is shared is there only once.
    _import(*_HEAVY, *(["easyocr"] if settings.plate_reader == "easyocr" else []))
    with _redis(settings):
        # One that is away is waited for, and looked at then.
        with suppress(StoreUnavailable):
            examine(redis_url(settings), settings.upload_dir)
        yield


def work(settings: Settings) -> None:
    """Work in this process until a signal asks to stop."""
    _given.set(settings)
    with _redis(settings) as revive:
        jobs = RedisJobs.connect(redis_url(settings), FileStore(settings.upload_dir), settings)
        CrashAwareWorker(jobs, revive, grace=settings.stop_grace_seconds).run()


@contextmanager
def _redis(settings: Settings) -> Iterator[Callable[[], None]]:
    """Keep the private Redis where none is named; yield what starts it again."""
    if settings.redis_url is not None:
        yield _nothing
        return
    with Embedded(settings.upload_dir / "redis") as embedded:
        yield embedded.ensure


def _nothing() -> None:
    """Leave a Redis that is not ours alone."""


def _import(*names: str) -> None:
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
