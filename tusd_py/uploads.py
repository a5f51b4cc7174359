"""The one coroutine that performs actions on the stores."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, TypeVar

import structlog
from anyio import to_thread

from storage.errors import (
    RecordBehind,
    StorageError,
    StoreUnavailable,
    UploadExists,
    UploadGone,
    UploadNotFound,
)
from tusd_py import fields, protocol
from tusd_py.exchange import BodyEnd
from tusd_py.intake import Intake, Nowhere, Pace, Rejected, Stores, content_digests
from tusd_py.protocol import IETF, TUS, Code, ProtocolError, Response
from tusd_py.request_id import sent
from tusd_py.resource import JobStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from storage.interfaces import DataStore, InfoStore, Lock
    from storage.leases import Lease, Leases
    from storage.upload import Upload
    from tusd_py.exchange import Exchange
    from tusd_py.origin import Reach
    from tusd_py.protocol import Action, Append, Concatenate, Create, Limits, Speaker

T = TypeVar("T")
log = structlog.get_logger()

# A body that was cut short by us: the client shall go on from the offset.
_RETRY = {BodyEnd.STALLED: Code.STALLED, BodyEnd.STOPPED: Code.TAKEN_OVER}


@dataclass(frozen=True, slots=True)
class Uploads:
    """Hold what actions are performed on; `finished` is told when an upload is complete.

    `closing` tells whether the server is about to end.
    """

    data: DataStore
    info: InfoStore
    leases: Leases
    limits: Limits
    min_free_bytes: int
    finished: Callable[[], None]
    closing: Callable[[], bool] = lambda: False
    pace: Pace = field(default_factory=Pace)
    #: What an intake needs.
    stores: Stores = field(init=False)

    def __post_init__(self) -> None:
        """Make once what every body asks for."""
        stores = Stores(self.data, self.info, self.limits, self.finished, self.pace)
        object.__setattr__(self, "stores", stores)


@dataclass(slots=True)
class Call:
    """Hold one request while it is carried out: whose words it speaks, and what it is about."""

    speaker: Speaker
    exchange: Exchange
    reach: Reach
    action: Action
    #: The upload as it was seen last.
    upload: Upload | None = None

    def location(self, upload: Upload) -> str:
        """Return the upload's address, as this client reaches it."""
        return self.reach.location(upload.id)


class _Cut(Exception):
    """End the connection without an answer."""


async def carry_out(call: Call, uploads: Uploads) -> None:
    """Perform the action and answer it, refusals included."""
    try:
        response = await _perform(call, uploads)
    except _Cut:
        await call.exchange.cut()
        return
    except ProtocolError as error:
        response = _refused(error, call, uploads)
    except StorageError as error:
        if isinstance(error, RecordBehind):
            await _catch_up(error, uploads)
        elif isinstance(error, UploadNotFound):
            error = await _doubted(error, call, uploads)
        refusal = protocol.as_protocol_error(error)
        ours = refusal.code.status >= 500  # noqa: PLR2004  the rest is everyday
        (log.warning if ours else log.debug)(
            "upload.refused", status=refusal.code.status, reason=str(error)
        )
        response = _refused(refusal, call, uploads)
    except Exception:
        # Whatever nobody foresaw: clients take a bare 500 to HEAD as "the upload is lost".
        log.exception("upload.broke")
        response = _refused(ProtocolError(Code.UNAVAILABLE), call, uploads)
    await call.exchange.respond(response)


def _refused(error: ProtocolError, call: Call, uploads: Uploads) -> Response:
    head = isinstance(call.action, protocol.Head)
    upload = call.upload
    about = isinstance(call.action, protocol.Head | protocol.Append | protocol.Terminate)
    if about and error.code.status == Code.GONE.status and uploads.limits.gone_as_not_found:
        error, upload = ProtocolError(Code.NOT_FOUND), None
    return call.speaker.refused(error, uploads.limits, head=head, action=call.action, upload=upload)


async def _catch_up(behind: RecordBehind, uploads: Uploads) -> None:
    """Give a record that Redis lost or rolled back what the journal says, for who comes next."""
    log.warning("upload.recovered", upload=behind.upload.id, offset=behind.upload.offset)
    with suppress(StorageError):
        await _raise(behind.upload, uploads)


