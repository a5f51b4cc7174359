"""A data directory with its Redis, the workers started there, and what tests see of their jobs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cv2
import numpy as np

from settings import Settings
from storage import redis_schema as schema
from storage import redis_sync
from storage.filestore import FileStore
from storage.job import Job, JobState
from storage.redis_jobs import RedisJobs
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
DEADLINE = 90.0
# Of the small video.
FRAMES = 20
SLOW = "from tests.slow_jobs import main; main()"
Worker = subprocess.Popen[str]


@dataclass(slots=True)
class Place:
    """A data directory with its Redis, and the workers started there."""

    directory: Path
    url: str
    workers: list[Worker] = field(default_factory=list)

    @property
    def data(self) -> FileStore:
        return FileStore(self.directory)

    @property
    def text(self) -> Any:
        return redis_sync.clients(self.url)[0]

    @property
    def settings(self) -> Settings:
        return Settings(upload_dir=self.directory, redis_url=self.url)

    @property
    def jobs(self) -> RedisJobs:
        return RedisJobs.connect(self.url, self.data, self.settings)

    def upload(self, content: bytes, metadata: str | None = None) -> str:
        """Leave a finished upload as the web side does; its job waits in the outbox."""
        now = time.time()
        upload = Upload(str(uuid4()), len(content), metadata, now, now + 3600)
        self.data.create(upload)
        writer = self.data.open(upload)
        writer.write([content])
        writer.commit(replace(upload, offset=len(content), complete=True))
        writer.close()
        self.jobs._reconciler.restore(upload.id)
        return upload.id

    def work(self, name: str = "slowly", *count: str) -> Worker:
        """Start a worker, or the parent of some, whose jobs are a function of tests.slow_jobs."""
        return self.start("-c", SLOW, str(self.directory), self.url, name, *count)

    def start(self, *arguments: str) -> Worker:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=env, text=True)
        self.workers.append(process)
        return process

    def job(self, upload_id: str) -> Job:
        return Job.from_hash(upload_id, self.text.hgetall(schema.job_key(upload_id)))

    def result(self, upload_id: str) -> dict[str, Any]:
        """Return the one result there is."""
        files = [path.name for path in (self.directory / "results").iterdir()]
        assert files == [f"{upload_id}.json"]
        document: dict[str, Any] = json.loads(self.data.result(upload_id) or b"")
        return document

    def terminate(self, upload_id: str) -> None:
        """Remove an upload as the web side does on DELETE."""
        self.data.remove(upload_id)
        token = self.text.hget(schema.upload_key(upload_id), "token")
        self.jobs._sweeper.terminate(upload_id, int(token or 0))


@contextlib.contextmanager
def opened(redis_url: str, directory: Path) -> Iterator[Place]:
    """Open a place, and end in the end what was started there."""
    found = Place(directory, redis_url)
    found.data.prepare()
    yield found
    for process in found.workers:
        process.kill()
        process.wait()


def small_video(path: Path) -> bytes:
    """Return a video of 20 frames, each of which is analysed."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 6.0, (96, 64))
    for index in range(FRAMES):
        writer.write(np.full((64, 96, 3), index * 10, np.uint8))
    writer.release()
    return path.read_bytes()


def wait_until(condition: Callable[[], object], within: float = DEADLINE) -> None:
    """Wait as long as it takes, within reason."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "this never came true"
        time.sleep(0.02)


def horses(process: Worker) -> list[int]:
    """Return the children of a worker: the process of its running job."""
    return children(process.pid)


def children(pid: int) -> list[int]:
    """Return the processes that one has started, none of one that is dead."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def processing(place: Place, upload_id: str) -> bool:
    """Tell whether a worker is past the first frames."""
    job = place.job(upload_id)
    return job.state is JobState.PROCESSING and job.done > 1


def completed(place: Place, upload_id: str) -> bool:
    """Tell whether the job has its result."""
    return place.job(upload_id).state is JobState.COMPLETED
