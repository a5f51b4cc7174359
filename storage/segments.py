"""The files of one upload: a writer that owns the last of them, a reader of all as one."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
from bisect import bisect_right
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from storage import journal
from storage.bulk import BLOCK, Bulk
from storage.durability import Sync, do
from storage.errors import DiskFailed, JournalDamaged, LockLost, RecordBehind, StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from _typeshed import WriteableBuffer

    from storage.durability import Durability, Steps
    from storage.errors import StorageError
    from storage.interfaces import Buffer, Writes
    from storage.journal import Log
    from storage.room import Room
    from storage.upload import Upload

# Buffers one system call takes; Linux allows 1024.
_IOV_MAX = 1024
_PIECE = 2**20
# How far a file is made longer at once.
_AHEAD = 8 * 2**20
# Bytes that wait in memory for the next write.
_TAKE_MOST = 64 * 1024


class FileWriter:
    """Write one upload (storage.interfaces.Writer); holds the file's flock while it is open."""

    def __init__(
        self,
        upload: Upload,
        data: int,
        log: Log,
        *,
        size: int,
        boot: str,
        room: Room,
        durability: Durability,
    ) -> None:
        """Take over both files; raise JournalDamaged where bytes are missing.

        The file `data` has `size` bytes.
        """
        self.upload = upload
        self._room = room
        self._durable = not durability.prompt
        self._data = data
        self._bulk = Bulk(data, durable=self._durable)
        self._log = log
        self._boot = boot
        self._closed = False
        self._failed = False
        self._offset = self._stored = upload.offset
        self._taken: list[bytes] = []
        self._start = upload.segments[-1][1]
        self._size = size
        # Whoever wrote before may have followed another policy.
        self._unsynced = min(size, 1)
        check_extent(upload, size)

    def announce(self) -> None:
        """Say in the journal who writes from here on; raise RecordBehind where that is not right.

        It is the check of the token before the first write (a sleeper may have read the journal
        long ago), and needs no Redis. Lines stand one behind the other: whoever announced itself
        before this one, or committed what this one does not know of, is seen here. Whoever does so
        later sees this line, or finds the flock taken.
        """
        name = secrets.token_hex(8)
        read = self._log.append(journal.opened_line(self.upload, self._boot, name))
        if read is None or (read.writer == name and _extent(read.upload) == _extent(self.upload)):
            return
        raise RecordBehind(read.upload)

    @property
    def offset(self) -> int:
        return self._offset

    def take(self, buffers: Sequence[bytes]) -> bool:
        size = sum(map(len, buffers))
        if self._offset - self._stored + size > _TAKE_MOST:
            return False
        self._taken += buffers
        self._offset += size
        return True

    def write(self, buffers: Sequence[Buffer]) -> None:
        pending = [memoryview(buffer) for buffer in (*self._taken, *buffers) if len(buffer)]
        self._taken = []
        self._offset = self._stored
        with self._disk():
            if pending:
                self._room.take(self._data, sum(map(len, pending)))
            while pending:
                # pwrite, never append: bytes beyond the record's offset are overwritten.
                written = os.pwritev(self._data, pending[:_IOV_MAX], self._offset - self._start)
                self._wrote(written)
                _consume(pending, written)

    @property
    def direct(self) -> bool:
        return self._bulk.direct

    @property
    def skew(self) -> int:
        return (self._offset - self._start) % BLOCK

    def splice(self, pipe: int, count: int) -> None:
        self._write_bulk(count, lambda done, at: self._bulk.splice(pipe, count - done, at))

    def write_pages(self, memory: memoryview) -> None:
        self._write_bulk(len(memory), lambda done, at: self._bulk.write(memory[done:], at))

    def begin_pages(self, memory: memoryview, writes: Writes, to_come: int) -> None:
        self._write_taken()
        at = self._offset - self._start + writes.size
        head = min(-at % BLOCK, len(memory))
        whole = (len(memory) - head) // BLOCK * BLOCK
        if head:
            self.end_pages(writes)
            self.write_pages(memory[:head])
        if whole and not self._begin(memory[head : head + whole], at + head, writes, to_come):
            self.end_pages(writes)
            self.write_pages(memory[head : head + whole])
        if rest := memory[head + whole :]:
            self.end_pages(writes)
            self.write_pages(rest)

    def _begin(self, blocks: memoryview, at: int, writes: Writes, to_come: int) -> bool:
        """Begin to write, if it can be had without waiting for the disk."""
        if self._failed:
            return False
        try:
            self._room.take(self._data, len(blocks))
            self._reach(at + len(blocks), to_come)
        except OSError:
            return False
        except StorageFull:
            self.end_pages(writes)
            raise
        return self._bulk.begin(writes, blocks, at)

    def _reach(self, size: int, to_come: int) -> None:
        # What makes a file longer is waited for; what fills its holes is not.
        if size > self._size and self._bulk.direct:
            self._resize(size + min(to_come, _AHEAD))

    def _resize(self, size: int) -> None:
        os.ftruncate(self._data, size)
        self._size = size

    def end_pages(self, writes: Writes, most: int = 0) -> None:
        while len(writes) > most:
            memory, count = writes.end()
            self._wrote(count)
            if count < len(memory):
                self._write_again(memory[count:], writes)
        if not most and self._size > self._offset - self._start:
            # More was to come, or lay there and counts for nothing.
            with self._disk():
                self._resize(self._offset - self._start)

    def _write_again(self, memory: memoryview, writes: Writes) -> None:
        """Write what was not written, and what came behind it: until it does not fit."""
        rest = [memory]
        while len(writes):
            rest.append(writes.end()[0])
        with self._disk():
            # Whatever lies beyond may have taken the room.
            self._resize(self._offset - self._start)
        for each in rest:
            self.write_pages(each)

    def _write_bulk(self, count: int, step: Callable[[int, int], int]) -> None:
        self._write_taken()
        with self._disk():
            self._room.take(self._data, count)
            done = 0
            while done < count:
                written = step(done, self._offset - self._start)
                self._wrote(written)
                done += written

    def _wrote(self, count: int) -> None:
        self._stored = self._offset = self._offset + count
        self._unsynced += count
        self._size = max(self._size, self._offset - self._start)

    def written(self, start: int) -> Iterator[bytes]:
        self._write_taken()
        with DiskErrors():
            while start < self._offset:
                count = min(_PIECE, self._offset - start)
                piece = os.pread(self._data, count, start - self._start)
                if not piece:
                    raise OSError(errno.EIO, "what was written is not there")
                start += len(piece)
                yield piece

    def _write_taken(self) -> None:
        if self._taken:
            self.write(())

    @property
    def held(self) -> int:
        return self._offset - self._stored

    @property
    def unsynced(self) -> int:
        return self._offset - self._stored + self._unsynced

    def commit(self, upload: Upload) -> None:
        do(self.committing(upload))

    def committing(self, upload: Upload) -> Steps[None]:
        self._write_taken()
        with self._disk():
            try:
                self._cut(upload)
                size = self._unsynced
                if size and self._durable:
                    yield [Sync(self._data, size)]
                # What came meanwhile is not on the disk.
                self._unsynced -= size
                line = self._log.write(self._lines(upload))
                if self._durable:
                    yield [line]
                read = self._log.others()
            except OSError:
                self._fail()
                raise
        # Seen before anybody is told of this commit, which then counts for nothing.
        if read is not None and read.upload.token > upload.token:
            raise LockLost("a newer request has opened this upload")
        self.upload = upload

    def _lines(self, upload: Upload) -> bytes:
        line = journal.commit_line(upload, self._boot)
        if upload.metadata == self.upload.metadata:
            return line
        return journal.described_line(upload) + line

    def _cut(self, upload: Upload) -> None:
        size = upload.offset - self._start
        if upload.complete and size != self._size:
            self._resize(size)
            self._unsynced = max(self._unsynced, 1)

    def _fail(self) -> None:
        """Go back to what was committed, for good: the kernel takes for clean what it lost."""
        self._failed = True
        self.rewind()
        # A line that may not last is not to be believed by those who read it meanwhile.
        with suppress(OSError):
            self._log.retract(journal.commit_line(self.upload, self._boot))

    def rewind(self) -> None:
        self._offset = self._stored = self.upload.offset
        self._taken = []

    def undisturbed(self) -> bool:
        with DiskErrors():
            return not self._failed and self._log.undisturbed()

    def _disk(self) -> DiskErrors:
        if self._failed:
            raise DiskFailed("what was written last is lost")
        return DiskErrors()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._log.close()
            os.close(self._data)


