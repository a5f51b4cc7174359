"""Final uploads that wait for their parts: each is assembled as its parts are completed.

The outbox holds those to look at. Nothing here needs a lock: what is done to a final upload is the
same whoever does it and however often, and nobody else writes one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from storage import redis_schema as schema
from storage.errors import UploadGone, UploadNotFound
from storage.redis_sync import call, one_by_one, redis_errors
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from storage.interfaces import DataStore

log = structlog.get_logger()


class Finals:
    """Assemble final uploads; every method blocks and raises StorageError."""

    def __init__(self, redis: Redis, data: DataStore, max_size: int, keep: float) -> None:
        """Use a client that decodes responses.

        An upload has at most `max_size` bytes; tombstones are kept for `keep` seconds.
        """
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis
        self._data = data
        self._max_size = max_size
        self._keep = keep

    @redis_errors()
    def take(self, part_id: str) -> None:
        """Give the bytes of a part that will be removed to whoever waits, if it is complete."""
        self.assemble(sorted(self._redis.smembers(schema.finals_key(part_id))))

    def assemble(self, ids: Sequence[str]) -> None:
        """Assemble those of these uploads that are final ones and wait for parts."""
        for final in self._waiting(ids):
            with one_by_one(final.id):
                self._assemble(final)

    @redis_errors()
    def _waiting(self, ids: Sequence[str]) -> list[Upload]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for upload_id in ids:
                pipeline.hget(schema.upload_key(upload_id), "complete")
            answers = pipeline.execute()
        # Nearly all are complete: one field tells.
        return [
            record
            for upload_id, complete in zip(ids, answers, strict=True)
            if complete == "0" and (record := self._record(upload_id)) and record.waiting
        ]

    def _record(self, upload_id: str) -> Upload | None:
        with one_by_one(upload_id):
            fields = self._redis.hgetall(schema.upload_key(upload_id))
            return Upload.from_hash(fields) if fields else None
        return None

    def _assemble(self, final: Upload) -> None:
        try:
            final = self._data.assemble(final.id, self._max_size)
        except (UploadGone, UploadNotFound) as error:
            self._bury(final, str(error))
        else:
            if final.complete:
                self._complete(final)

    @redis_errors()
    def _bury(self, final: Upload, reason: str) -> None:
        # The tombstone first: whoever dies in between, the next one comes here again.
        self._data.remove(final.id)
        now = time.time()
        built = schema.terminate(final.id, None, now, now + self._keep)
        call(self._redis, schema.TERMINATE, *built)
        self._wait_no_more(final)
        log.warning("upload.buried", upload=final.id, reason=reason)

    @redis_errors()
    def _complete(self, final: Upload) -> None:
        if call(self._redis, schema.ASSEMBLED, *schema.commit(final, time.time(), 0.0)) == 1:
            log.info("upload.complete", upload=final.id, length=final.length)
        self._wait_no_more(final)

    def _wait_no_more(self, final: Upload) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for part_id in set(final.parts):
                pipeline.srem(schema.finals_key(part_id), final.id)
            pipeline.execute()
