"""Uploads as plain files: `{id}` the bytes, `{id}.log` the journal, `results/{id}.json`."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from storage import journal
from storage.errors import (
    JournalDamaged,
    StorageFull,
    StoreUnavailable,
    UploadGone,
    UploadLocked,
    UploadNotFound,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from storage.interfaces import Buffer
    from storage.job import Ended
    from storage.upload import Upload

# Buffers one system call takes; Linux allows 1024.
_IOV_MAX = 1024
_JOURNAL_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.log")


class FileStore:
    """Keep each upload in files of one directory (storage.interfaces.DataStore)."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is made when it is missing."""
        self._directory = directory
        self._results = directory / "results"

    def prepare(self) -> None:
        """Make the directories; raise StoreUnavailable naming the one that cannot be used."""
        try:
            self._results.mkdir(parents=True, exist_ok=True)
            probe = self._directory / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreUnavailable(
                f"UPLOAD_DIR {self._directory} cannot be written: {error.strerror}"
            ) from error

    def create(self, upload: Upload) -> None:
        with _disk_errors():
            _create_file(self._data(upload.id), b"")
            try:
                _create_file(self._journal(upload.id), journal.first_lines(upload))
            except OSError:
                self._data(upload.id).unlink()
                raise
            _sync_directory(self._directory)

    def open(self, upload: Upload) -> FileWriter:
        with _disk_errors():
            fd = self._open_data(upload.id)
            try:
                _lock(fd)
                return FileWriter(upload, fd, self._open_journal(upload.id))
            except BaseException:
                os.close(fd)
                raise

    def _open_data(self, upload_id: str) -> int:
        try:
            return os.open(self._data(upload_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            self._read_journal(upload_id)
            raise UploadGone("the bytes of this upload were removed") from None

    def _open_journal(self, upload_id: str) -> int:
        # A removed upload gets no more lines.
        self._read_journal(upload_id)
        return os.open(self._journal(upload_id), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def read(self, upload_id: str) -> BinaryIO:
        with _disk_errors():
            return os.fdopen(self._open_data(upload_id), "rb")

    def recover(self, upload_id: str) -> tuple[Upload, Ended | None]:
        with _disk_errors():
            read = self._read_journal(upload_id)
        return read.upload, read.ended

    def _read_journal(self, upload_id: str) -> journal.Journal:
        try:
            return journal.parse(self._journal(upload_id).read_bytes())
        except FileNotFoundError:
            raise UploadNotFound(f"there is no upload {upload_id}") from None

    def end_job(self, upload_id: str, ended: Ended) -> None:
        with _disk_errors():
            fd = self._open_journal(upload_id)
            try:
                _append(fd, journal.encode("ended", ended.to_json()))
            finally:
                os.close(fd)

    def remove_bytes(self, upload_id: str) -> None:
        with _disk_errors():
            self._data(upload_id).unlink(missing_ok=True)

    def remove(self, upload_id: str) -> None:
        with _disk_errors():
            journal.bury(self._journal(upload_id))
            self._data(upload_id).unlink(missing_ok=True)
            self._result(upload_id).unlink(missing_ok=True)
            _sync_directory(self._directory)

    def purge(self, upload_id: str) -> None:
        with _disk_errors():
            # The journal goes last: without it nobody would look for the rest again.
            for path in (self._data, self._result, self._journal):
                path(upload_id).unlink(missing_ok=True)

    def ids(self) -> Iterator[str]:
        with _disk_errors(), os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries]
        return (name[:-4] for name in names if _JOURNAL_NAME.fullmatch(name))

    def publish_result(self, upload_id: str, result: bytes) -> bool:
        with _disk_errors():
            aside = self._results / f".{secrets.token_hex(8)}"
            _create_file(aside, result)
            try:
                os.link(aside, self._result(upload_id))
            except FileExistsError:
                return False
            finally:
                aside.unlink()
            _sync_directory(self._results)
            return True

    def result(self, upload_id: str) -> bytes | None:
        with _disk_errors():
            try:
                return self._result(upload_id).read_bytes()
            except FileNotFoundError:
                return None

    def free_bytes(self) -> int:
        try:
            disk = os.statvfs(self._directory)
        except OSError as error:
            raise StoreUnavailable(f"UPLOAD_DIR cannot be read: {error.strerror}") from error
        return disk.f_bavail * disk.f_frsize

    def _data(self, upload_id: str) -> Path:
        return self._directory / upload_id

    def _journal(self, upload_id: str) -> Path:
        return self._directory / f"{upload_id}.log"

    def _result(self, upload_id: str) -> Path:
        return self._results / f"{upload_id}.json"


class FileWriter:
    """Write one upload (storage.interfaces.Writer); holds the file's flock while it is open."""

    def __init__(self, upload: Upload, data: int, log: int) -> None:
        self._data = data
        self._log = log
        self._closed = False
        self._offset = upload.offset
        size = os.fstat(data).st_size
        if size < upload.offset:
            os.close(log)
            raise JournalDamaged(f"the record counts {upload.offset} bytes, the file has {size}")

    @property
    def offset(self) -> int:
        return self._offset

    def write(self, buffers: Sequence[Buffer]) -> None:
        pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
        with _disk_errors():
            while pending:
                # pwrite, never append: bytes beyond the record's offset are overwritten.
                written = os.pwritev(self._data, pending[:_IOV_MAX], self._offset)
                self._offset += written
                _consume(pending, written)

    def commit(self, upload: Upload) -> None:
        with _disk_errors():
            if upload.complete:
                os.ftruncate(self._data, upload.offset)
            os.fdatasync(self._data)
            _append(self._log, journal.commit_line(upload))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._log)
            os.close(self._data)


def _consume(pending: list[memoryview], count: int) -> None:
    while pending and count >= len(pending[0]):
        count -= len(pending.pop(0))
    if count:
        pending[0] = pending[0][count:]


def _lock(fd: int) -> None:
    # The kernel frees it with the last descriptor: a dead process holds nothing up, and a holder
    # that only sleeps keeps everybody else from the file.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UploadLocked("an earlier writer has not let go of the file yet") from None


def _create_file(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        if content:
            _write_all(fd, content)
            os.fdatasync(fd)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def _append(fd: int, line: bytes) -> None:
    _write_all(fd, line)
    os.fdatasync(fd)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull("the disk has no room left") from error
        raise StoreUnavailable(f"the disk does not do its work: {error.strerror}") from error
