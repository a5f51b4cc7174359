"""Take one request's body into an upload, checkpoint by checkpoint."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import structlog
from anyio import to_thread

from processing.container import HEAD_SIZE, looks_like_still, looks_like_video
from storage.errors import LockLost, StorageError, UploadNotFound
from storage.leases import run_to_the_end
from tusd_py import fields
from tusd_py.checksum import DigestingSink, new_digest
from tusd_py.exchange import BodyEnd
from tusd_py.protocol import Code, ProtocolError
from tusd_py.resumable import Problem, ProblemError, check_complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.interfaces import Buffer, DataStore, InfoStore, Sink, Writer
    from storage.leases import Lease
    from storage.upload import Upload
    from tusd_py.exchange import Exchange
    from tusd_py.headers import Checksum
    from tusd_py.protocol import Append, Create, Limits, Speaker

log = structlog.get_logger()

# Bytes after which who watches sees how far it is (chunked-upload: 5 MB), and after which what
# arrived is made durable. The first is cheap; the second stops a fast body for a while.
_STEP = 5 * 2**20
# Seconds that pass between two such looks at least: nobody sees more, and each costs a fast body.
_GLANCE = 0.05
_CHECKPOINT = 256 * 2**20
# Seconds after which it is made durable however little it is.
_LASTING = 0.5
# Seconds between two interim responses.
_PROGRESS = 1.0
# Bytes that wait in memory for the next commit of a body that is not over, of thousands perhaps.
_HELD = 8 * 1024
_READ = 2**20


@dataclass(slots=True)
class Pace:
    """Space out what is made durable of bodies that trickle in: `rate` commits a second in all.

    Thousands of slow uploads would else keep disk and Redis from everybody.
    """

    rate: float = 250.0
    bodies: int = 0

    @property
    def pause(self) -> float:
        """Return the seconds between two commits of a body, on top of what its pulse is."""
        return self.bodies / self.rate if self.bodies > self.rate else 0.0


@dataclass(frozen=True, slots=True)
class Stores:
    """Hold where a body goes and whom it concerns; `finished` is told of a complete upload."""

    data: DataStore
    info: InfoStore
    limits: Limits
    finished: Callable[[], None]
    pace: Pace = field(default_factory=Pace)


class Nowhere:
    """Keep no bytes (storage.interfaces.Sink)."""

    def __init__(self) -> None:
        self.offset = 0

    def write(self, buffers: Sequence[Buffer]) -> None:
        self.offset += sum(len(buffer) for buffer in buffers)

    def take(self, buffers: Sequence[bytes]) -> bool:
        self.write(buffers)
        return True


class Rejected(ProtocolError):
    """Refuse a body so that its upload goes with it."""


class Intake:
    """Take one request's body; `upload` is how it stands."""

    _writer: Writer

    def __init__(
        self, lease: Lease, action: Create | Append, speaker: Speaker, stores: Stores
    ) -> None:
        """Go by what the action says: its length is the one that is right if it is taken."""
        self.upload = upload = lease.upload
        self._lease = lease
        self._action = action
        self._length = action.length
        # What is the last of an upload, and says how long it is, says how long that is.
        implied = action.completes and action.content_length is not None
        self._declared = action.length if implied else upload.length
        self._speaker = speaker
        self._stores = stores
        self._first = upload.offset
        # What cannot be verified before its end is not counted before it either.
        self._verified = action.checksum is not None or action.trailer is not None
        # That enough is here tells nothing: a crash may have come before it was looked at.
        self._seen = not stores.limits.video or upload.partial
        self._started = asyncio.get_running_loop().time()
        self._told_at = self._committed_at = self._started
        self._shown = self._first
        self._showing: asyncio.Task[None] | None = None
        # What is no video is not refused here, but its job will fail: the sooner that is seen.
        self._sniffs = not (stores.limits.video or upload.partial or upload.offset > 0)
        self._sniffing: asyncio.Task[None] | None = None

    async def run(self, exchange: Exchange | None, *, skip: int = 0) -> BodyEnd:
        """Move the body, if there is one, behind its first `skip` bytes, and commit.

        Raises:
            ProtocolError: nothing, or no more, of it was taken.
            Rejected: nor can anything else of this upload be.
        """
        self._writer = await self._lease.writer()
        self.upload = self._writer.upload
        stop = self._lease.stop
        end = BodyEnd.DONE if exchange is None else await self._take(exchange, stop, skip)
        # What cannot be verified is not kept: the offset stays where it was.
        if end is BodyEnd.DONE:
            await self._finish()
        elif not self._verified:
            await self._commit(self._declared)
        return end

    async def _take(self, exchange: Exchange, stop: asyncio.Event, skip: int) -> BodyEnd:
        """Move the body until it ends; its last part is left to commit, all of it if verified."""
        checksum = self._action.checksum
        digest = None if checksum is None else new_digest(checksum.algorithm)
        if skip:
            past: Sink = Nowhere()
            past = past if digest is None else DigestingSink(past, digest)
            while past.offset < skip:
                end = await exchange.move_body(past, skip - past.offset, stop)
                if end is BodyEnd.DONE and past.offset < skip and self._action.completes:
                    raise ProtocolError(Code.KEY_REUSED, "this body is shorter than what is here")
                if end is not BodyEnd.MORE and past.offset < skip:
                    return end
        sink: Sink = self._writer if digest is None else DigestingSink(self._writer, digest)
        self._stores.pace.bodies += 1
        try:
            end = await self._move(sink, exchange, stop)
        finally:
            self._stores.pace.bodies -= 1
            if self._showing is not None:
                self._showing.cancel()
        if self._sniffing is not None:
            await self._sniffing
        if end is not BodyEnd.DONE:
            return end
        if digest is not None and checksum is not None:
            _compare(checksum, digest.digest())
        elif self._action.trailer is not None:
            await self._verify_trailer(exchange, skip)
        return end

    async def _verify_trailer(self, exchange: Exchange, skip: int) -> None:
        checksum = self._speaker.parse_trailer(exchange.trailers)
        if checksum is None:
            expected = f"{self._action.trailer}: expected it behind the body, as Trailer said"
            raise ProtocolError(Code.INVALID_HEADER, f"{expected}, got nothing")
        digest = new_digest(checksum.algorithm)
        start = self._first

        def read_back() -> bytes:
            # What is here already was the beginning of this body.
            with self._stores.data.read(self.upload.id) as content:
                for piece in _pieces(content, skip):
                    digest.update(piece)
            for piece in self._writer.written(start):
                digest.update(piece)
            return digest.digest()

        _compare(checksum, await to_thread.run_sync(read_back))

    async def _move(self, sink: Sink, exchange: Exchange, stop: asyncio.Event) -> BodyEnd:
        most = self._stores.limits.max_size if self._length is None else self._length
        while True:
            try:
                if self._writer.held > _HELD:
                    await run_to_the_end(self._writer.write, ())
                offset = sink.offset
                # As nothing has come yet, its speed is not known either.
                step = _STEP if offset == self._first else self._step(offset)
                end = await exchange.move_body(sink, min(most - offset, step), stop)
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
            if self._is_due(sink.offset):
                await self._checkpoint()
                await self._tell(exchange)
            else:
                self._show(sink.offset)
            self._begin_to_sniff(sink.offset)

    def _step(self, offset: int) -> int:
        """Return the bytes until the next look at a body; none of them divides a page."""
        glance = int(self._speed(offset) * _GLANCE) // _STEP * _STEP
        return max(_STEP, min(_CHECKPOINT, glance))

    def _is_due(self, offset: int) -> bool:
        """Tell whether it is time to commit: for much at once, for little when it is its turn."""
        now = asyncio.get_running_loop().time()
        little = offset - self.upload.offset < _CHECKPOINT
        pause = max(_LASTING if self._seen else 0.0, self._stores.pace.pause)
        if little and now - self._committed_at < pause:
            return False
        if not self._lease.due:
            return False
        self._committed_at = now
        return True

    def _show(self, offset: int) -> None:
        """Let who watches see what was received; nobody waits for that, and some is left out."""
        busy = self._showing is not None and not self._showing.done()
        if self._verified or busy or offset - self._shown < _STEP:
            return
        self._shown = offset
        self._showing = asyncio.create_task(self._try_to_show(offset))

    async def _try_to_show(self, offset: int) -> None:
        with suppress(StorageError):
            await self._stores.info.show(self.upload, offset, speed=self._speed(offset))

    def _begin_to_sniff(self, offset: int) -> None:
        """Look once at the first bytes of a body that lasts, which does not wait for that."""
        if self._sniffing is None and self._sniffs and offset - self._writer.held >= HEAD_SIZE:
            self._sniffing = asyncio.create_task(self._sniff())

    async def _sniff(self) -> None:
        with suppress(StorageError):
            head = await to_thread.run_sync(self._head)
            if looks_like_video(head) is False and not looks_like_still(head):
                await self._stores.info.warn(self.upload, Code.NOT_A_VIDEO.sentence)

    def _head(self) -> bytes:
        # Written, though perhaps not committed yet.
        with self._stores.data.read(self.upload.id) as content:
            return content.read(HEAD_SIZE)

    async def _tell(self, exchange: Exchange) -> None:
        """Tell the client how far it is, now and then."""
        now = asyncio.get_running_loop().time()
        if self._verified or now - self._told_at < _PROGRESS:
            return
        self._told_at = now
        interim = self._speaker.progress(self.upload)
        if interim is not None:
            await exchange.interim(interim)

    async def _checkpoint(self) -> None:
        # Any other length is known for good only when its request was taken whole.
        if not self._verified:
            await self._commit(self._declared)

    async def _finish(self) -> None:
        """Count the whole body, and complete the upload if that is what it does."""
        action, offset = self._action, self._writer.offset
        length = offset if action.completes and self._length is None else self._length
        complete = offset == length if action.completes is None else action.completes
        if action.completes and offset != length:
            # What came is kept; that it was all is not believed.
            await self._commit(self.upload.length)
            check_complete(action, offset, length)
        said = self.upload.repr_digest or action.repr_digest
        if complete and (said or not self._seen):
            await self._commit(self.upload.length, seen=False)
            await self._examine()
        await self._commit(length, complete=complete)

    async def _examine(self) -> None:
        """Check the whole content against what was said of it; it is durable, not yet complete."""
        if not self._seen and not await to_thread.run_sync(self._is_video):
            raise Rejected(Code.NOT_A_VIDEO)
        self._seen = True
        for header in {self.upload.repr_digest, self._action.repr_digest} - {None}:
            expected = fields.parse_digests("repr-digest", str(header))
            found = await to_thread.run_sync(
                content_digests, self._stores.data, self.upload.id, tuple(expected)
            )
            if found != expected:
                problem = Problem.MISMATCHING_DIGEST
                raise ProblemError(problem, "the upload is not what its Repr-Digest says")

    def _is_video(self) -> bool | None:
        with self._stores.data.read(self.upload.id) as content:
            return looks_like_video(content.read(HEAD_SIZE)[: self.upload.offset])

    async def _commit(
        self, length: int | None, *, complete: bool | None = None, seen: bool = True
    ) -> None:
        """Make what was written durable, then known, then a job when it is all."""
        offset, before = self._writer.offset, self.upload
        complete = before.complete if complete is None else complete
        if (offset, length, complete) != (before.offset, before.length, before.complete):
            expires_at = time.time() + self._stores.limits.expiration
            await self._store(before.at(offset, length, expires_at, complete=complete))
        if seen and not self._seen and offset > 0:
            await self._look()

    async def _look(self) -> None:
        """Look at the first bytes as soon as there are enough of them."""
        video = await to_thread.run_sync(self._is_video)
        if video is False:
            raise Rejected(Code.NOT_A_VIDEO)
        self._seen = video is True

    async def _store(self, upload: Upload) -> None:
        stores = self._stores
        await self._lease.commit(upload)
        try:
            await stores.info.commit(
                upload, speed=self._speed(upload.offset), lock=self._lease.lock
            )
        except UploadNotFound:
            await self._restore()
        # Not before: a refusal tells how far the upload is.
        self._lease.upload = self.upload = upload
        if self.upload.complete:
            log.info("upload.complete", upload=self.upload.id, length=self.upload.length)
            stores.finished()

    async def _restore(self) -> None:
        """Give a Redis that was emptied meanwhile the record back, this commit included."""
        data, upload_id = self._stores.data, self.upload.id
        upload, ended = await to_thread.run_sync(data.recover, upload_id)
        await to_thread.run_sync(data.settle, upload_id)
        await self._stores.info.restore(upload, ended)
        self._stores.finished()
        # The lock is lost as well: the client shall ask for the offset and go on.
        raise LockLost("the record of this upload was lost and has been rebuilt")

    def _speed(self, offset: int) -> float:
        elapsed = asyncio.get_running_loop().time() - self._started
        return (offset - self._first) / elapsed if elapsed > 0 else 0.0


def _compare(checksum: Checksum, digest: bytes) -> None:
    if digest != checksum.digest:
        raise ProtocolError(Code.CHECKSUM_MISMATCH)


def content_digests(data: DataStore, upload_id: str, algorithms: Sequence[str]) -> dict[str, bytes]:
    """Compute digests of an upload's whole content by RFC 9530's names; blocks."""
    digests = {name: new_digest(name.replace("-", "")) for name in algorithms}
    with data.read(upload_id) as content:
        for piece in _pieces(content, sys.maxsize):
            for digest in digests.values():
                digest.update(piece)
    return {name: digest.digest() for name, digest in digests.items()}


def _pieces(content: BinaryIO, most: int) -> Iterator[bytes]:
    while piece := content.read(min(_READ, most)):
        most -= len(piece)
        yield piece
