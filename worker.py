"""Composition root of jobs: what RQ runs for a finished upload, and the worker that forks."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import structlog

from processing import engines, pipeline, spans
from processing.container import HEAD_SIZE, looks_like_still, looks_like_video
from processing.errors import (
    EmptyVideo,
    NotAVideo,
    ProcessingError,
    ReaderUnavailable,
    Unseekable,
)
from processing.findings import Findings
from processing.options import InvalidOption, Options
from processing.pipeline import Progress
from processing.read import EasyOcrOptions
from settings import Settings
from storage import attempt
from storage.attempt import Outcome, within
from storage.embedded import Embedded
from storage.errors import DiskFailed, StorageFull, StoreUnavailable
from storage.filestore import FileStore
from storage.foreman import Foreman, help_with
from storage.memory_limit import MemoryLimit
from storage.redis_jobs import Counts, RedisJobs
from storage.redis_server import examine
from storage.rq_worker import CrashAwareWorker
from storage.shares import Shares, Told, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processing.engines import Engine
    from processing.result import Analysis
    from storage.attempt import Report
    from storage.interfaces import DataStore
    from storage.shares import Work

log = structlog.get_logger()

# What `main` was given, for the jobs of its forks: options win over the environment.
_given: ContextVar[Settings] = ContextVar("settings")

# What a process has built for its job before there was one.
_built: ContextVar[Engine | None] = ContextVar("engine", default=None)

# Imported before the fork, so that a job need not; models are built in the child only.
_HEAVY = ("onnxruntime", "rapidocr", "open_image_models", "fast_plate_ocr")
# What another attempt would meet again.
_HOPELESS = (ProcessingError, InvalidOption)


def analyse(upload_id: str, plan: str = "") -> None:
    """Analyse a finished upload; RQ runs it by name, in a process of its own.

    With the digest of a `plan` help another worker that does so.
    """
    settings = _given.get(None) or Settings()
    cv2.setNumThreads(settings.analysis_threads)
    do(settings, upload_id, plan, lambda: _built.get() or choose_engine(settings))


def do(
    settings: Settings,
    upload_id: str,
    plan: str,
    engine: Callable[[], Engine],
    function: str = "worker.analyse",
) -> None:
    """Do as `analyse`, with an engine that is built when it is needed.

    `function` names who is to help.
    """
    data = FileStore(settings.upload_dir)
    jobs = RedisJobs.connect(redis_url(settings), data, settings, function)
    limit = memory_limit(settings)
    if plan:
        assist(upload_id, data, jobs, engine, plan=plan, limit=limit)
        return
    seconds = settings.analysis_segment_seconds
    run(upload_id, data, jobs, engine, limit=limit, segment_seconds=seconds)


def shared_out(settings: Settings) -> Settings:
    """Leave each of several processes its share of the cores, and one thread at least."""
    share = max(1, len(os.sched_getaffinity(0)) // settings.processes)
    threads = settings.analysis_threads
    if settings.processes > 1:
        threads = min(threads, share)
    return settings.model_copy(update={"analysis_threads": threads})


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
    *,
    limit: MemoryLimit | None = None,
    segment_seconds: float = 0.0,
) -> None:
    """Take one job to its end, as `storage.attempt.run` does.

    Longer videos are analysed in segments of so many seconds, 0 for none.
    """

    def analysis(report: Report) -> Outcome:
        _glance(upload_id, data)
        run = _Run(upload_id, data, partial(_tell, report), jobs, segment_seconds)
        found = within(limit or MemoryLimit(0), lambda: run.analysis(engine()))
        return Outcome(_document(upload_id, found), found.crops)

    attempt.run(upload_id, data, jobs, analysis, _HOPELESS)


def assist(
    upload_id: str,
    data: DataStore,
    jobs: RedisJobs,
    engine: Callable[[], Engine],
    *,
    plan: str,
    limit: MemoryLimit,
) -> None:
    """Help with a job that another worker runs, as `storage.attempt.assist` does."""

    def help_out() -> int:
        with Shares(data.directory).join(upload_id, plan) as work:
            if work is None:
                return 0
            return within(limit, partial(_help, upload_id, data, jobs, engine, work))

    attempt.assist(upload_id, data, help_out, _HOPELESS)


def _glance(upload_id: str, data: DataStore) -> None:
    """Find out what no decoder need see, before models are loaded; raise ProcessingError."""
    with data.read(upload_id) as video:
        head = video.read(HEAD_SIZE)
    if not head:
        raise EmptyVideo
    if not looks_like_video(head) and not looks_like_still(head):
        raise NotAVideo


def _tell(report: Report, progress: Progress) -> None:
    counts = Counts(
        done=progress.done_frames,
        total=progress.total_frames,
        plates=progress.unique_plates,
        detections=progress.total_detections,
    )
    report(counts, progress.texts)


def _document(upload_id: str, analysis: Analysis) -> dict[str, Any]:
    """Build the result (docs/results.md)."""
    document = {"job_id": upload_id, "finished_at": time.time(), **analysis.to_json()}
    for number, (plate, crop) in enumerate(zip(document["plates"], analysis.crops, strict=True)):
        # Relative to the address of the result.
        plate["image"] = f"plates/{number}/image" if crop else None
    return document


@dataclass(frozen=True, slots=True)
class _Run:
    """Analyse one upload; `segment_seconds` 0 stands for one pass."""

    upload_id: str
    data: DataStore
    tell: Callable[[Progress], None]
    jobs: RedisJobs
    segment_seconds: float

    def analysis(self, engine: Engine) -> Analysis:
        """Analyse it in segments, where that is wanted and possible, or in one pass."""
        log.info("job.reader", reader=engine.name, reason=engine.reason)
        upload, _ = self.data.recover(self.upload_id)
        options = Options.parse(upload.described)
        remarks: tuple[str, ...] = ()
        try:
            if found := self._in_segments(engine, options):
                return found
        except Unseekable as error:
            remarks = (f"The video was not analysed in segments: {error}",)
        except (StorageFull, DiskFailed) as error:
            log.warning("job.not_shared", reason=str(error))
        whole = self._in_one_pass(engine, options)
        return replace(whole, warnings=(*remarks, *whole.warnings))

    def _in_one_pass(self, engine: Engine, options: Options) -> Analysis:
        with self.data.read(self.upload_id) as video:
            return pipeline.analyse(
                video,
                engine.detector,
                engine.reader,
                self.tell,
                every=options.frame_skip,
                min_confidence=options.min_confidence,
                region=engine.region,
                max_pixels=engine.max_pixels,
                reason=engine.reason,
            )

    def _in_segments(self, engine: Engine, options: Options) -> Analysis | None:
        """Do it together with whoever has nothing else to do; None for a video too short."""
        started = time.perf_counter()
        plan = self._plan(engine, options)
        if plan is None:
            return None
        document = json.dumps(plan.to_json(), sort_keys=True).encode()
        with Shares(self.data.directory).begin(self.upload_id, document) as work:
            log.info("job.shared", shares=len(plan.spans))
            brought = Foreman(
                work,
                [plan.length(number) for number in range(len(plan.spans))],
                _Share(self.upload_id, self.data, engine, plan),
                tell=partial(self._sum_up, plan),
                call=partial(self.jobs.call_helpers, self.upload_id, digest(document)),
            ).run()
        findings = [Findings.from_json(one) for one in brought]
        seconds = time.perf_counter() - started
        return spans.merged(findings, plan, engine, options, seconds=seconds)

    def _plan(self, engine: Engine, options: Options) -> spans.Plan | None:
        if not self.segment_seconds:
            return None
        with self.data.read(self.upload_id) as video:
            return spans.plan(video, engine, options, self.segment_seconds)

    def _sum_up(self, plan: spans.Plan, told: Told) -> None:
        count = len(told.texts)
        self.tell(Progress(told.done, plan.frames, count, told.detections, told.texts))


@dataclass(frozen=True, slots=True)
class _Share:
    """Analyse single spans of a video."""

    upload_id: str
    data: DataStore
    engine: Engine
    plan: spans.Plan

    def __call__(self, number: int, tell: Callable[[Told], None], /) -> dict[str, Any]:
        """Return the JSON of what one showed."""

        def told(progress: Progress) -> None:
            tell(Told(progress.done_frames, progress.total_detections, progress.texts))

        span = self.plan.spans[number]
        with self.data.read(self.upload_id) as video:
            found = spans.analyse_span(video, self.engine, self.plan.every, span, told)
        return found.to_json()


def _help(
    upload_id: str,
    data: DataStore,
    jobs: RedisJobs,
    engine: Callable[[], Engine],
    work: Work,
) -> int:
    try:
        plan = spans.Plan.from_json(json.loads(work.plan))
    except (ValueError, KeyError, TypeError):
        # Of another version of this program.
        return 0
    count = len(plan.spans)
    if jobs.upcoming(1) or all(work.is_begun(number) for number in range(count)):
        return 0
    built = engine()
    if spans.identity(built) != plan.engine:
        # What is read by another one does not go together.
        return 0
    share = _Share(upload_id, data, built, plan)
    return help_with(work, count, share, lambda: bool(jobs.upcoming(1)))


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
    settings = shared_out(settings)
    _given.set(settings)
    with _redis(settings) as revive:
        jobs = RedisJobs.connect(redis_url(settings), FileStore(settings.upload_dir), settings)
        # A GPU's memory is for who runs a job.
        prepare = None if settings.easyocr_gpu else partial(_build, settings)
        grace = settings.stop_grace_seconds
        CrashAwareWorker(jobs, revive, grace=grace, prepare=prepare).run()


def _build(settings: Settings) -> None:
    try:
        _built.set(choose_engine(settings))
    except ReaderUnavailable as error:
        # Each job would tell its client; who runs the worker hears of it before there is one.
        log.error("worker.no_reader", reason=str(error))  # noqa: TRY400  the sentence says it all


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
