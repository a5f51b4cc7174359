"""One data directory and one Redis, for tests that look at both."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import redis.asyncio
from rq import Queue
from rq.executions import Execution
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from storage import redis_schema as schema
from storage import redis_sync
from storage.job import Job
from storage.redis_info import RedisInfoStore
from storage.redis_jobs import RedisJobs
from storage.redis_locker import process_identity
from storage.rq_queue import Lanes, RqQueue, TimeLimit
from storage.sweeper import Retention
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from redis import Redis

    from storage.filestore import FileStore

VIDEO = b"not really a video"
RESULT = {"frames": 7, "plates": [{"text": "AB12CDE"}], "detections": 5}
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Place:
    """One data directory and one Redis, as a process of ours sees them."""

    url: str
    data: FileStore
    directory: Path
    clients: list[Redis] = field(default_factory=list)

    def jobs(self, retention: Retention | None = None) -> RedisJobs:
        """Return the jobs as a new process sees them."""
        text, raw = redis_sync.clients(self.url)
        self.clients.extend((text, raw))
        queue = RqQueue(raw, Lanes.parse("tests"), "worker.analyse", TimeLimit(60))
        return RedisJobs(text, queue, self.data, retention or Retention())

    def close(self) -> None:
        """Close the clients of all jobs: they are part of a cycle, and go nobody knows when."""
        for client in self.clients:
            client.close()

    @property
    def text(self) -> Any:
        return redis_sync.clients(self.url)[0]

    @property
    def raw(self) -> Any:
        return redis_sync.clients(self.url)[1]

    @property
    def queue(self) -> Queue:
        return Queue("tests", connection=self.raw, serializer=JSONSerializer)

    def info(self, step: Callable[[RedisInfoStore], Awaitable[Any]]) -> Any:
        """Do what the web side does."""

        async def with_client() -> Any:
            async with redis.asyncio.Redis.from_url(self.url, decode_responses=True) as client:
                return await step(RedisInfoStore(client))

        return asyncio.run(with_client())

    def upload(
        self, *, complete: bool, expires_at: float | None = None, concat: str | None = None
    ) -> str:
        """Store an upload as the web side does, with all its bytes or half of them."""
        now = time.time()
        due = now + DAY if expires_at is None else expires_at
        upload = Upload(str(uuid4()), len(VIDEO), None, now, due, concat=concat)
        self.data.create(upload)
        self.info(lambda info: info.create(upload))
        writer = self.data.open(upload)
        writer.write([VIDEO if complete else VIDEO[:5]])
        stored = replace(upload, offset=writer.offset, complete=complete)
        writer.commit(stored)
        writer.close()
        self.info(lambda info: info.commit(stored, speed=0))
        return upload.id

    def terminate(self, upload_id: str) -> None:
        """Remove an upload as the web side does on DELETE."""
        self.data.remove(upload_id)
        record = self.record(upload_id)
        self.info(lambda info: info.terminate(record, time.time() + DAY))

    def job(self, upload_id: str) -> Job:
        return Job.from_hash(upload_id, self.text.hgetall(schema.job_key(upload_id)))

    def record(self, upload_id: str) -> Upload:
        return Upload.from_hash(self.text.hgetall(schema.upload_key(upload_id)))

    def dumped(self) -> dict[str, bytes]:
        """Take a snapshot of our keys."""
        return {key: self.raw.dump(key) for key in self.text.scan_iter("tusd:*")}

    def everything(self) -> dict[str, bytes]:
        """Take a snapshot of all keys, RQ's too."""
        return {key: self.raw.dump(key) for key in self.text.scan_iter()}

    def outbox(self) -> list[str]:
        ids: list[str] = self.text.zrange(schema.OUTBOX, 0, -1)
        return ids

    def due(self, upload_id: str) -> float | None:
        score: float | None = self.text.zscore(schema.EXPIRING, upload_id)
        return score

    def make_due(self, upload_id: str) -> None:
        self.text.zadd(schema.EXPIRING, {upload_id: 1})

    def rq_status(self, upload_id: str) -> JobStatus:
        return RqJob.fetch(upload_id, self.raw, serializer=JSONSerializer).get_status()

    def take(self, upload_id: str, worker: str) -> None:
        """Take the job from RQ as a worker of that name does, up to the fork."""
        taken, _ = Queue.dequeue_any(
            [self.queue], None, connection=self.raw, serializer=JSONSerializer
        ) or (None, None)
        assert taken is not None
        assert taken.id == upload_id
        with self.raw.pipeline() as pipeline:
            Execution.create(taken, 60, pipeline=pipeline, worker_name=worker)
            taken.prepare_for_execution(worker, pipeline=pipeline)
            pipeline.lrem(self.queue.intermediate_queue_key, 1, taken.id)
            pipeline.execute()


def dead_process() -> str:
    """Name a process of this host that lives no longer."""
    host, _, _ = process_identity().rsplit(".", 2)
    return f"{host}.{os.getpid()}.1"