async def _doubted(missing: UploadNotFound, call: Call, uploads: Uploads) -> StorageError:
    """Tell what is so of an upload that Redis lacks: it may have forgotten it a second time."""
    if isinstance(call.action, protocol.Create):
        return _forgotten_again()
    if not isinstance(call.action, protocol.Head | protocol.Append | protocol.Terminate):
        return missing
    try:
        await to_thread.run_sync(uploads.data.look, call.action.upload_id)
    except StorageError as known:
        return known
    return _forgotten_again()


def _forgotten_again() -> StoreUnavailable:
    return StoreUnavailable("Redis has lost a record that had just been rebuilt")


async def _raise(known: Upload, uploads: Uploads) -> None:
    """Say in a record what its journal says, once that is on the disk."""
    await to_thread.run_sync(uploads.data.settle, known.id)
    await uploads.info.raise_to(known)


async def _perform(call: Call, uploads: Uploads) -> Response:
    match call.action:
        case protocol.Discover():
            trailers = call.exchange.can_trail
            return call.speaker.discovered(replace(uploads.limits, trailers=trailers))
        case protocol.Create() as action:
            return await _create(action, call, uploads)
        case protocol.Concatenate() as action:
            return await _concatenate(action, call, uploads)
        case protocol.Head(upload_id):
            return await _head(upload_id, call, uploads)
        case protocol.Append() as action:
            return await _append(action, call, uploads)
        case protocol.Terminate(upload_id):
            return await _terminate(upload_id, call, uploads)


async def _create(action: Create, call: Call, uploads: Uploads) -> Response:
    _check_trailer(action, call)
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
    return await _take_first_body(action, upload, _hold(upload.id, uploads), call, uploads)


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
    return await _take_first_body(action, upload, _hold(upload.id, uploads), call, uploads)


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
    upload = await _recovered(upload_id, uploads, lambda: _found(upload_id, uploads))
    await to_thread.run_sync(uploads.data.settle, upload_id)
    if upload.is_behind(known):
        await uploads.info.raise_to(known)
        upload = await _found(upload_id, uploads)
        if upload.is_behind(known):
            raise RecordBehind(known)
    return upload


async def _found(upload_id: str, uploads: Uploads) -> Upload:
    upload = await uploads.info.find(upload_id)
    if upload is None:
        raise UploadNotFound(f"there is no upload {upload_id}")
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
                await _remove(upload, uploads)
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
                await _remove(intake.upload, uploads)
            raise
    call.upload = intake.upload
    if end is BodyEnd.STOPPED:
        await _hand_over(intake.upload, uploads)
    if call.speaker.name == IETF and end in _RETRY:
        _give_up(end, intake.upload, uploads)
    # However a body of tus ended: the client needs the location to go on.
    return await _created(intake.upload, action, call, uploads)


def _is_lost(error: ProtocolError, upload: Upload, call: Call) -> bool:
    """Tell whether a creation that was refused leaves nothing a client could go on with."""
    if isinstance(error, Rejected) or call.speaker.name == TUS:
        return upload.fingerprint is None or isinstance(error, Rejected)
    # Of the other dialect the client was told where it is.
    return upload.length is None and error.code is Code.BODY_TOO_LONG


async def _remove(upload: Upload, uploads: Uploads) -> None:
    # The tombstone comes first: whatever happens now, the upload stays removed.
    await to_thread.run_sync(uploads.data.remove, upload.id)
    # Whoever finds the tombstone may have dropped the record by now.
    with suppress(UploadNotFound):
        await uploads.info.terminate(upload, time.time() + uploads.limits.expiration)


async def _hand_over(upload: Upload, uploads: Uploads) -> None:
    """Tell who watches that another request has the upload now; nothing depends on it."""
    if not uploads.closing():
        with suppress(StorageError):
            await uploads.info.hand_over(upload)


