"""The one coroutine that performs actions on the stores."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from anyio import to_thread

from storage.errors import RecordBehind, StorageError, UploadGone, UploadNotFound
from tusd_py import protocol
from tusd_py.call import (
    RETRY,
    Call,
    Cut,
    Uploads,
    check_trailer,
    give_up,
    hand_over,
    has_outcome,
    outcome,
    remove,
)
from tusd_py.creation import concatenate, create
from tusd_py.exchange import BodyEnd
from tusd_py.intake import Intake, Nowhere, Rejected
from tusd_py.protocol import IETF, TUS, Code, ProtocolError, Response
from tusd_py.recovery import catch_up, check_offset, doubted, hold, settled

if TYPE_CHECKING:
    from storage.leases import Lease
    from storage.upload import Upload
    from tusd_py.exchange import Exchange
    from tusd_py.protocol import Append

log = structlog.get_logger()


async def carry_out(call: Call, uploads: Uploads) -> None:
    """Perform the action and answer it, refusals included."""
    try:
        response = await _perform(call, uploads)
    except Cut:
        await call.exchange.cut()
        return
    except ProtocolError as error:
        response = _refused(error, call, uploads)
    except StorageError as error:
        if isinstance(error, RecordBehind):
            await catch_up(error, uploads)
        elif isinstance(error, UploadNotFound):
            error = await doubted(error, call, uploads)
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


async def _perform(call: Call, uploads: Uploads) -> Response:
    match call.action:
        case protocol.Discover():
            trailers = call.exchange.can_trail
            return call.speaker.discovered(replace(uploads.limits, trailers=trailers))
        case protocol.Create() as action:
            return await create(action, call, uploads)
        case protocol.Concatenate() as action:
            return await concatenate(action, call, uploads)
        case protocol.Head(upload_id):
            return await _head(upload_id, call, uploads)
        case protocol.Append() as action:
            return await _append(action, call, uploads)
        case protocol.Terminate(upload_id):
            return await _terminate(upload_id, call, uploads)


async def _head(upload_id: str, call: Call, uploads: Uploads) -> Response:
    upload = await uploads.leases.known(upload_id)
    if upload is None:
        upload = await settled(upload_id, uploads)
    protocol.admit_head(upload, time.time())
    if call.speaker.name == TUS and _is_filled(upload):
        upload = await _complete(upload_id, call, uploads)
    return call.speaker.stands_at(upload, uploads.limits, time.time())


def _is_filled(upload: Upload) -> bool:
    """Tell whether all bytes are here of an upload that only the other dialect has not ended."""
    return not upload.complete and not upload.final and upload.offset == upload.length


async def _complete(upload_id: str, call: Call, uploads: Uploads) -> Upload:
    """Complete an upload as tus has it: when all its bytes are here."""
    async with hold(upload_id, uploads) as lease:
        if not _is_filled(lease.upload):
            return lease.upload
        action = protocol.Append(upload_id, lease.upload.offset, 0, lease.upload.length)
        intake = Intake(lease, action, call.speaker, uploads.stores)
        await _or_remove(intake, None, uploads)
        return intake.upload


async def _append(action: Append, call: Call, uploads: Uploads) -> Response:
    check_trailer(action, call)
    async with hold(action.upload_id, uploads) as lease:
        call.upload = upload = lease.upload
        now, limits = time.time(), uploads.limits
        protocol.admit_head(upload, now)
        if not upload.final:
            if action.offset != upload.offset:
                await check_offset(upload, uploads)
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
        await hand_over(intake.upload, uploads)
    if end in RETRY and not intake.upload.complete:
        if call.speaker.name == IETF:
            give_up(end, intake.upload, uploads)
        raise ProtocolError(RETRY[end], Upload_Offset=str(intake.upload.offset))
    return await _appended(intake.upload, action, call, uploads)


async def _append_again(
    action: Append, upload: Upload, lease: Lease, call: Call, uploads: Uploads
) -> Response:
    """Answer a client that lost the answer to its last request."""
    if await call.exchange.move_body(Nowhere(), 0, lease.stop) is BodyEnd.MORE:
        raise ProtocolError(Code.BODY_TOO_LONG)
    return await _appended(upload, action, call, uploads)


async def _appended(upload: Upload, action: Append, call: Call, uploads: Uploads) -> Response:
    final = await outcome(upload, action, call, uploads) if has_outcome(upload, call) else None
    return call.speaker.appended(upload, call.location(upload), uploads.limits, time.time(), final)


async def _or_remove(intake: Intake, exchange: Exchange | None, uploads: Uploads) -> BodyEnd:
    """Run an intake; what can never become an upload is removed."""
    try:
        return await intake.run(exchange)
    except Rejected:
        await remove(intake.upload, uploads)
        raise


async def _terminate(upload_id: str, call: Call, uploads: Uploads) -> Response:
    protocol.admit_terminate(uploads.limits)
    await terminate(upload_id, uploads)
    return call.speaker.terminated()


async def terminate(upload_id: str, uploads: Uploads) -> None:
    """Remove an upload with all that belongs to it; raise StorageError."""
    async with hold(upload_id, uploads) as lease:
        if lease.upload.partial:
            await _hand_on(upload_id, uploads)
        await remove(lease.upload, uploads)
        lease.discard()
    log.info("upload.terminated", upload=upload_id)


async def cancel(job_id: str, uploads: Uploads) -> None:
    """Remove the upload of a job, as `terminate`, though Redis was rolled back."""
    try:
        await terminate(job_id, uploads)
    except RecordBehind as error:
        await catch_up(error, uploads)
        await terminate(job_id, uploads)


async def _hand_on(part_id: str, uploads: Uploads) -> None:
    """Give the bytes of a part that is removed to those who wait for others, if it is complete."""
    for final_id in await uploads.info.finals(part_id):
        # What cannot be complete any more is found by the drain.
        with suppress(UploadGone, UploadNotFound):
            await to_thread.run_sync(uploads.data.assemble, final_id, uploads.limits.max_size)
