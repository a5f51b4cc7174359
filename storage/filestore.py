"""Uploads as plain files: `{id}` the bytes, `{id}.log` the journal; results beside them.

Nearly always the bytes are one file. `{id}.1`, `{id}.2` go on where a file could not be taken over
from its writer.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import secrets
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from storage import journal, once
from storage.durability import PerRequest, Sync, do, sync_way
from storage.errors import (
    DiskFailed,
    RecordBehind,
    UploadExists,
    UploadGone,
    UploadNotFound,
)
from storage.journal import Log, needed
from storage.mounted import Mounted
from storage.once import create_once
from storage.results import Results
from storage.room import Room
from storage.secret import Secret
from storage.segments import (
    DiskErrors,
    FileWriter,
    SegmentReader,
    check_extent,
    create_locked,
    lock,
)
from storage.shares import Shares
from storage.upload import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from storage.durability import Durability, Steps
    from storage.job import Ended
    from storage.upload import Upload

_JOURNAL_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.log")


class FileStore:
    """Keep each upload in files of one directory (storage.interfaces.DataStore)."""

    def __init__(
        self, directory: Path, reserve: int = 0, durability: Durability | None = None
    ) -> None:
        """Use `directory`, which is made when it is missing.

        Bytes of uploads never take the last `reserve` bytes of the disk: journals, results and a
        Redis beside them need room when uploads have used up theirs, so as to make some.

        Uploads are as durable as that policy says, by default before each acknowledgement; jobs
        and their results always.
        """
        self._directory = directory
        self._place = str(directory)
        self._mounted = Mounted(self._place)
        self._room = Room(reserve)
        self._always = PerRequest()
        self._durability = durability or self._always
        self._results = Results(directory)
        self._shares = Shares(directory)
        self._secret = Secret(directory)
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._prepared = False

    @property
    def directory(self) -> Path:
        return self._directory

    def prepare(self) -> None:
        """Make the directories; raise DiskFailed naming the one that cannot be used."""
        self._mounted.check()
        try:
            self._results.prepare()
            probe = self._directory / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
            if not self._prepared:
                sync_way(self._directory)
                self._prepared = True
        except OSError as error:
            raise DiskFailed(
                f"UPLOAD_DIR {self._directory} cannot be written: {error.strerror}"
            ) from error

    def create(self, upload: Upload) -> None:
        lines = journal.first_lines(upload, self._boot)
        with DiskErrors():
            self._mounted.check()
            data, log = self._segment(upload.id, 0), self._journal(upload.id)
            if upload.fingerprint is not None:
                if not create_once(log, lines, self._durability, aside=f".{upload.id}."):
                    raise UploadExists(f"there is an upload {upload.id} already")
                # What a crash left of an earlier try is as good; final ones have none.
                if not upload.final:
                    os.close(os.open(data, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
                self._durability.directory(self._directory)
                return
            # The files of a final one are its parts'.
            if not upload.final:
                once.create(data, b"", self._durability)
            try:
                once.create(log, lines, self._durability)
                self._durability.directory(self._directory)
            except OSError as error:
                data.unlink(missing_ok=True)
                if not isinstance(error, FileExistsError):
                    log.unlink(missing_ok=True)
                raise

    @property
    def prompt(self) -> bool:
        return self._durability.prompt

    def begin(self, upload: Upload) -> FileWriter:
        return do(self.beginning(upload))

    def beginning(self, upload: Upload) -> Steps[FileWriter]:
        # Names as text: this is on the way of every small upload.
        path = f"{self._place}/{upload.id}"
        # Nobody else can have made it: any name of the writer will do.
        opened = journal.opened_line(upload, self._boot, "first")
        lines = journal.first_lines(upload, self._boot) + opened
        with DiskErrors():
            self._mounted.check()
            self._room.check(self._place)
            data = create_locked(path)
            try:
                log = yield from self._begin_log(f"{path}.log", lines)
            except OSError:
                Path(path).unlink()
                os.close(data)
                raise
        return self._writer(upload, data, log, 0)

    def _begin_log(self, path: str, lines: bytes) -> Steps[Log]:
        if self._durability.prompt:
            return Log.create(path, lines, self._durability)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            log = Log.create(path, lines, self._durability)
            try:
                yield [log.sync, Sync(directory, names=True)]
            except OSError:
                Path(path).unlink()
                log.close()
                raise
        finally:
            os.close(directory)
        return log

    def _writer(self, upload: Upload, data: int, log: Log, size: int) -> FileWriter:
        return FileWriter(
            upload,
            data,
            log,
            size=size,
            boot=self._boot,
            room=self._room,
            durability=self._durability,
        )

    def identify(self, key: str) -> str:
        with DiskErrors():
            return self._secret.identify(key)

    def assemble(self, final_id: str, most: int) -> Upload:
        with DiskErrors():
            read = self._read_journal(final_id)
            if read.upload.complete:
                # Whoever completed it may have died before that was on the disk.
                self.settle(final_id)
                return read.upload
            linked = {**read.linked, **self._link_parts(read)}
            if sum(linked[part].length for part in read.upload.parts if part in linked) > most:
                raise UploadGone(f"the parts of this upload are more than {most} bytes")
            final, lines = read.upload, b""
            if len(linked) == len(set(final.parts)):
                final = final.joined(linked)
                lines = journal.commit_line(final, self._boot)
            elif new := linked.keys() - read.linked.keys():
                lines = b"".join(journal.linked_line(part, linked[part]) for part in new)
            self._remember(final_id, lines)
        return final

    def _link_parts(self, final: journal.Journal) -> dict[str, Part]:
        """Give a final upload the bytes of those parts that are complete by now."""
        parts = list(dict.fromkeys(final.upload.parts))
        found: dict[str, Part] = {}
        for index, part_id in enumerate(parts):
            if part_id in final.linked:
                continue
            part = self._part(part_id)
            if part.complete:
                self._link(part, final.upload.id, range(index, sys.maxsize, len(parts)))
                found[part_id] = Part(part.offset, tuple(start for _, start in part.segments))
        return found

    def _part(self, part_id: str) -> Upload:
        try:
            return self._read_journal(part_id).upload
        except (UploadGone, UploadNotFound):
            raise UploadGone(f"the part {part_id} was removed before it was complete") from None

    def _link(self, part: Upload, final_id: str, numbers: Sequence[int]) -> None:
        for number, (source, _) in zip(numbers, part.segments, strict=False):
            # The name says which file it is: whoever comes second finds the same one there.
            with suppress(FileExistsError):
                try:
                    os.link(self._segment(part.id, source), self._segment(final_id, number))
                except FileNotFoundError:
                    raise UploadGone(f"the bytes of the part {part.id} were removed") from None

    def _remember(self, final_id: str, lines: bytes) -> None:
        """Bring new links, then what the journal shall say of them, to stable storage."""
        self._durability.directory(self._directory)
        try:
            with closing(Log(str(self._journal(final_id)), self._durability)) as log:
                log.append(lines)
        except UploadGone:
            # Removal buries the journal before it looks for files: one of the two sees the other.
            self.remove_bytes(final_id)
            raise

    def open(self, upload: Upload) -> FileWriter:
        with DiskErrors(), ExitStack() as files:
            read = self._read_journal(upload.id)
            # Redis forgot what it gave out: written under this token, it would count for nothing.
            if 0 < read.upload.token == upload.token or upload.is_behind(read.upload):
                raise RecordBehind(read.upload)
            data = self._take_over(upload, read.boot)
            if data is None:
                upload, data = self._new_segment(upload)
            files.callback(os.close, data)
            log = files.enter_context(closing(Log(str(self._journal(upload.id)), self._durability)))
            writer = self._writer(upload, data, log, os.fstat(data).st_size)
            writer.announce()
            files.pop_all()
            return writer

    def _take_over(self, upload: Upload, boot: str) -> int | None:
        """Open the last segment, or tell that somebody else may still write it."""
        try:
            fd = os.open(self._segment(upload.id, upload.segments[-1][0]), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if upload.offset == 0:
                # A creation with a key ended behind its journal.
                return None
            raise UploadGone("the bytes of this upload were removed") from None
        # A lock on the file tells nothing of another machine that shares the directory.
        if boot == self._boot and lock(fd):
            return fd
        os.close(fd)
        return None

    def _new_segment(self, upload: Upload) -> tuple[Upload, int]:
        (last, start), before = upload.segments[-1], upload.segments[:-1]
        fd, number = self._create_segment(upload.id, last)
        self._durability.directory(self._directory)
        kept = before if start == upload.offset else upload.segments
        return replace(upload, segments=(*kept, (number, upload.offset))), fd

    def _create_segment(self, upload_id: str, number: int) -> tuple[int, int]:
        while True:
            try:
                return create_locked(str(self._segment(upload_id, number))), number
            except FileExistsError:
                number += 1

    def read(self, upload_id: str) -> BinaryIO:
        with DiskErrors():
            upload = self._read_journal(upload_id).upload
            try:
                return self._open_for_reading(upload)
            except FileNotFoundError:
                raise UploadGone("the bytes of this upload were removed") from None

    def _open_for_reading(self, upload: Upload) -> BinaryIO:
        paths = [self._segment(upload.id, number) for number, _ in upload.segments]
        # One that is complete was cut to what counts.
        if len(paths) == 1:
            return paths[0].open("rb")
        starts = [start for _, start in upload.segments]
        return io.BufferedReader(SegmentReader(paths, [*starts, upload.offset]))

    def settle(self, upload_id: str) -> None:
        with DiskErrors(), suppress(FileNotFoundError):
            journal.settle(self._journal(upload_id), self._durability)
            self._durability.directory(self._directory)

    def recover(self, upload_id: str) -> tuple[Upload, Ended | None]:
        with DiskErrors():
            read = self._read_journal(upload_id, whole=True)
        return read.upload, read.ended

    def _read_journal(self, upload_id: str, *, whole: bool = False) -> journal.Journal:
        path = self._journal(upload_id)
        try:
            with needed(path):
                return journal.parse(path.read_bytes()) if whole else journal.read(path)
        except UploadNotFound:
            self._mounted.check()
            raise
        except UploadGone:
            # Whoever wrote that may have died before it was on the disk, or his sync failed.
            with suppress(FileNotFoundError):
                journal.bury(path, self._durability)
            raise

    def look(self, upload_id: str) -> Upload:
        with DiskErrors():
            read = self._read_journal(upload_id)
            if read.upload.waiting:
                return self._measured(read)
            # The bytes of a complete one may have been removed.
            if not read.upload.complete:
                check_extent(read.upload, self._size(read.upload))
            return read.upload

    def _size(self, upload: Upload) -> int:
        try:
            return self._segment(upload.id, upload.segments[-1][0]).stat().st_size
        except FileNotFoundError:
            return 0

    def _measured(self, final: journal.Journal) -> Upload:
        """Say how long a final upload will be, once that is known of all its parts."""
        unlinked = {part for part in final.upload.parts if part not in final.linked}
        lengths: dict[str, int | None] = {part: self._part(part).length for part in unlinked}
        lengths |= {part: linked.length for part, linked in final.linked.items()}
        known = [lengths[part] for part in final.upload.parts]
        length = None if None in known else sum(one for one in known if one is not None)
        return replace(final.upload, length=length)

    def end_job(self, upload_id: str, ended: Ended | None) -> None:
        with DiskErrors():
            # A removed upload gets no more lines.
            self._read_journal(upload_id)
            with closing(Log(str(self._journal(upload_id)), self._always)) as log:
                log.append(journal.encode("ended", ended and ended.to_json()))

    def remove_bytes(self, upload_id: str) -> None:
        with DiskErrors():
            # From the last one down: what a crash leaves is found again.
            for path in reversed(self._segments(upload_id)):
                path.unlink(missing_ok=True)

    def remove(self, upload_id: str) -> None:
        with DiskErrors():
            try:
                journal.bury(self._journal(upload_id), self._durability)
            except FileNotFoundError:
                # Then there is nothing that could be revived, unless it is out of sight.
                self._mounted.check()
            self.remove_bytes(upload_id)
            self._results.remove(upload_id)
            self._shares.remove(upload_id)
            with suppress(FileNotFoundError):
                # Last: it tells till here which files there are.
                journal.redact(self._journal(upload_id))
            self._durability.directory(self._directory)

    def expire(self, upload_id: str, before: float) -> bool:
        with DiskErrors(), ExitStack() as held:
            upload = self._read_journal(upload_id).upload
            if not upload.perishable or upload.expires_at >= before:
                return False
            for path in self._segments(upload_id):
                file = held.enter_context(path.open("rb"))
                if not lock(file.fileno()):
                    return False
            self.remove(upload_id)
        return True

    def purge(self, upload_id: str) -> None:
        with DiskErrors():
            self.remove_bytes(upload_id)
            self._results.remove(upload_id)
            self._shares.remove(upload_id)
            # The journal goes last: without it nobody would look for the rest again.
            self._journal(upload_id).unlink(missing_ok=True)

    def reclaim(self, upload_id: str, fingerprint: str) -> bool:
        path = self._journal(upload_id)
        with DiskErrors(), suppress(FileNotFoundError), path.open("rb") as tomb:
            was = journal.buried(tomb.read())
            if was is None or was.complete or was.fingerprint != fingerprint:
                return False
            # Of many at once one succeeds: the next ones find it held, or no longer there.
            if lock(tomb.fileno()) and path.samefile(f"/proc/self/fd/{tomb.fileno()}"):
                self.purge(upload_id)
                return True
        return False

    def ids(self) -> Iterator[str]:
        with DiskErrors(), os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries]
        return (name[:-4] for name in names if _JOURNAL_NAME.fullmatch(name))

    def publish_result(self, upload_id: str, result: bytes, crops: Sequence[bytes] = ()) -> bool:
        with DiskErrors():
            return self._results.publish(upload_id, result, crops)

    def result(self, upload_id: str) -> bytes | None:
        with DiskErrors():
            return self._results.get(upload_id)

    def crop(self, upload_id: str, number: int) -> bytes | None:
        with DiskErrors():
            return self._results.crop(upload_id, number)

    def forget_shares(self, upload_id: str) -> None:
        self._shares.remove(upload_id)

    def free_bytes(self) -> int:
        with DiskErrors():
            disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    def _segments(self, upload_id: str) -> list[Path]:
        """List the files of an upload, each part's in the order in which they are made."""
        created = journal.created(self._journal(upload_id))
        step = len(set(created.parts)) if created and created.final else 1
        return [path for first in range(step) for path in self._every(upload_id, first, step)]

    def _every(self, upload_id: str, number: int, step: int) -> list[Path]:
        first = self._segment(upload_id, number)
        later = (self._segment(upload_id, one) for one in itertools.count(number + step, step))
        return [*([first] if first.exists() else []), *takewhile(Path.exists, later)]

    def _segment(self, upload_id: str, number: int) -> Path:
        return self._directory / (f"{upload_id}.{number}" if number else upload_id)

    def _journal(self, upload_id: str) -> Path:
        return self._directory / f"{upload_id}.log"
