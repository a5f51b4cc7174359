"""The ports of the storage; these docstrings are the contract every implementation keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from storage.durability import Steps
    from storage.job import Ended, Job, Listed, Place
    from storage.upload import Upload

Buffer = bytes | bytearray | memoryview


class Sink(Protocol):
    """Take bytes. Its methods block: call them in a thread, one at a time."""

    @property
    def offset(self) -> int:
        """Tell where the next byte goes: what was there at opening plus what was written."""

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Write all of them at `offset` and advance it; raise StorageFull with what fits kept."""

    def take(self, buffers: Sequence[bytes]) -> bool:
        """Advance `offset` by them without blocking, if they are few; False: nothing was taken.

        They are written with what is written or committed next.
        """


class Writes(Protocol):
    """Write memory to files while the caller goes on; for one thread at a time."""

    @property
    def size(self) -> int:
        """Tell how many bytes are being written."""

    def __len__(self) -> int:
        """Tell how many writes are under way."""

    def begin(self, file: int, memory: memoryview, position: int) -> bool:
        """Begin to write; False: it was not begun. Keep the memory as it is until it has ended."""

    def end(self) -> tuple[memoryview, int]:
        """Wait for the write that began first; return its memory, and how much was written."""

    def close(self) -> None:
        """Return when nothing is under way any more."""


class FileSink(Sink, Protocol):
    """Take many bytes at once into a file (storage.bulk). These methods block as well."""

    @property
    def direct(self) -> bool:
        """Tell whether blocks of memory do better here than a pipe."""

    @property
    def skew(self) -> int:
        """Tell how many bytes `offset` is behind the last page's beginning in the file."""

    def splice(self, pipe: int, count: int) -> None:
        """Write `count` bytes that a pipe holds; raise StorageFull with what fits kept."""

    def write_pages(self, memory: memoryview) -> None:
        """Write memory that begins `skew` bytes behind a page's beginning. Raises as `splice`."""

    def begin_pages(self, memory: memoryview, writes: Writes, to_come: int) -> None:
        """Begin to write the same behind what is under way, which has to end with a page.

        About `to_come` bytes will follow. `offset` counts it when it is over. After an error
        nothing is under way. Raises as `splice`.
        """

    def end_pages(self, writes: Writes, most: int = 0) -> None:
        """Wait until at most `most` writes are under way. Raises as `splice`, as `begin_pages`."""


class Writer(FileSink, Protocol):
    """Write one upload's bytes."""

    @property
    def upload(self) -> Upload:
        """The record as it was opened, with the segment that is written, or committed last."""

    def written(self, start: int) -> Iterator[bytes]:
        """Read back what this writer wrote from `start` on."""

    @property
    def held(self) -> int:
        """Tell how many bytes that were taken wait in memory to be written."""

    @property
    def unsynced(self) -> int:
        """Tell how many bytes were written that no commit has synced."""

    def commit(self, upload: Upload) -> None:
        """Bring data, then journal, to stable storage: `upload` is what is true from here on.

        Its offset is at most `offset` here; when it is complete the file is cut to it. Its metadata
        may be another one than at the creation. After
        DiskFailed or StorageFull it is as if nothing had been written since the last commit, and
        nothing more can be: open it again.

        Raises:
            LockLost: somebody has opened it under a newer token; nobody may be told of this.
            UploadGone: it was removed.
        """

    def committing(self, upload: Upload) -> Steps[None]:
        """Do the same in steps, for who waits for syncs otherwise."""

    def rewind(self) -> None:
        """Go back to what was committed: `offset` is that of `upload` again."""

    def undisturbed(self) -> bool:
        """Tell cheaply whether nobody else has opened, changed or removed it since."""

    def close(self) -> None:
        """Let go of the files; idempotent. What was not committed may be lost."""


