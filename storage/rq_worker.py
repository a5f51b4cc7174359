"""RQ's worker as we need it: it forks for each job, and every job ends whatever dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from functools import partial
from math import inf
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError
from rq import Worker
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus
from rq.worker_registration import get_keys

from storage.embedded import EmbeddedUnavailable
from storage.errors import DiskFailed, StorageError, StoreUnavailable
from storage.linux import die_with
from storage.redis_locker import process_identity
from storage.spare import Spare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rq import Queue
    from rq.job import Job

    from storage.redis_jobs import RedisJobs

log = structlog.get_logger()

TOO_LONG = "The analysis took longer than this server allows (JOB_TIMEOUT_SECONDS)"
# Seconds.
_WAIT_FOR_JOB = 1
_HEARTBEAT = 2
_RECONCILE = 5.0
_SWEEP = 30.0
_AWAY = 1.0
# Without a heartbeat for so long, an execution counts as lost with its host.
_LEASE = 30


class CrashAwareWorker(Worker):
    """Fork for each job, and see to it that every job ends whatever dies.

    The loop is our own, RQ's is left at the first error of Redis. There are no threads: the
    process forks. So RQ's commands (stop-job, kill-horse) are not listened to.
    """

    def __init__(
        self,
        jobs: RedisJobs,
        revive: Callable[[], None],
        *,
        grace: float = inf,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """`revive` starts Redis when it is ours and does not answer; it may block.

        Asked to stop, it lets its job run on for `grace` seconds before it gives it back. While
        there is nothing to do, a process calls `prepare` for the next job.
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
        self._spare = Spare(partial(self._get_ready, prepare), self._begin) if prepare else None

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
        if self._spare:
            self._spare.close()
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
        elif self._spare:
            # Not sooner: it would take its time from jobs that wait.
            self._spare.ensure()

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
        """Fork a child that dies when this process does, or take the one that is ready."""
        told = json.dumps([job.id, queue.name, *self.executions])
        if self._spare and (ready := self._spare.hand(told)):
            self._horse_pid = ready
            return
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

    def _get_ready(self, prepare: Callable[[], object]) -> None:
        self.setup_work_horse_signals()  # type: ignore[no-untyped-call]
        # What cannot be had now the job will tell.
        with suppress(Exception):
            prepare()

    def _begin(self, told: str) -> None:
        """Be the process of a job, as if forked for it."""
        job_id, queue_name, execution_id = json.loads(told)
        queue = next(one for one in self.queues if one.name == queue_name)
        job = self.job_class.fetch(job_id, connection=self.connection, serializer=self.serializer)
        self.execution = Execution(execution_id, job_id, self.connection, self.name)
        self.main_work_horse(job, queue)

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
            self._jobs.fail(job.id, 0, TOO_LONG)
        else:
            self._jobs.died(job.id, why)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log what nobody foresaw; what it says may hold a plate or a name."""
        log.error("job.raised", job=job.id, reason=reason(exc_info[1]), where=where(exc_info[1]))
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


def reason(error: BaseException) -> str:
    """Say why a run crashed, in words that anybody may read."""
    # Its words may hold anything, but those of the store are ours.
    return (
        str(error) if isinstance(error, DiskFailed) else f"of an unexpected {type(error).__name__}"
    )


def where(error: BaseException) -> str:
    """Name the lines of code that an error went through."""
    return ", ".join(f"{frame.name}:{frame.lineno}" for frame in extract_tb(error.__traceback__))