def _extent(upload: Upload) -> tuple[object, ...]:
    return upload.token, upload.offset, upload.segments


def _consume(pending: list[memoryview], count: int) -> None:
    while pending and count >= len(pending[0]):
        count -= len(pending.pop(0))
    if count:
        pending[0] = pending[0][count:]


class SegmentReader(io.RawIOBase):
    """Read the counted bytes of several files as one."""

    def __init__(self, paths: Sequence[Path], bounds: Sequence[int]) -> None:
        """Take the offset at which each file begins, and at last the end of all."""
        super().__init__()
        self._bounds = bounds
        self._position = 0
        with ExitStack() as opened:
            self._files = [opened.enter_context(path.open("rb", buffering=0)) for path in paths]
            self._opened = opened.pop_all()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._bounds[-1]}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self._position >= self._bounds[-1]:
            return 0
        at = bisect_right(self._bounds, self._position) - 1
        view = memoryview(buffer).cast("B")[: self._bounds[at + 1] - self._position]
        count = os.preadv(self._files[at].fileno(), [view], self._position - self._bounds[at])
        self._position += count
        return count

    def close(self) -> None:
        self._opened.close()
        super().close()


def lock(fd: int) -> bool:
    """Take the file for this process, without waiting; tell whether it was to be had."""
    # The kernel frees it with the last descriptor: a dead process holds nothing up, and a holder
    # that only sleeps keeps everybody else from the file.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create_locked(path: str) -> int:
    """Create a file that only this process may write; raise FileExistsError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    lock(fd)
    return fd


def check_extent(upload: Upload, size: int) -> None:
    """See that what is counted is there, by the size of the last file; raise JournalDamaged."""
    have = upload.segments[-1][1] + size
    if have < upload.offset:
        raise JournalDamaged(f"the record counts {upload.offset} bytes, the files have {have}")


class DiskErrors:
    """Say in this package's terms what the operating system refuses; made at every request."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise in_our_terms(error) from error


def in_our_terms(error: OSError) -> StorageError:
    """Return what this package calls it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull("the disk has no room left")
    return DiskFailed(f"the disk does not do its work: {error.strerror}")
