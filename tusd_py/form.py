"""`POST /process/video/upload/async`: a video in a form, streamed into an upload of its own.

There is no resuming here: a request that fails leaves nothing, and its name can be used again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from base64 import b64encode
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from anyio import to_thread

from processing.container import HEAD_SIZE, looks_like_video
from storage.errors import LockLost, StorageError, UploadGone, UploadNotFound
from storage.job import MB, Job, JobState
from storage.leases import run_to_the_end, to_the_end
from storage.upload import Upload
from tusd_py.exchange import BodyEnd, expects_body
from tusd_py.fault import Fault, FormError, accepted, refused
from tusd_py.headers import Headers, InvalidHeader, parse_key, parse_number
from tusd_py.intake import Intake, Nowhere
from tusd_py.multipart import BESIDES, Form, InvalidForm, parse_boundary
from tusd_py.protocol import IETF, Create, ProtocolError
from tusd_py.request_id import sent
from tusd_py.resumable import VERSIONS, Dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from storage.interfaces import InfoStore, Sink
    from storage.leases import Lease
    from tusd_py.exchange import Exchange
    from tusd_py.origin import Origin
    from tusd_py.protocol import Response
    from tusd_py.uploads import Uploads

log = structlog.get_logger()

PATH = "/process/video/upload/async"
# Bytes after which the log, and who watches, sees how far it is (chunked-upload: 5 MB).
_STEP = 5 * MB
# What is read at a time before it is known that it is a video.
_GLANCE = 64 * 1024
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


_ENDS = {BodyEnd.DISCONNECTED: Fault.CUT, BodyEnd.STALLED: Fault.STALLED}


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
            size = await self._take(name, form, exchange)
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
        if (_content_length(headers) or 0) > most + BESIDES:
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
            raise FormError(Fault.TAKEN) from None
        if known.fingerprint != name.fingerprint:
            raise FormError(Fault.KEY_REUSED if name.keyed else Fault.TAKEN)
        if known.complete:
            if not name.keyed:
                raise FormError(Fault.TAKEN)
            return known
        if not await to_thread.run_sync(data.expire, known.id, float("inf")):
            raise FormError(Fault.BUSY)
        await to_thread.run_sync(data.purge, known.id)
        return None

    async def _read_away(self, exchange: Exchange) -> None:
        """Read a body whose answer is known; who waits to be told to send it need not."""
        if exchange.headers.joined("expect") is not None or not expects_body(exchange.headers):
            return
        nowhere, most = Nowhere(), self._uploads.limits.max_size + BESIDES
        end = BodyEnd.MORE
        while end is BodyEnd.MORE and nowhere.offset < most:
            end = await exchange.move_body(nowhere, _STEP, asyncio.Event())

    async def _look(self, form: Form, exchange: Exchange) -> None:
        """Read until it is clear that there is a video; nothing is stored before."""
        end = BodyEnd.MORE
        while end is BodyEnd.MORE and not form.is_telling:
            end = await exchange.move_body(form, _GLANCE, asyncio.Event())
        if not form.is_telling:
            raise _ended(form, end)
        if form.has_file and not form.received:
            raise FormError(Fault.EMPTY)
        if form.has_begun and not looks_like_video(bytes(form.head[:HEAD_SIZE])):
            raise FormError(Fault.NOT_A_VIDEO)
        if not form.has_begun:
            raise FormError(Fault.INVALID)

    # The upload

    async def _take(self, name: _Name, form: Form, exchange: Exchange) -> int:
        """Make an upload of what comes, and return its size; none is left of one that fails."""
        rest = _Rest(form, exchange, self._uploads.info)
        upload = await self._create(name, form, exchange.headers)
        # Who asks for it meanwhile has it for a moment; a Redis that lost it gets it back.
        while not await self._fill(upload, rest):
            log.debug("form.goes_on", upload=upload.id)
        rest.log_success()
        return form.received

    async def _fill(self, upload: Upload, rest: _Rest) -> bool:
        """Take what comes until somebody else asks for the upload; tell whether that was all."""
        async with AsyncExitStack() as held:
            try:
                holding = self._uploads.leases.hold(upload.id, self._mend)
                lease = await held.enter_async_context(holding)
                upload = lease.upload
                return await self._run(lease, rest)
            except LockLost:
                return False
            except (UploadGone, UploadNotFound):
                # Removed by somebody else.
                raise
            except BaseException:
                # Before anybody else may have it.
                await to_the_end(self._remove(upload))
                raise

    async def _run(self, lease: Lease, rest: _Rest) -> bool:
        if lease.upload.offset != rest.form.passed:
            raise FormError(Fault.LOST)
        if lease.upload.complete:
            return True
        await self._uploads.info.expect(lease.upload, rest.total)
        dialect = Dialect(VERSIONS[-1], announced=False)
        action = Create(None, lease.upload.metadata, body=True, content_length=None, completes=True)
        rest.intake = intake = Intake(lease, action, dialect, self._uploads.stores)
        end = await intake.run(rest)
        if end is BodyEnd.STOPPED and self._uploads.closing():
            raise FormError(Fault.ENDING)
        if end not in {BodyEnd.DONE, BodyEnd.STOPPED}:
            raise _ended(rest.form, end)
        return end is BodyEnd.DONE

    async def _mend(self, upload_id: str) -> None:
        """Rebuild a record that Redis has lost from the data store."""
        data = self._uploads.data
        upload, ended = await to_thread.run_sync(data.recover, upload_id)
        await to_thread.run_sync(data.settle, upload_id)
        await self._uploads.info.restore(upload, ended)

    async def _create(self, name: _Name, form: Form, headers: Headers) -> Upload:
        uploads, now = self._uploads, time.time()
        free = await to_thread.run_sync(uploads.data.free_bytes)
        if free < uploads.min_free_bytes:
            raise FormError(Fault.FULL, f"the disk has no room: {free} bytes are free")
        upload = Upload(
            id=name.job_id,
            length=None,
            metadata=_metadata(form.described),
            created_at=now,
            expires_at=now + uploads.limits.expiration,
            dialect=IETF,
            fingerprint=name.fingerprint,
            # Above all that an earlier upload of this id may have had.
            token=int(now * 1000),
            request_id=sent(headers),
        )
        await to_the_end(self._store(upload))
        return upload

    async def _store(self, upload: Upload) -> None:
        uploads = self._uploads
        await to_thread.run_sync(uploads.data.create, upload)
        try:
            # What Redis has of this id is of one that is gone.
            await uploads.info.forget(upload.id)
            await uploads.info.create(upload)
        except StorageError:
            await self._remove(upload)
            raise
        log.debug("upload.created", upload=upload.id)

    async def _remove(self, upload: Upload) -> None:
        """Remove an upload that failed, without a trace: its name can be used again."""
        uploads = self._uploads
        with suppress(StorageError):
            # The tombstone comes first: whatever happens now, it stays removed.
            await to_thread.run_sync(uploads.data.remove, upload.id)
            with suppress(UploadNotFound):
                await uploads.info.terminate(upload, time.time() + uploads.limits.expiration)
            await to_thread.run_sync(uploads.data.purge, upload.id)


class _Rest:
    """Bring what is left of a form as the body of its upload (tusd_py.exchange.Exchange).

    It is over with the form, not with the file: what comes behind that may still refuse it.
    """

    can_trail = False
    trailers = Headers(())
    intake: Intake

    def __init__(self, form: Form, exchange: Exchange, info: InfoStore) -> None:
        self.headers = exchange.headers
        self.form = form
        self.total = _expected(form, exchange.headers)
        self._exchange = exchange
        self._info = info
        self._started = time.monotonic()

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        """Move the next part; the form knows its limit better, and no delimiter counts for it."""
        form = self.form
        form.sink = sink
        await run_to_the_end(form.pass_on)
        before = form.received // _STEP
        end = BodyEnd.MORE
        while end is BodyEnd.MORE:
            end = await self._exchange.move_body(form, _STEP - form.received % _STEP, stop)
            if limit:
                break
        if end is BodyEnd.DONE:
            await self._end()
        elif form.received // _STEP > before:
            self._log_progress()
        return end

    async def _end(self) -> None:
        """Say of the upload what was known of it at last."""
        if not self.form.ended:
            raise _ended(self.form, BodyEnd.DONE)
        upload, metadata = self.intake.upload, _metadata(self.form.described)
        if metadata != upload.metadata:
            self.intake.upload = upload = replace(upload, metadata=metadata)
            await self._info.describe(upload)

    def _log_progress(self) -> None:
        job = Job(
            self.intake.upload.id,
            JobState.UPLOADING,
            done=self.form.received,
            total=self.total,
            speed=self._speed(),
        )
        # The sentence is the interface: who reads it has always read it so.
        log.info(f"Upload progress [{job.id}]: {job.message}")  # noqa: G004

    def log_success(self) -> None:
        """Say that the file is here, how fast it came."""
        size, seconds = self.form.received / MB, time.monotonic() - self._started
        took = f"{size:.2f}MB in {seconds:.1f}s ({self._speed() / MB:.2f}MB/s)"
        log.info(f"✓ File uploaded successfully: {took}")  # noqa: G004  as above

    def _speed(self) -> float:
        seconds = time.monotonic() - self._started
        return self.form.received / seconds if seconds > 0 else 0.0

    async def interim(self, response: Response) -> None:
        """Send nothing: who sends forms expects no news."""

    async def respond(self, response: Response) -> None:
        await self._exchange.respond(response)

    async def cut(self) -> None:
        await self._exchange.cut()


def _content_length(headers: Headers) -> int | None:
    value = headers.one("content-length")
    return None if value is None else parse_number("content-length", value)


def _expected(form: Form, headers: Headers) -> int:
    """Return how large the file is likely to be: as if nothing else came behind it; 0: unknown."""
    if form.has_file:
        return form.received
    length = _content_length(headers)
    return 0 if length is None else max(form.received, form.file_end(length))


def _ended(form: Form, end: BodyEnd) -> FormError:
    if end in _ENDS:
        return FormError(_ENDS[end])
    if not form.ended:
        return FormError(Fault.INVALID, "expected a form that ends with its delimiter, got less")
    return FormError(Fault.INVALID)


def _metadata(described: Mapping[str, str]) -> str:
    pairs = ((name, b64encode(text.encode()).decode()) for name, text in described.items())
    return ",".join(f"{name} {value}" for name, value in pairs)