class DataStore(Protocol):
    """Keep the bytes of uploads, and beside them all it takes to rebuild their records.

    Every method blocks, and raises DiskFailed; what writes raises StorageFull too. Ids are checked
    before they come here.
    """

    @property
    def directory(self) -> Path:
        """Tell where it lies."""

    def create(self, upload: Upload) -> None:
        """Create the upload durably: it survives a power cut from here on.

        A final one has no bytes before it is assembled.

        Raises:
            UploadExists: there is one of that id, alive or removed; of many at once one succeeds.
        """

    def identify(self, key: str) -> str:
        """Return the id that `key` names here, always the same and known to nobody else."""

    def assemble(self, final_id: str, most: int) -> Upload:
        """Give a final upload the bytes of its parts as far as they are complete; idempotent.

        Return it as it then stands: complete with the last of its parts. Nothing is copied, and
        removing a part takes nothing away from here on. Many may do it at once.

        Raises:
            UploadNotFound: there is no such upload.
            UploadGone: it was removed, or it can never be complete: a part was removed before it
                was, or they are more than `most` bytes.
        """

    @property
    def prompt(self) -> bool:
        """Tell whether `begin` and `commit` wait for no disk: a thread would cost more."""

    def begin(self, upload: Upload) -> Writer:
        """Create an upload whose id is new, as `create` does, and open it under `upload.token`."""

    def beginning(self, upload: Upload) -> Steps[Writer]:
        """Do the same in steps, for who waits for syncs otherwise."""

    def open(self, upload: Upload) -> Writer:
        """Open for writing at `upload.offset` under `upload.token`, which is remembered durably.

        A holder that lost its lock, and may only be asleep, can never reach what is written from
        here on: where it still has the last segment a new one begins.

        Raises:
            UploadNotFound: there are no files of this upload.
            UploadGone: it was removed.
            RecordBehind: `upload` lacks what the journal says, or its token is not a new one.
            JournalDamaged: fewer bytes are here than `upload.offset` says.
        """

    def read(self, upload_id: str) -> BinaryIO:
        """Open the bytes for reading, seekable; raise UploadNotFound or UploadGone.

        What is open stays readable when it is removed; a read is short only at the end.
        """

    def recover(self, upload_id: str) -> tuple[Upload, Ended | None]:
        """Rebuild the record, and how its job ended, from what lies beside the data.

        Raises:
            UploadNotFound: nothing is there.
            UploadGone: it was removed.
            JournalDamaged: it cannot be read.
            RecordTooNew: a newer version of this program wrote it.
        """

    def settle(self, upload_id: str) -> None:
        """Bring all that was read of it so far to stable storage, before it is told any further.

        Whoever wrote it may have died before that. Where nothing is left there is nothing to do.
        """

    def look(self, upload_id: str) -> Upload:
        """Return the record as what lies beside the data has it, cheaply; raise as `recover`.

        A final upload that waits for parts is gone with them, and has a length when all of them do.
        """

    def end_job(self, upload_id: str, ended: Ended | None) -> None:
        """Remember durably how the job ended; None: it is to run again."""

    def remove_bytes(self, upload_id: str) -> None:
        """Remove the video and keep the record; idempotent."""

    def remove(self, upload_id: str) -> None:
        """Remove upload and result for good: a tombstone first, so that nothing revives it.

        Where nothing is left of it there is nothing to do.
        """

    def expire(self, upload_id: str, before: float) -> bool:
        """Remove a perishable upload that nobody has open; tell whether it was.

        Only one that expired before that time, by its own word: no other store is asked.
        """

    def purge(self, upload_id: str) -> None:
        """Forget the upload, its tombstone and its result; idempotent."""

    def reclaim(self, upload_id: str, fingerprint: str) -> bool:
        """Purge an upload of that fingerprint which was removed, unless it was complete before.

        Tell whether that was done here; its id may then be used again.
        """

    def ids(self) -> Iterator[str]:
        """List every upload that has a record here, removed ones included."""

    def publish_result(self, upload_id: str, result: bytes, crops: Sequence[bytes] = ()) -> bool:
        """Store a result and the JPEG of each plate's best shot durably, all or nothing.

        Empty ones are left out. False when a result is there already, which then stands with its
        own; so does the one of a run that died before it could give it its name.
        """

    def result(self, upload_id: str) -> bytes | None:
        """Return the published result, or None."""

    def crop(self, upload_id: str, number: int) -> bytes | None:
        """Return the best shot of a plate of the result, counted from 0, as JPEG, or None."""

    def forget_shares(self, upload_id: str) -> None:
        """Remove what workers have brought of an analysis that they share; idempotent."""

    def free_bytes(self) -> int:
        """Tell how many bytes can still be written; raise DiskFailed."""


