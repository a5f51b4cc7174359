"""The one coroutine that performs actions on the stores."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import structlog
from anyio import to_thread

from storage.errors import LockLost, RecordBehind, StorageError, UploadGone, UploadNotFound
from tusd_py import protocol
from tusd_py.checksum import DigestingSink, new_digest
from tusd_py.exchange import BodyEnd, run_to_the_end
from tusd_py.protocol import Code, ProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from storage.interfaces import Buffer, DataStore, InfoStore, Lock, Locker, Sink, Writer
    from storage.upload import Upload
    from tusd_py.exchange import Exchange
    from tusd_py.protocol import Action, Append, Concatenate, Create, Limits, Response

T = TypeVar("T")
log = structlog.get_logger()

# Bytes after which what arrived is made durable and progress is told (chunked-upload: 5 MB).
_CHECKPOINT = 5 * 2**20
# A body that was cut short by us: the client shall go on from the offset.
_RETRY = {BodyEnd.STALLED: Code.STALLED, BodyEnd.STOPPED: Code.TAKEN_OVER}


@dataclass(frozen=True, slots=True)
class Uploads:
    """Hold what actions are performed on; `finished` is told when an upload is complete."""

    data: DataStore
    info: InfoStore
    locker: Locker
    limits: Limits
    min_free_bytes: int
    location: Callable[[str], str]
    finished: Callable[[], None]


async def carry_out(action: Action, exchange: Exchange, uploads: Uploads) -> None:
    """Perform the action and answer it, refusals included."""
    head = isinstance(action, protocol.Head)
    try:
        response = await _perform(action, exchange, uploads)
    except ProtocolError as error:
        response = protocol.refused(error, head=head)
    except StorageError as error:
        if isinstance(error, RecordBehind):
            await _catch_up(error, uploads)
        refusal = protocol.as_protocol_error(error)
        ours = refusal.code.status >= 500  # noqa: PLR2004  the rest is everyday
        (log.warning if ours else log.debug)(
            "upload.refused", status=refusal.code.status, reason=str(error)
        )
        response = protocol.refused(refusal, head=head)
    except Exception:
        # Whatever nobody foresaw: clients take a bare 500 to HEAD as "the upload is lost".
        log.exception("upload.broke")
        response = protocol.refused(ProtocolError(Code.UNAVAILABLE), head=head)
    await exchange.respond(response)


async def _catch_up(behind: RecordBehind, uploads: Uploads) -> None:
    """Give a record that Redis lost or rolled back what the journal says, for who comes next."""
    log.warning("upload.recovered", upload=behind.upload.id, offset=behind.upload.offset)
    with suppress(StorageError):
        await uploads.info.raise_to(behind.upload)


async def _perform(action: Action, exchange: Exchange, uploads: Uploads) -> Response:
    match action:
        case protocol.Discover():
            return protocol.discovered(uploads.limits)
        case protocol.Create():
            return await _create(action, exchange, uploads)
        case protocol.Concatenate():
            return await _concatenate(action, uploads)
        case protocol.Head(upload_id):
            return await _head(upload_id, uploads)
        case protocol.Append():
            return await _append(action, exchange, uploads)
        case protocol.Terminate(upload_id):
            return await _terminate(upload_id, uploads)


async def _create(action: Create, exchange: Exchange, uploads: Uploads) -> Response:
    upload = protocol.admit_create(action, str(uuid4()), time.time(), uploads.limits)
    await _check_room(uploads)
    await to_thread.run_sync(uploads.data.create, upload)
    try:
        await uploads.info.create(upload)
    except StorageError:
        # Nobody knows of it; but a Redis that only was slow may still store the record.
        await to_thread.run_sync(uploads.data.remove, upload.id)
        raise
    log.info("upload.created", upload=upload.id, length=upload.length)
    if action.body or upload.length == 0:
        async with uploads.locker.hold(upload.id) as lock:
            upload = await _take_first_body(action, lock, exchange, uploads)
    location = uploads.location(upload.id)
    return protocol.created(upload, location, with_offset=action.body)


async def _take_first_body(
    action: Create, lock: Lock, exchange: Exchange, uploads: Uploads
) -> Upload:
    """Take what came with the creation; an upload that the client cannot use is not left."""
    intake = _Intake(lock.upload, action, uploads)
    try:
        # However the body ended: the client needs the location to go on.
        await intake.run(lock.stop, exchange if action.body else None)
    except ProtocolError:
        await to_thread.run_sync(uploads.data.remove, lock.upload.id)
        await uploads.info.terminate(intake.upload, time.time() + uploads.limits.expiration)
        raise
    return intake.upload


async def _concatenate(action: Concatenate, uploads: Uploads) -> Response:
    await _check_room(uploads)
    # Nobody who uploads a part is interrupted for it.
    known = await to_thread.run_sync(_look_at, action.parts, uploads.data)
    parts = [known[part] for part in action.parts]
    final = protocol.admit_final(action, parts, str(uuid4()), time.time(), uploads.limits)
    await to_thread.run_sync(uploads.data.create, final)
    try:
        most = uploads.limits.max_size
        final = await to_thread.run_sync(uploads.data.assemble, final.id, most)
        await uploads.info.create(final)
    except StorageError:
        await to_thread.run_sync(uploads.data.remove, final.id)
        raise
    log.info("upload.concatenated", upload=final.id, length=final.length, parts=len(parts))
    uploads.finished()
    return protocol.created(final, uploads.location(final.id), with_offset=False)


def _look_at(ids: Sequence[str], data: DataStore) -> dict[str, Upload]:
    return {upload_id: data.look(upload_id) for upload_id in set(ids)}


async def _check_room(uploads: Uploads) -> None:
    free = await to_thread.run_sync(uploads.data.free_bytes)
    if free < uploads.min_free_bytes:
        raise ProtocolError(Code.STORAGE_FULL, f"the disk has no room: {free} bytes are free")


async def _head(upload_id: str, uploads: Uploads) -> Response:
    upload = await _recovered(upload_id, uploads, lambda: uploads.locker.settled(upload_id))
    # A Redis that was rolled back would tell an offset below one that was acknowledged.
    known = await to_thread.run_sync(uploads.data.look, upload_id)
    if upload.is_behind(known):
        await uploads.info.raise_to(known)
        upload = await uploads.locker.settled(upload_id)
        if upload.is_behind(known):
            raise RecordBehind(known)
    if upload.waiting:
        upload = replace(upload, length=known.length)
    protocol.admit_head(upload, time.time())
    return protocol.stands_at(upload)


async def _append(action: Append, exchange: Exchange, uploads: Uploads) -> Response:
    async with _hold(action.upload_id, uploads) as lock:
        length = protocol.admit_append(action, lock.upload, time.time(), uploads.limits)
        if lock.upload.complete:
            # A client that lost the answer to its last request asks again.
            if await exchange.move_body(_Nowhere(), 0, lock.stop) is BodyEnd.MORE:
                raise ProtocolError(Code.BODY_TOO_LONG)
            return protocol.appended(lock.upload)
        intake = _Intake(lock.upload, replace(action, length=length), uploads)
        end = await intake.run(lock.stop, exchange)
    if end in _RETRY and not intake.upload.complete:
        raise ProtocolError(_RETRY[end], Upload_Offset=str(intake.upload.offset))
    return protocol.appended(intake.upload)


async def _terminate(upload_id: str, uploads: Uploads) -> Response:
    protocol.admit_terminate(uploads.limits)
    async with _hold(upload_id, uploads) as lock:
        if lock.upload.partial:
            await _hand_on(upload_id, uploads)
        # The tombstone comes first: whatever happens now, the upload stays removed.
        await to_thread.run_sync(uploads.data.remove, upload_id)
        forget_at = time.time() + uploads.limits.expiration
        # Whoever finds the tombstone may have dropped the record by now.
        with suppress(UploadNotFound):
            await uploads.info.terminate(lock.upload, forget_at)
    log.info("upload.terminated", upload=upload_id)
    return protocol.terminated()


async def _hand_on(part_id: str, uploads: Uploads) -> None:
    """Give the bytes of a part that is removed to those who wait for others, if it is complete."""
    for final_id in await uploads.info.finals(part_id):
        # What cannot be complete any more is found by the drain.
        with suppress(UploadGone, UploadNotFound):
            await to_thread.run_sync(uploads.data.assemble, final_id, uploads.limits.max_size)


@asynccontextmanager
async def _hold(upload_id: str, uploads: Uploads) -> AsyncIterator[Lock]:
    async with AsyncExitStack() as stack:
        yield await _recovered(
            upload_id,
            uploads,
            lambda: stack.enter_async_context(uploads.locker.hold(upload_id)),
        )


async def _recovered(upload_id: str, uploads: Uploads, find: Callable[[], Awaitable[T]]) -> T:
    """Find an upload; a record that Redis has lost is rebuilt from the data store."""
    try:
        return await find()
    except UploadNotFound:
        upload, ended = await to_thread.run_sync(uploads.data.recover, upload_id)
        log.warning("upload.recovered", upload=upload_id, offset=upload.offset)
        await uploads.info.restore(upload, ended)
        return await find()


class _Nowhere:
    """Take no bytes (storage.interfaces.Sink)."""

    offset = 0

    def write(self, buffers: Sequence[Buffer]) -> None:
        pass


class _Intake:
    """Take one request's body into an upload, checkpoint by checkpoint."""

    _writer: Writer

    def __init__(self, upload: Upload, action: Create | Append, uploads: Uploads) -> None:
        """Go by what the action says: its length is the one that is right if it is taken."""
        self.upload = upload
        self._length = action.length
        self._checksum = action.checksum
        self._uploads = uploads
        self._first = upload.offset
        self._started = asyncio.get_running_loop().time()

    async def run(self, stop: asyncio.Event, exchange: Exchange | None) -> BodyEnd:
        """Move the body, if there is one, and commit; `upload` is then how it stands.

        Raises:
            ProtocolError: nothing, or no more, of it was taken.
        """
        self._writer = await run_to_the_end(self._uploads.data.open, self.upload)
        self.upload = self._writer.upload
        try:
            end = BodyEnd.DONE if exchange is None else await self._take(exchange, stop)
            # What cannot be verified is not kept: the offset stays where it was.
            if self._checksum is None or end is BodyEnd.DONE:
                await self._commit(self._length)
        finally:
            # The file is let go of before the lock is, whatever else happens.
            await run_to_the_end(self._writer.close)
        return end

    async def _take(self, exchange: Exchange, stop: asyncio.Event) -> BodyEnd:
        """Move the body until it ends; its last part is left to commit, all of it if verified."""
        if self._checksum is None:
            return await self._move(self._writer, exchange, stop)
        digest = new_digest(self._checksum.algorithm)
        end = await self._move(DigestingSink(self._writer, digest), exchange, stop)
        if end is BodyEnd.DONE and digest.digest() != self._checksum.digest:
            raise ProtocolError(Code.CHECKSUM_MISMATCH)
        return end

    async def _move(self, sink: Sink, exchange: Exchange, stop: asyncio.Event) -> BodyEnd:
        most = self._uploads.limits.max_size if self._length is None else self._length
        while True:
            try:
                end = await exchange.move_body(sink, min(most - sink.offset, _CHECKPOINT), stop)
            except StorageError:
                # What fitted is kept, if that much can still be remembered.
                with suppress(StorageError):
                    await self._checkpoint()
                raise
            if end is BodyEnd.MORE and sink.offset == most:
                # Nothing of the surplus may make the upload complete.
                end = await exchange.move_body(sink, 0, stop)
                if end is BodyEnd.MORE:
                    raise ProtocolError(Code.BODY_TOO_LONG)
            if end is not BodyEnd.MORE:
                return end
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        # A length is known for good only when its request was taken whole.
        if self._checksum is None:
            await self._commit(self.upload.length)

    async def _commit(self, length: int | None) -> None:
        """Make what was written durable, then known, then a job when it is all."""
        offset = self._writer.offset
        now = replace(self.upload, offset=offset, length=length, complete=offset == length)
        if now == self.upload:
            return
        self.upload = replace(now, expires_at=time.time() + self._uploads.limits.expiration)
        await run_to_the_end(self._writer.commit, self.upload)
        try:
            await self._uploads.info.commit(self.upload, speed=self._speed())
        except UploadNotFound:
            await self._restore()
        if self.upload.complete:
            log.info("upload.complete", upload=self.upload.id, length=length)
            self._uploads.finished()

    async def _restore(self) -> None:
        """Give a Redis that was emptied meanwhile the record back, this commit included."""
        await self._uploads.info.restore(
            *await to_thread.run_sync(self._uploads.data.recover, self.upload.id)
        )
        self._uploads.finished()
        # The lock is lost as well: the client shall ask for the offset and go on.
        raise LockLost("the record of this upload was lost and has been rebuilt")

    def _speed(self) -> float:
        elapsed = asyncio.get_running_loop().time() - self._started
        return (self.upload.offset - self._first) / elapsed if elapsed > 0 else 0.0
