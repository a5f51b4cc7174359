"""Processes of one parent, which starts again what dies, and ends them all.

Each has a pipe to the parent: a byte in it says that it serves, its end that it has died, however
it died. A child dies with its parent, so that no orphan keeps the port.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import structlog

from storage.linux import die_with
from tusd_py.cli import CommandError, Exit, Stopped, stop_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds. What dies at once is started again later and later, until it has lived for a while.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_LIVED = 30.0


@dataclass(slots=True, eq=False)
class _Worker:
    """One of the processes; `pid` is 0 while it is not there, `due` says when to start it then."""

    number: int
    pid: int = 0
    pipe: int = -1
    serves: bool = False
    begun: float = 0.0
    deaths: int = 0
    due: float = 0.0


class Workers:
    """Run `work` in so many processes until a signal asks to stop."""

    def __init__(
        self, count: int, work: Callable[[int, Callable[[], object]], object], *, grace: float
    ) -> None:
        """`work` is told its number, from 0, and what to call once it serves.

        It has `grace` seconds to end after SIGTERM. It runs in forks of this process, which may
        have no other threads.
        """
        self._work = work
        self._grace = grace
        self._workers = [_Worker(number) for number in range(count)]
        # Not epoll, which a child would share.
        self._selector = selectors.PollSelector()

    def run(self, serving: Callable[[], object], stopping: Callable[[], object]) -> None:
        """Call `serving` once all serve, `stopping` before they are to end.

        Raises:
            Stopped: a signal asked for it, and all have ended.
            CommandError: one ended before all served.
        """
        # What is here by now is shared, as long as nobody touches it to look for garbage.
        gc.freeze()
        with closing(self._selector), _asked() as asked:
            self._selector.register(asked, selectors.EVENT_READ)
            try:
                self._watch(serving)
            finally:
                self._selector.unregister(asked)
                stopping()
                self._end()

    def _watch(self, serving: Callable[[], object]) -> None:
        for worker in self._workers:
            self._start(worker)
        while not all(worker.serves for worker in self._workers):
            for _, cause in self._hear(None):
                raise CommandError(f"A process could not begin: {cause}", Exit.STARTUP)
        serving()
        while True:
            for worker, cause in self._hear(self._start_due()):
                _put_off(worker, cause)

    def _start_due(self) -> float | None:
        """Start again those whose time has come; return in how many seconds it comes for others."""
        now = time.monotonic()
        absent = [worker for worker in self._workers if not worker.pid]
        for worker in absent:
            if worker.due <= now:
                self._start(worker)
        return min((worker.due - now for worker in absent if not worker.pid), default=None)

    def _start(self, worker: _Worker) -> None:
        worker.pipe, end = os.pipe()
        parent = os.getpid()
        # No signal may come before it can heed it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        worker.pid = os.fork()
        if not worker.pid:
            _be_child(parent, partial(self._work, worker.number, partial(os.write, end, b"1")))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(end)
        worker.begun = time.monotonic()
        self._selector.register(worker.pipe, selectors.EVENT_READ, worker)

    def _hear(self, seconds: float | None) -> list[tuple[_Worker, str]]:
        """Wait for something to happen; return who died, and of what. Raise Stopped."""
        dead = []
        for key, _ in self._selector.select(seconds):
            worker = key.data
            if worker is None:
                raise Stopped
            if os.read(key.fd, 1):
                worker.serves = True
            else:
                dead.append((worker, self._bury(worker)))
        return dead

    def _bury(self, worker: _Worker) -> str:
        self._selector.unregister(worker.pipe)
        os.close(worker.pipe)
        _, status = os.waitpid(worker.pid, 0)
        worker.pid, worker.serves = 0, False
        return _cause(status)

    def _end(self) -> None:
        """Ask all to stop, and kill who does not."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + self._grace
        while self._pids and (left := deadline - time.monotonic()) > 0:
            self._hear(left)
        if self._pids:
            log.warning("worker.killed", pids=self._pids, reason="it did not end in time")
        self._signal(signal.SIGKILL)
        while self._pids:
            self._hear(None)

    @property
    def _pids(self) -> list[int]:
        return [worker.pid for worker in self._workers if worker.pid]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            # Whoever is dead is buried by us alone: the number is its own until then.
            os.kill(pid, number)


def _put_off(worker: _Worker, cause: str) -> None:
    """Say when one that died shall be started again."""
    now = time.monotonic()
    worker.deaths = 1 if now - worker.begun > _LIVED else worker.deaths + 1
    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (worker.deaths - 1))
    worker.due = now + pause
    log.warning("worker.died", cause=cause, again_in=pause)


def _be_child(parent: int, work: Callable[[], object]) -> NoReturn:
    code = int(Exit.FAILED)
    try:
        die_with(parent)
        signal.set_wakeup_fd(-1)
        stop_on(*_SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work()
        code = Exit.OK
    except Stopped:
        code = Exit.OK
    except SystemExit:
        # uvicorn has said why.
        code = Exit.STARTUP
    except Exception:
        log.exception("worker.broke")
    finally:
        # The parent's cleaning up is not the child's: it ends here.
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@contextmanager
def _asked() -> Iterator[int]:
    """Yield a descriptor that can be read once a signal has asked to stop."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    try:
        yield reading
    finally:
        # Whatever follows must not interrupt the cleaning up.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(reading)
        os.close(writing)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"it was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"it ended with code {os.waitstatus_to_exitcode(status)}"
