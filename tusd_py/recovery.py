"""Find an upload as it is, whatever Redis has lost, rolled back or given to somebody else."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog
from anyio import to_thread

from storage.errors import RecordBehind, StorageError, StoreUnavailable, UploadNotFound
from tusd_py import protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from storage.leases import Lease
    from storage.upload import Upload
    from tusd_py.call import Call, Uploads

T = TypeVar("T")
log = structlog.get_logger()


async def catch_up(behind: RecordBehind, uploads: Uploads) -> None:
    """Give a record that Redis lost or rolled back what the journal says, for who comes next."""
    log.warning("upload.recovered", upload=behind.upload.id, offset=behind.upload.offset)
    with suppress(StorageError):
        await raise_record(behind.upload, uploads)


async def doubted(missing: UploadNotFound, call: Call, uploads: Uploads) -> StorageError:
    """Tell what is so of an upload that Redis lacks: it may have forgotten it a second time."""
    if isinstance(call.action, protocol.Create):
        return forgotten_again()
    if not isinstance(call.action, protocol.Head | protocol.Append | protocol.Terminate):
        return missing
    try:
        await to_thread.run_sync(uploads.data.look, call.action.upload_id)
    except StorageError as known:
        return known
    return forgotten_again()


def forgotten_again() -> StoreUnavailable:
    return StoreUnavailable("Redis has lost a record that had just been rebuilt")


async def raise_record(known: Upload, uploads: Uploads) -> None:
    """Say in a record what its journal says, once that is on the disk."""
    await to_thread.run_sync(uploads.data.settle, known.id)
    await uploads.info.raise_to(known)


async def found(upload_id: str, uploads: Uploads) -> Upload:
    upload = await uploads.info.find(upload_id)
    if upload is None:
        raise UploadNotFound(f"there is no upload {upload_id}")
    return upload


async def settled(upload_id: str, uploads: Uploads) -> Upload:
    """Return the record once nobody writes the upload, which may be in another process."""
    upload = await recovered(upload_id, uploads, lambda: uploads.leases.settled(upload_id))
    # A Redis that was rolled back would tell an offset below one that was acknowledged.
    known = await to_thread.run_sync(uploads.data.look, upload_id)
    if upload.is_behind(known):
        await raise_record(known, uploads)
        upload = await uploads.leases.settled(upload_id)
        if upload.is_behind(known):
            raise RecordBehind(known)
    return replace(upload, length=known.length) if upload.waiting else upload


async def check_offset(upload: Upload, uploads: Uploads) -> None:
    """See that no client is told an offset below one that was acknowledged (Redis rolled back)."""
    known = await to_thread.run_sync(uploads.data.look, upload.id)
    if upload.is_behind(known):
        raise RecordBehind(known)


def hold(upload_id: str, uploads: Uploads) -> AbstractAsyncContextManager[Lease]:
    return uploads.leases.hold(upload_id, partial(_recover, uploads))


async def _recover(uploads: Uploads, upload_id: str) -> None:
    """Rebuild a record that Redis has lost from the data store."""
    upload, ended = await to_thread.run_sync(uploads.data.recover, upload_id)
    await to_thread.run_sync(uploads.data.settle, upload_id)
    log.warning("upload.recovered", upload=upload_id, offset=upload.offset)
    await uploads.info.restore(upload, ended)


async def recovered(upload_id: str, uploads: Uploads, find: Callable[[], Awaitable[T]]) -> T:
    """Find an upload; a record that Redis has lost is rebuilt from the data store."""
    try:
        return await find()
    except UploadNotFound:
        await _recover(uploads, upload_id)
        try:
            return await find()
        except UploadNotFound:
            raise forgotten_again() from None
