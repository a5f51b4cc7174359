"""Fill an upload from a form: held, checkpointed and completed as any, or gone without a trace."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from math import inf, nextafter
from typing import TYPE_CHECKING

import structlog
from anyio import to_thread

from storage.errors import (
    LockLost,
    RecordBehind,
    StorageError,
    StoreUnavailable,
    UploadGone,
    UploadNotFound,
)
from storage.job import MB, Job, JobState
from storage.leases import run_to_the_end, to_the_end
from tusd_py.exchange import BodyEnd
from tusd_py.fault import Fault, FormError
from tusd_py.headers import Headers, parse_number
from tusd_py.intake import Intake
from tusd_py.protocol import Create
from tusd_py.resumable import VERSIONS, Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.interfaces import InfoStore, Sink
    from storage.leases import Lease
    from storage.upload import Upload
    from tusd_py.call import Uploads
    from tusd_py.exchange import Exchange
    from tusd_py.multipart import Form
    from tusd_py.protocol import Response

log = structlog.get_logger()

_ENDS = {BodyEnd.DISCONNECTED: Fault.CUT, BodyEnd.STALLED: Fault.STALLED}
# Bytes after which the log, and who watches, sees how far it is (chunked-upload: 5 MB).
STEP = 5 * MB
# Seconds that a Redis which is away is waited for, as nobody can go on with a form; and how often.
_PATIENCE = 20.0
_PAUSE = 0.25
# How often it is looked whether a tombstone stays.
_LOOKS = 8


class Filling:
    """Make an upload of a form; none is left of one that fails, and its id can be used again."""

    def __init__(
        self, uploads: Uploads, upload: Upload, form: Form, exchange: Exchange, *, named: bool
    ) -> None:
        """Store `upload` first; its metadata are not complete before the form is.

        `named` tells that its id was chosen by the client, who may use it again.
        """
        self._uploads = uploads
        self._named = named
        self._upload = upload
        self._rest = _Rest(form, exchange, uploads.info, upload.metadata)
        # Since when Redis has been away, with so many bytes passed.
        self._away_since, self._passed_then = 0.0, -1

    async def run(self) -> None:
        """Take all of the form.

        Raises:
            FormError, InvalidForm: it cannot be taken.
            StorageError: nor can anything be, just now.
        """
        await to_the_end(self._store())
        # Who asks for it meanwhile has it for a moment; a Redis that lost it gets it back.
        while not await self._fill():
            log.debug("form.goes_on", upload=self._upload.id)
        self._rest.log_success()

    async def _store(self) -> None:
        uploads = self._uploads
        await to_thread.run_sync(uploads.data.create, self._upload)
        try:
            # What Redis has of this id is of one that is gone.
            await uploads.info.forget(self._upload.id)
            await uploads.info.create(self._upload)
        except StorageError:
            await self._remove()
            raise
        log.debug("upload.created", upload=self._upload.id)

    async def _fill(self) -> bool:
        """Take what comes as long as nothing comes in between; tell whether that was all."""
        try:
            return await self._hold()
        except LockLost:
            return False
        except RecordBehind as behind:
            try:
                await self._catch_up(behind.upload)
            except UploadGone:
                raise FormError(await self._why_gone()) from None
            except BaseException as error:
                if not await self._shall_wait(error):
                    await to_the_end(self._remove())
                    raise
            return False

    async def _catch_up(self, journal: Upload) -> None:
        """Give a record that Redis rolled back what was known of it."""
        if not self._owns(journal) or journal.offset != self._rest.form.passed:
            raise FormError(Fault.LOST)
        await catch_up(journal, self._uploads)

    async def _hold(self) -> bool:
        lease: Lease | None = None
        async with AsyncExitStack() as held:
            try:
                holding = self._uploads.leases.hold(self._upload.id, partial(mend, self._uploads))
                lease = await held.enter_async_context(holding)
                return await self._run(lease)
            except (LockLost, RecordBehind):
                raise
            except UploadNotFound:
                # Somebody else has forgotten it.
                raise
            except UploadGone:
                raise FormError(await self._why_gone()) from None
            except BaseException as error:
                if await self._shall_wait(error):
                    return False
                # Before anybody else may have it.
                await to_the_end(self._remove(held=lease is not None))
                raise

    async def _why_gone(self) -> Fault:
        """Tell a removal from a request of the same name that makes room for itself."""
        for _ in range(_LOOKS):
            await asyncio.sleep(_PAUSE)
            try:
                await to_thread.run_sync(self._uploads.data.look, self._upload.id)
            except UploadGone:
                continue
            except StorageError:
                pass
            return Fault.LOST
        return Fault.GONE

    async def _shall_wait(self, error: BaseException) -> bool:
        """Wait a moment for a Redis that is away, unless that was in vain for too long."""
        if not isinstance(error, StoreUnavailable) or self._uploads.closing():
            return False
        now, passed = time.monotonic(), self._rest.form.passed
        if passed != self._passed_then:
            self._away_since, self._passed_then = now, passed
        if now - self._away_since > _PATIENCE:
            return False
        await asyncio.sleep(_PAUSE)
        return True

    async def _run(self, lease: Lease) -> bool:
        known, passed = lease.upload, self._rest.form.passed
        if not self._owns(known):
            raise FormError(Fault.LOST)
        self._upload = known
        if known.offset < passed:
            journal = await to_thread.run_sync(self._uploads.data.look, known.id)
            raise RecordBehind(journal)
        if known.offset > passed:
            raise FormError(Fault.LOST)
        if known.complete:
            return True
        await self._uploads.info.expect(known, self._rest.total)
        return await self._take(lease)

    async def _take(self, lease: Lease) -> bool:
        action = Create(None, lease.upload.metadata, body=True, content_length=None, completes=True)
        dialect = Dialect(VERSIONS[-1], announced=False)
        intake = Intake(lease, action, dialect, self._uploads.stores)
        self._rest.intake = intake
        end = await intake.run(self._rest)
        if end is BodyEnd.STOPPED and self._uploads.closing():
            raise FormError(Fault.ENDING)
        if end not in {BodyEnd.DONE, BodyEnd.STOPPED}:
            raise cut_short(self._rest.form, end)
        return end is BodyEnd.DONE

    async def _remove(self, *, held: bool = False) -> None:
        uploads, upload = self._uploads, self._upload
        with suppress(StorageError):
            await to_thread.run_sync(self._purge, held)
        # What a Redis that is away still says is mended like all that has no journal.
        with suppress(StorageError):
            await uploads.info.terminate(upload, time.time() + uploads.limits.expiration)

    def _purge(self, held: bool) -> None:  # noqa: FBT001  a thread calls it
        """Remove it for good, if it is still this one.

        What is complete is kept for who can ask for it again by its name.
        """
        data, upload_id = self._uploads.data, self._upload.id
        journal, _ = data.recover(upload_id)
        if not self._owns(journal) or (self._named and journal.complete):
            return
        if held or not self._named:
            data.remove(upload_id)
        elif not data.expire(upload_id, just_behind(journal)):
            return
        # Until here nobody could create another one.
        data.purge(upload_id)

    def _owns(self, found: Upload) -> bool:
        """Tell whether it is the one that was made here: its id may have been used again."""
        return found.created_at == self._upload.created_at


def just_behind(upload: Upload) -> float:
    """Return a time at which it has expired, and none of its id that was made later."""
    return nextafter(upload.expires_at, inf)


async def mend(uploads: Uploads, upload_id: str) -> None:
    """Rebuild a record that Redis has lost from the data store. Raises as DataStore.recover."""
    upload, ended = await to_thread.run_sync(uploads.data.recover, upload_id)
    await to_thread.run_sync(uploads.data.settle, upload_id)
    await uploads.info.restore(upload, ended)


async def catch_up(journal: Upload, uploads: Uploads) -> None:
    """Say in a record that is behind what its journal says, unless somebody holds it."""
    await to_thread.run_sync(uploads.data.settle, journal.id)
    await uploads.info.raise_to(journal)


class _Rest:
    """Bring what is left of a form as the body of its upload (tusd_py.exchange.Exchange).

    It is over with the form, not with the file: what comes behind that may still refuse it.
    """

    can_trail = False
    trailers = Headers(())
    intake: Intake

    def __init__(self, form: Form, exchange: Exchange, info: InfoStore, known: str | None) -> None:
        """Describe the upload to `info`, where its metadata are `known`."""
        self.headers = exchange.headers
        self.form = form
        self.total = _expected(form, exchange.headers)
        self._exchange = exchange
        self._info = info
        self._known = known
        self._started = time.monotonic()

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        """Move the next part; the form knows its limit better, and no delimiter counts for it."""
        form = self.form
        form.sink = sink
        await run_to_the_end(form.pass_on)
        before = form.received // STEP
        end = BodyEnd.MORE
        while end is BodyEnd.MORE:
            end = await self._exchange.move_body(form, STEP - form.received % STEP, stop)
            if limit:
                break
        if end is BodyEnd.DONE:
            await self._end()
        elif form.received // STEP > before:
            self._log_progress()
        return end

    async def _end(self) -> None:
        """Say of the upload what was known of it at last."""
        if not self.form.ended:
            raise cut_short(self.form, BodyEnd.DONE)
        metadata = build_metadata(self.form.described)
        self.intake.upload = replace(self.intake.upload, metadata=metadata)
        if metadata != self._known:
            await self._info.describe(self.intake.upload)
            self._known = metadata

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


def content_length(headers: Headers) -> int | None:
    """Return how long the body says it is; raise InvalidHeader."""
    value = headers.one("content-length")
    return None if value is None else parse_number("content-length", value)


def _expected(form: Form, headers: Headers) -> int:
    """Return how large the file is likely to be: as if nothing else came behind it; 0: unknown."""
    if form.has_file:
        return form.received
    length = content_length(headers)
    return 0 if length is None else max(form.received, form.file_end(length))


def cut_short(form: Form, end: BodyEnd) -> FormError:
    """Say why a form ended before it was complete."""
    if end in _ENDS:
        return FormError(_ENDS[end])
    if not form.ended:
        return FormError(Fault.INVALID, "expected a form that ends with its delimiter, got less")
    return FormError(Fault.INVALID)


def build_metadata(described: Mapping[str, str]) -> str:
    """Build `Upload-Metadata` of what a form tells of its file."""
    pairs = ((name, b64encode(text.encode()).decode()) for name, text in described.items())
    return ",".join(f"{name} {value}" for name, value in pairs)
