"""`POST /process/video/upload/async`: a video in a form, streamed into an upload of its own.

There is no resuming here: a request that fails leaves nothing, and its name can be used again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from anyio import to_thread

from processing.container import HEAD_SIZE, looks_like_video
from storage.errors import StorageError, StoreUnavailable, UploadGone, UploadNotFound
from storage.leases import to_the_end
from storage.upload import Upload
from tusd_py.exchange import BodyEnd, expects_body
from tusd_py.fault import Fault, FormError, accepted, refused
from tusd_py.filling import (
    STEP,
    Filling,
    build_metadata,
    catch_up,
    content_length,
    cut_short,
    just_behind,
    mend,
)
from tusd_py.headers import InvalidHeader, parse_key
from tusd_py.intake import Nowhere
from tusd_py.multipart import BESIDES, Form, InvalidForm, parse_boundary
from tusd_py.protocol import IETF, ProtocolError
from tusd_py.request_id import sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from tusd_py.call import Uploads
    from tusd_py.exchange import Exchange
    from tusd_py.headers import Headers
    from tusd_py.origin import Origin
    from tusd_py.protocol import Response

log = structlog.get_logger()

PATH = "/process/video/upload/async"
# What is read at a time before it is known that it is a video.
_GLANCE = 64 * 1024
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Name:
    """Say what job a request is for, and whose it is; `given` when its caller chose the id."""

    job_id: str
    fingerprint: str
    given: bool
    keyed: bool


class Forms:
    """Serve the endpoint as a plain ASGI app."""

    def __init__(
        self,
        uploads: Uploads,
        origin: Origin,
        exchange: Callable[[Scope, Receive, Send], Exchange],
    ) -> None:
        # What is a video was seen by then.
        self._uploads = replace(uploads, limits=replace(uploads.limits, video=False))
        self._origin = origin
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out one request."""
        exchange = self._exchange(scope, receive, send)
        try:
            response = await self._perform(scope, exchange)
        except (FormError, InvalidForm, InvalidHeader, StorageError, ProtocolError) as error:
            response = refused(error, self._uploads.limits.max_size)
        except asyncio.CancelledError:
            await to_the_end(exchange.cut())
            raise
        except Exception:
            log.exception("form.broke")
            response = refused(FormError(Fault.UNAVAILABLE), self._uploads.limits.max_size)
        await exchange.respond(response)

    async def _perform(self, scope: Scope, exchange: Exchange) -> Response:
        if scope["method"] != "POST":
            raise FormError(Fault.METHOD)
        form = self._form(exchange.headers)
        name = await self._name(exchange.headers)
        known = await self._known(name) if name.given else None
        if known is not None:
            await self._read_away(exchange)
            size = known.offset
        else:
            await self._look(form, exchange)
            upload = await self._begin(name, form, exchange.headers)
            filling = Filling(self._uploads, upload, form, exchange, named=name.given)
            await filling.run()
            size = form.received
        # To who is asked again this is what it was the first time.
        url = self._origin.of(scope, exchange.headers).address(f"/jobs/{name.job_id}")
        return accepted(name.job_id, size, url)

    # What the request says

    def _form(self, headers: Headers) -> Form:
        try:
            boundary = parse_boundary(headers.one("content-type") or "")
        except InvalidForm as error:
            form = "multipart/form-data" in (headers.joined("content-type") or "").lower()
            raise FormError(Fault.INVALID if form else Fault.NOT_A_FORM, str(error)) from None
        most = self._uploads.limits.max_size
        if (content_length(headers) or 0) > most + BESIDES:
            raise FormError(Fault.TOO_LARGE)
        return Form(boundary, most=most)

    async def _name(self, headers: Headers) -> _Name:
        job_id, key = headers.one("x-job-id"), headers.one("idempotency-key")
        if job_id is not None and not _JOB_ID.fullmatch(job_id):
            raise InvalidHeader("x-job-id", "a UUID", job_id)
        if key is not None:
            key = parse_key(key)
            job_id = job_id or await to_thread.run_sync(self._uploads.data.identify, key)
        said = json.dumps(["form", key]).encode()
        given = job_id is not None
        job_id = (job_id or str(uuid4())).lower()
        return _Name(job_id, hashlib.sha256(said).hexdigest(), given, key is not None)

    async def _known(self, name: _Name) -> Upload | None:
        """Return the upload that a name stands for already, whose answer is then told again.

        One that was left unfinished by a server that died makes room.
        """
        data = self._uploads.data
        try:
            known, _ = await to_thread.run_sync(data.recover, name.job_id)
        except UploadNotFound:
            return None
        except UploadGone:
            # What failed may have died before it was forgotten; a job that was removed is not.
            if await to_thread.run_sync(data.reclaim, name.job_id, name.fingerprint):
                return None
            raise FormError(Fault.TAKEN) from None
        if known.fingerprint != name.fingerprint:
            raise FormError(Fault.KEY_REUSED if name.keyed else Fault.TAKEN)
        if known.complete:
            await self._see_to(known)
            if not name.keyed:
                raise FormError(Fault.TAKEN)
            return known
        await self._clear(known)
        return None

    async def _see_to(self, known: Upload) -> None:
        """See that a job is done whose server may have died before Redis knew of it."""
        info = self._uploads.info
        await mend(self._uploads, known.id)
        found = await info.find(known.id)
        if found is None or found.is_behind(known):
            await catch_up(known, self._uploads)
            found = await info.find(known.id)
        if found is None or found.is_behind(known):
            raise StoreUnavailable("Redis lacks what the journal says")

    async def _clear(self, left: Upload) -> None:
        """Remove what is unfinished, unless somebody is about it."""
        data = self._uploads.data
        idle = await self._uploads.leases.idle(left.id)
        try:
            ours = idle and await to_thread.run_sync(data.expire, left.id, just_behind(left))
        except (UploadGone, UploadNotFound):
            # Somebody else removes it just now.
            ours = False
        if not ours:
            raise FormError(Fault.BUSY)
        await to_thread.run_sync(data.purge, left.id)

    async def _read_away(self, exchange: Exchange) -> None:
        """Read a body whose answer is known; who waits to be told to send it need not."""
        if exchange.headers.joined("expect") is not None or not expects_body(exchange.headers):
            return
        nowhere, most = Nowhere(), self._uploads.limits.max_size + BESIDES
        end = BodyEnd.MORE
        while end is BodyEnd.MORE and nowhere.offset < most:
            end = await exchange.move_body(nowhere, STEP, asyncio.Event())

    async def _look(self, form: Form, exchange: Exchange) -> None:
        """Read until it is clear that there is a video; nothing is stored before."""
        end = BodyEnd.MORE
        while end is BodyEnd.MORE and not form.is_telling:
            end = await exchange.move_body(form, _GLANCE, asyncio.Event())
        if not form.is_telling:
            raise cut_short(form, end)
        if form.has_file and not form.received:
            raise FormError(Fault.EMPTY)
        if form.has_begun and not looks_like_video(bytes(form.head[:HEAD_SIZE])):
            raise FormError(Fault.NOT_A_VIDEO)
        if not form.has_begun:
            raise FormError(Fault.INVALID)

    async def _begin(self, name: _Name, form: Form, headers: Headers) -> Upload:
        """Make the record of an upload, if there is room for any."""
        uploads, now = self._uploads, time.time()
        free = await to_thread.run_sync(uploads.data.free_bytes)
        if free < uploads.min_free_bytes:
            raise FormError(Fault.FULL, f"the disk has no room: {free} bytes are free")
        return Upload(
            id=name.job_id,
            length=None,
            metadata=build_metadata(form.described),
            created_at=now,
            expires_at=now + uploads.limits.expiration,
            dialect=IETF,
            fingerprint=name.fingerprint,
            # Above all that an earlier upload of this id may have had.
            token=int(now * 1000),
            request_id=sent(headers),
        )