def _give_up(end: BodyEnd, upload: Upload, uploads: Uploads) -> None:
    """Refuse to go on with a body; at the end of the server iOS resumes what was cut only."""
    if end is BodyEnd.STOPPED and uploads.closing():
        raise _Cut
    raise ProtocolError(_RETRY[end], Upload_Offset=str(upload.offset))


async def _created(upload: Upload, action: Create, call: Call, uploads: Uploads) -> Response:
    final = await _final(upload, action, call, uploads) if _is_ietf(upload, call) else None
    where, now = call.location(upload), time.time()
    body = action.body or upload.offset > 0
    return call.speaker.created(upload, where, uploads.limits, now, final, body=body)


def _is_ietf(upload: Upload, call: Call) -> bool:
    """Tell whether the answer says what the upload comes to: tus has no place for it."""
    return upload.complete and call.speaker.name == IETF


async def _final(upload: Upload, action: Create | Append, call: Call, uploads: Uploads) -> Response:
    """Build what a complete upload comes to: its job, with the digests that were asked for."""
    headers = {"Content-Location": call.reach.address(f"/jobs/{upload.id}")}
    if action.wanted:
        with suppress(StorageError):
            digests = await to_thread.run_sync(
                content_digests, uploads.data, upload.id, action.wanted[:1]
            )
            headers["Repr-Digest"] = fields.build_digests(digests)
    job = None
    with suppress(StorageError):
        job = await uploads.info.job(upload.id)
    if job is None:
        return Response(201, headers)
    headers["Content-Type"] = "application/json"
    return Response(201, headers, JobStatus.of(job).model_dump_json().encode())


def _check_trailer(action: Create | Append, call: Call) -> None:
    if action.trailer is not None and not call.exchange.can_trail:
        raise ProtocolError(Code.INVALID_HEADER, "trailer: this server cannot read trailers")


async def _concatenate(action: Concatenate, call: Call, uploads: Uploads) -> Response:
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


async def _head(upload_id: str, call: Call, uploads: Uploads) -> Response:
    upload = await uploads.leases.known(upload_id)
    if upload is None:
        upload = await _settled(upload_id, uploads)
    protocol.admit_head(upload, time.time())
    if call.speaker.name == TUS and _is_filled(upload):
        upload = await _complete(upload_id, call, uploads)
    return call.speaker.stands_at(upload, uploads.limits, time.time())


async def _settled(upload_id: str, uploads: Uploads) -> Upload:
    """Return the record once nobody writes the upload, which may be in another process."""
    upload = await _recovered(upload_id, uploads, lambda: uploads.leases.settled(upload_id))
    # A Redis that was rolled back would tell an offset below one that was acknowledged.
    known = await to_thread.run_sync(uploads.data.look, upload_id)
    if upload.is_behind(known):
        await _raise(known, uploads)
        upload = await uploads.leases.settled(upload_id)
        if upload.is_behind(known):
            raise RecordBehind(known)
    return replace(upload, length=known.length) if upload.waiting else upload


def _is_filled(upload: Upload) -> bool:
    """Tell whether all bytes are here of an upload that only the other dialect has not ended."""
    return not upload.complete and not upload.final and upload.offset == upload.length


async def _complete(upload_id: str, call: Call, uploads: Uploads) -> Upload:
    """Complete an upload as tus has it: when all its bytes are here."""
    async with _hold(upload_id, uploads) as lease:
        if not _is_filled(lease.upload):
            return lease.upload
        action = protocol.Append(upload_id, lease.upload.offset, 0, lease.upload.length)
        intake = Intake(lease, action, call.speaker, uploads.stores)
        await _or_remove(intake, None, uploads)
        return intake.upload