class InfoStore(Protocol):
    """Keep records where every process reads them fast. Raises StoreUnavailable throughout."""

    async def create(self, upload: Upload, lock: Lock | None = None) -> None:
        """Store a new record and its job, uploading; `lock` holds it from then on."""

    async def restore(self, upload: Upload, ended: Ended | None) -> None:
        """Store a record rebuilt from the data store, unless there is one by now."""

    async def raise_to(self, upload: Upload) -> bool:
        """Say in a record that is behind what its journal says (RecordBehind); False if it is not.

        Its token rises above both. While somebody holds the lock nothing is done, so it is called
        without: who comes next then finds a record that is right.
        """

    async def commit(self, upload: Upload, *, speed: float, lock: Lock | None = None) -> None:
        """Raise offset, length, expiry and completion; a completed one enters the outbox.

        With it `lock` is given back, which then says so.

        Raises:
            LockLost: a newer token has been given out since, or it is complete with bytes missing.
            UploadNotFound: the record is missing.
        """

    async def show(self, upload: Upload, received: int, *, speed: float) -> None:
        """Let who watches the job see so many bytes, on which no client may rely yet."""

    async def expect(self, upload: Upload, size: int) -> None:
        """Let who watches the job see that it will be about so many bytes, on which none relies."""

    async def warn(self, upload: Upload, error: str) -> None:
        """Let who watches the job of an unfinished upload see why it will fail."""

    async def describe(self, upload: Upload) -> None:
        """Store the metadata of an upload that its creation did not know; the lock is held."""

    async def forget(self, upload_id: str) -> None:
        """Drop what is known of an id of which the data store has nothing."""

    async def hand_over(self, upload: Upload) -> None:
        """Let who watches the job see that another request has taken the upload over."""

    async def terminate(self, upload: Upload, forget_at: float) -> None:
        """Remove the record; its job is cancelled. Raises as `commit`."""

    async def finals(self, part_id: str) -> Sequence[str]:
        """Return the final uploads of this part that wait, for it or for another one of theirs."""

    async def find(self, upload_id: str) -> Upload | None:
        """Return the record as it stands, whoever writes it, or None; raise RecordTooNew."""

    async def job(self, job_id: str) -> Job | None:
        """Return the job, or None."""

    async def plates(self, job_id: str) -> Sequence[str]:
        """Return the texts of the plates that a run of the job has found so far."""


class Listing(Protocol):
    """List jobs, the newest first. Raises StoreUnavailable."""

    async def after(self, start: Place, until: float, most: int) -> Sequence[Listed]:
        """Return at most so many jobs behind a place, created at `until` or later.

        Only at the end there are none: those that went away meanwhile are left out.
        """


class Lock(Protocol):
    """Stand for the right to write one upload, until the holder lets go or is asked to.

    `returned` tells that it was given back already, by a commit.
    """

    returned: bool

    @property
    def value(self) -> str:
        """Name it where the records are kept."""

    @property
    def upload(self) -> Upload:
        """The record as it was when the lock was taken, with the token of this lock."""

    @property
    def stop(self) -> asyncio.Event:
        """Set when the holder shall flush, commit and let go."""

    def valid(self) -> bool:
        """Tell whether it has surely not run out: nobody else can have it.

        It runs out by itself where this process, or the machine, was paused, or where the lock
        service is away.
        """


class Locker(Protocol):
    """Give each upload one writer; the newer request wins."""

    async def take(self, upload_id: str, asked: Callable[[], None]) -> Lock:
        """Take the lock, asking a holder to let go; keep it until `release`.

        `asked` is called, perhaps more than once, when this lock is wanted, or lost.

        Raises:
            UploadNotFound: there is no record.
            UploadLocked: the holder did not let go in time.
            StoreUnavailable: the lock service does not answer.
        """

    def grant(self, upload: Upload, asked: Callable[[], None]) -> Lock:
        """Return the lock of an upload that is new under `upload.token`: nobody else knows of it.

        It holds when the record is stored with it. `asked` and the rest as `take`.
        """

    async def release(self, lock: Lock) -> None:
        """Give it back; where the lock service is away it runs out by itself."""

    def hold(self, upload_id: str) -> AbstractAsyncContextManager[Lock]:
        """Hold the lock for a while. Raises as `take`."""

    async def idle(self, upload_id: str) -> bool:
        """Tell whether nobody has the lock who may live; raise StoreUnavailable."""

    async def settled(self, upload_id: str) -> Upload:
        """Return the record once nobody writes it, asking a holder to let go. Raises as `take`."""

    def stop_all(self) -> None:
        """Ask every holder to let go, now and from now on: the process ends."""
