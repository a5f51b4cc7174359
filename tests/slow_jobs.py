"""Jobs that take their time, or end badly, for tests that kill: RQ runs them by name.

They are `worker.analyse` with another engine: the pipeline, the stores and the worker are real.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

import worker
from processing.calibrate import Calibration
from processing.crop import View
from processing.detect import Candidate
from processing.engines import Engine
from processing.result import Text
from settings import Settings
from storage import shares
from storage.filestore import FileStore
from storage.linux import die_with
from storage.redis_jobs import RedisJobs
from storage.rq_worker import CrashAwareWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from processing.result import Box
    from processing.video import Image

TEXT = "AB12CDE"
SECONDS_A_FRAME = 0.1


class StillDetector:
    """Find one plate at the same place in every frame, after `pause`."""

    name = "still"
    versions: dict[str, str] = {}  # noqa: RUF012  as the protocol has it
    keyframes = 0

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        """Take a while."""
        del image
        self._pause()
        return [Candidate(((10, 10), (60, 10), (60, 25), (10, 25)), 0.9)]


class SureReader:
    """Read the same text from everything."""

    name = "sure"
    versions: dict[str, str] = {}  # noqa: RUF012
    views = (View(),)
    calibration = Calibration()

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read without looking."""
        return [Text(TEXT, 0.9) for _ in crops]


def engine(pause: Callable[[], None]) -> Engine:
    """Return an engine that does this before each frame."""
    return Engine(StillDetector(pause), SureReader(), "still", "a test asked for it")


def slowly(upload_id: str, plan: str = "") -> None:
    """Analyse at ten frames a second."""
    _run(upload_id, plan, lambda: time.sleep(SECONDS_A_FRAME))


def briskly(upload_id: str, plan: str = "") -> None:
    """Analyse at fifty frames a second."""
    _run(upload_id, plan, lambda: time.sleep(SECONDS_A_FRAME / 5))


def fatally(upload_id: str, plan: str = "") -> None:
    """Be killed in the first frame."""
    _run(upload_id, plan, lambda: os.kill(os.getpid(), signal.SIGKILL))


def wrongly(upload_id: str, plan: str = "") -> None:
    """Raise what nobody expects."""
    _run(upload_id, plan, _raise)


def greedily(upload_id: str, plan: str = "") -> None:
    """Take ever more memory."""
    taken: list[bytes] = []
    _run(upload_id, plan, lambda: taken.append(bytes(2**28)))


def _raise() -> None:
    raise LookupError("AB12CDE is not for clients")


def _run(upload_id: str, plan: str, pause: Callable[[], None]) -> None:
    name = sys._getframe(1).f_code.co_name
    function = f"tests.slow_jobs.{name}"
    worker.do(worker._given.get(), upload_id, plan, lambda: engine(pause), function)


def held(upload_id: str, plan: str = "") -> None:
    """Analyse quickly, but stand at each frame while there is a file `hold`."""
    hold = worker._given.get().upload_dir / "hold"

    def wait() -> None:
        while hold.exists():
            time.sleep(SECONDS_A_FRAME)

    _run(upload_id, plan, wait)


def main() -> None:
    """Work on jobs of that name until a signal asks to stop; in so many processes, or in one."""
    directory, url, name, *count = sys.argv[1:]
    settings = Settings(upload_dir=Path(directory), redis_url=url)
    shares._STALLED = float(os.environ.get("TEST_STALLED_SECONDS", shares._STALLED))
    worker._given.set(settings)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parent = os.getpid()
    for _ in range(int(*count) if count else 0):
        if not os.fork():
            die_with(parent)
            _work(settings, name)
            os._exit(0)
    if not count:
        _work(settings, name)
    while count:
        os.wait()


def _work(settings: Settings, name: str) -> None:
    data = FileStore(settings.upload_dir)
    function = f"tests.slow_jobs.{name}"
    jobs = RedisJobs.connect(worker.redis_url(settings), data, settings, function)
    grace = settings.stop_grace_seconds
    note = partial(_note_pid, settings.upload_dir)
    prepare = note if "TEST_PREPARE" in os.environ else None
    CrashAwareWorker(jobs, lambda: None, grace=grace, prepare=prepare).run()


def _note_pid(directory: Path) -> None:
    (directory / f"ready-{os.getpid()}").touch()
