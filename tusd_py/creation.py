"""Create uploads: with or without a body, by a key that names them again, or of parts."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from os import urandom
from typing import TYPE_CHECKING

import structlog
from anyio import to_thread

from storage.errors import RecordBehind, StorageError, UploadExists, UploadGone, UploadNotFound
from tusd_py import protocol
from tusd_py.call import (
    RETRY,
    Call,
    Uploads,
    check_trailer,
    give_up,
    hand_over,
    has_outcome,
    outcome,
    remove,
)
from tusd_py.exchange import BodyEnd
from tusd_py.intake import Intake, Rejected
from tusd_py.protocol import IETF, TUS, Code, ProtocolError, Response
from tusd_py.recovery import found, hold, recovered
from tusd_py.request_id import sent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from storage.interfaces import DataStore, Lock
    from storage.leases import Lease
    from storage.upload import Upload
    from tusd_py.protocol import Concatenate, Create

log = structlog.get_logger()


async def create(action: Create, call: Call, uploads: Uploads) -> Response:
    check_trailer(action, call)
    now = time.time()
    upload = protocol.admit_create(
        action,
        _random_id() if action.key is None else await _new_id(action, uploads),
        now,
        uploads.limits,
        dialect=call.speaker.name,
        fingerprint=None if action.key is None else _fingerprint(action, call),
        token=0 if action.key else 1,
        request_id=sent(call.exchange.headers),
    )
    if action.key is not None:
        return await _create_with_key(action, upload, call, uploads)
    creation = uploads.leases.create(upload, partial(_announce, upload, uploads))
    return await _take_first_body(action, upload, creation, call, uploads)


async def _create_with_key(
    action: Create, upload: Upload, call: Call, uploads: Uploads
) -> Response:
    known = await _known(upload.id, upload.fingerprint, uploads)
    if known is None:
        await _check_room(uploads)
        try:
            await to_thread.run_sync(uploads.data.create, upload)
        except UploadExists:
            # The same request twice at once.
            known = await _known(upload.id, upload.fingerprint, uploads)
    if known is not None:
        return await _create_again(action, known, call, uploads)
    await uploads.info.create(upload)
    log.debug("upload.created", upload=upload.id, length=upload.length)
    if not action.body and upload.length != 0:
        return await _created(upload, action, call, uploads)
    return await _take_first_body(action, upload, hold(upload.id, uploads), call, uploads)


async def _new_id(action: Create | Concatenate, uploads: Uploads) -> str:
    """Name a new upload; an Idempotency-Key names the same one again."""
    if action.key is None:
        return _random_id()
    return await to_thread.run_sync(uploads.data.identify, action.key)


def _random_id() -> str:
    """Make a random UUID (RFC 9562, version 4); `uuid.uuid4` takes three times as long."""
    digits = urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _fingerprint(action: Create | Concatenate, call: Call) -> str | None:
    """Return what tells a request with an Idempotency-Key from another one with the same."""
    if action.key is None:
        return None
    said: tuple[object, ...] = (call.speaker.name, action.metadata)
    if isinstance(action, protocol.Create):
        said += (action.length, action.completes, action.partial, action.repr_digest)
    else:
        said += (action.parts,)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


async def _announce(upload: Upload, uploads: Uploads, lock: Lock) -> None:
    """Let Redis know of an upload that was created on disk, and who holds it."""
    try:
        await uploads.info.create(upload, lock)
    except StorageError:
        # Nobody knows of it; but a Redis that only was slow may still store the record.
        await to_thread.run_sync(uploads.data.remove, upload.id)
        raise
    log.debug("upload.created", upload=upload.id, length=upload.length)


async def _create_again(action: Create, upload: Upload, call: Call, uploads: Uploads) -> Response:
    """Answer a client that lost the answer to its creation: with the same upload."""
    call.upload = upload
    if upload.complete:
        return await _created(upload, action, call, uploads)
    if not action.body and upload.length != 0:
        return await _created(upload, action, call, uploads)
    return await _take_first_body(action, upload, hold(upload.id, uploads), call, uploads)


async def _known(upload_id: str, fingerprint: str | None, uploads: Uploads) -> Upload | None:
    """Return the upload that an Idempotency-Key stands for, if it was asked for as it is now.

    It needs no room, nor the parts it was made of.
    """
    if fingerprint is None:
        return None
    try:
        known, _ = await to_thread.run_sync(uploads.data.recover, upload_id)
    except UploadNotFound:
        return None
    if known.fingerprint != fingerprint:
        raise ProtocolError(Code.KEY_REUSED)
    protocol.admit_head(known, time.time())
    # Whoever created it may have died before Redis knew.
    upload = await recovered(upload_id, uploads, lambda: found(upload_id, uploads))
    await to_thread.run_sync(uploads.data.settle, upload_id)
    if upload.is_behind(known):
        await uploads.info.raise_to(known)
        upload = await found(upload_id, uploads)
        if upload.is_behind(known):
            raise RecordBehind(known)
    return upload


async def _take_first_body(
    action: Create,
    upload: Upload,
    holding: AbstractAsyncContextManager[Lease],
    call: Call,
    uploads: Uploads,
) -> Response:
    """Take what came with the creation; an upload that the client cannot use is not left."""
    try:
        return await _take_it(action, upload, holding, call, uploads)
    except StorageError:
        if call.upload is not None and call.speaker.name == TUS and upload.fingerprint is None:
            # Nobody was told of it, and its bytes may be what fills the disk.
            with suppress(StorageError):
                await remove(upload, uploads)
        raise


async def _take_it(
    action: Create,
    upload: Upload,
    holding: AbstractAsyncContextManager[Lease],
    call: Call,
    uploads: Uploads,
) -> Response:
    async with holding as lease:
        call.upload = upload
        if lease.upload.complete or not (action.body or upload.length == 0):
            return await _created(lease.upload, action, call, uploads)
        interim = call.speaker.interim(upload, call.location(upload), uploads.limits, time.time())
        if interim is not None:
            await call.exchange.interim(interim)
        # A body that is sent again begins with what is here already.
        skip = lease.upload.offset if action.body else 0
        intake = Intake(lease, action, call.speaker, uploads.stores)
        try:
            exchange = call.exchange if action.body else None
            end = await intake.run(exchange, skip=skip)
        except ProtocolError as error:
            call.upload = intake.upload
            if _is_lost(error, intake.upload, call):
                call.upload = None
                await remove(intake.upload, uploads)
            raise
    call.upload = intake.upload
    if end is BodyEnd.STOPPED:
        await hand_over(intake.upload, uploads)
    if call.speaker.name == IETF and end in RETRY:
        give_up(end, intake.upload, uploads)
    # However a body of tus ended: the client needs the location to go on.
    return await _created(intake.upload, action, call, uploads)


def _is_lost(error: ProtocolError, upload: Upload, call: Call) -> bool:
    """Tell whether a creation that was refused leaves nothing a client could go on with."""
    if isinstance(error, Rejected) or call.speaker.name == TUS:
        return upload.fingerprint is None or isinstance(error, Rejected)
    # Of the other dialect the client was told where it is.
    return upload.length is None and error.code is Code.BODY_TOO_LONG


async def _created(upload: Upload, action: Create, call: Call, uploads: Uploads) -> Response:
    final = await outcome(upload, action, call, uploads) if has_outcome(upload, call) else None
    where, now = call.location(upload), time.time()
    body = action.body or upload.offset > 0
    return call.speaker.created(upload, where, uploads.limits, now, final, body=body)


async def concatenate(action: Concatenate, call: Call, uploads: Uploads) -> Response:
    upload_id, fingerprint = await _new_id(action, uploads), _fingerprint(action, call)
    final = await _known(upload_id, fingerprint, uploads)
    if final is None:
        final = await _join(action, upload_id, fingerprint, call, uploads)
    return call.speaker.created(
        final, call.location(final), uploads.limits, time.time(), body=False
    )


async def _join(
    action: Concatenate, upload_id: str, fingerprint: str | None, call: Call, uploads: Uploads
) -> Upload:
    """Create an upload of parts."""
    await _check_room(uploads)
    # Nobody who uploads a part is interrupted for it.
    looked = await to_thread.run_sync(_look_at, action.parts, uploads.data)
    parts = [looked[part] for part in action.parts]
    final = protocol.admit_final(action, parts, upload_id, time.time(), uploads.limits)
    final = replace(final, fingerprint=fingerprint, request_id=sent(call.exchange.headers))
    try:
        await to_thread.run_sync(uploads.data.create, final)
    except UploadExists:
        # The same request twice at once.
        return await _known(upload_id, fingerprint, uploads) or final
    try:
        final = await to_thread.run_sync(uploads.data.assemble, final.id, uploads.limits.max_size)
        await uploads.info.create(final)
    except StorageError as error:
        # A key goes on with what it made, if that can come to something.
        if fingerprint is None or isinstance(error, UploadGone | UploadNotFound):
            await to_thread.run_sync(uploads.data.remove, final.id)
        raise
    log.info("upload.concatenated", upload=final.id, length=final.length, parts=len(parts))
    uploads.finished()
    return final


def _look_at(ids: Sequence[str], data: DataStore) -> dict[str, Upload]:
    return {upload_id: data.look(upload_id) for upload_id in set(ids)}


async def _check_room(uploads: Uploads) -> None:
    free = await to_thread.run_sync(uploads.data.free_bytes)
    if free < uploads.min_free_bytes:
        raise ProtocolError(Code.STORAGE_FULL, f"the disk has no room: {free} bytes are free")