async def _append(action: Append, call: Call, uploads: Uploads) -> Response:
    _check_trailer(action, call)
    async with _hold(action.upload_id, uploads) as lease:
        call.upload = upload = lease.upload
        now, limits = time.time(), uploads.limits
        protocol.admit_head(upload, now)
        if not upload.final:
            if action.offset != upload.offset:
                await _check_offset(upload, uploads)
            call.speaker.admit_append(action, upload)
        length = protocol.admit_append(action, upload, now, limits)
        if upload.complete:
            return await _append_again(action, upload, lease, call, uploads)
        if length != action.length:
            action = replace(action, length=length)
        intake = Intake(lease, action, call.speaker, uploads.stores)
        try:
            end = await _or_remove(intake, call.exchange, uploads)
        finally:
            call.upload = intake.upload
    if end is BodyEnd.STOPPED:
        await _hand_over(intake.upload, uploads)
    if end in _RETRY and not intake.upload.complete:
        if call.speaker.name == IETF:
            _give_up(end, intake.upload, uploads)
        raise ProtocolError(_RETRY[end], Upload_Offset=str(intake.upload.offset))
    return await _appended(intake.upload, action, call, uploads)


async def _check_offset(upload: Upload, uploads: Uploads) -> None:
    """See that no client is told an offset below one that was acknowledged (Redis rolled back)."""
    known = await to_thread.run_sync(uploads.data.look, upload.id)
    if upload.is_behind(known):
        raise RecordBehind(known)


async def _append_again(
    action: Append, upload: Upload, lease: Lease, call: Call, uploads: Uploads
) -> Response:
    """Answer a client that lost the answer to its last request."""
    if await call.exchange.move_body(Nowhere(), 0, lease.stop) is BodyEnd.MORE:
        raise ProtocolError(Code.BODY_TOO_LONG)
    return await _appended(upload, action, call, uploads)


async def _appended(upload: Upload, action: Append, call: Call, uploads: Uploads) -> Response:
    final = await _final(upload, action, call, uploads) if _is_ietf(upload, call) else None
    return call.speaker.appended(upload, call.location(upload), uploads.limits, time.time(), final)


async def _or_remove(intake: Intake, exchange: Exchange | None, uploads: Uploads) -> BodyEnd:
    """Run an intake; what can never become an upload is removed."""
    try:
        return await intake.run(exchange)
    except Rejected:
        await _remove(intake.upload, uploads)
        raise


async def _terminate(upload_id: str, call: Call, uploads: Uploads) -> Response:
    protocol.admit_terminate(uploads.limits)
    await terminate(upload_id, uploads)
    return call.speaker.terminated()


async def terminate(upload_id: str, uploads: Uploads) -> None:
    """Remove an upload with all that belongs to it; raise StorageError."""
    async with _hold(upload_id, uploads) as lease:
        if lease.upload.partial:
            await _hand_on(upload_id, uploads)
        await _remove(lease.upload, uploads)
        lease.discard()
    log.info("upload.terminated", upload=upload_id)


async def cancel(job_id: str, uploads: Uploads) -> None:
    """Remove the upload of a job, as `terminate`, though Redis was rolled back."""
    try:
        await terminate(job_id, uploads)
    except RecordBehind as error:
        await _catch_up(error, uploads)
        await terminate(job_id, uploads)


async def _hand_on(part_id: str, uploads: Uploads) -> None:
    """Give the bytes of a part that is removed to those who wait for others, if it is complete."""
    for final_id in await uploads.info.finals(part_id):
        # What cannot be complete any more is found by the drain.
        with suppress(UploadGone, UploadNotFound):
            await to_thread.run_sync(uploads.data.assemble, final_id, uploads.limits.max_size)


def _hold(upload_id: str, uploads: Uploads) -> AbstractAsyncContextManager[Lease]:
    return uploads.leases.hold(upload_id, partial(_recover, uploads))


async def _recover(uploads: Uploads, upload_id: str) -> None:
    """Rebuild a record that Redis has lost from the data store."""
    upload, ended = await to_thread.run_sync(uploads.data.recover, upload_id)
    await to_thread.run_sync(uploads.data.settle, upload_id)
    log.warning("upload.recovered", upload=upload_id, offset=upload.offset)
    await uploads.info.restore(upload, ended)


async def _recovered(upload_id: str, uploads: Uploads, find: Callable[[], Awaitable[T]]) -> T:
    """Find an upload; a record that Redis has lost is rebuilt from the data store."""
    try:
        return await find()
    except UploadNotFound:
        await _recover(uploads, upload_id)
        try:
            return await find()
        except UploadNotFound:
            raise _forgotten_again() from None
