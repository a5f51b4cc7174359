"""The crash-safe log beside the data: all it takes to rebuild a record.

The first two bytes are `L` (live) or `D` (deleted) and a line feed: deletion overwrites one byte,
which works on a full disk and outranks every later line. Then one line an entry, each
`{crc32:08x} {json}`. Lines are only ever appended, and each begins with a line feed of its own: one
that was torn, or that decayed, is skipped and takes no other with it. Each says all that is then
true, so the last sound one of the highest token is enough; a holder whose token was overtaken
writes hardly a line more, so that one stands near the end.

`opened` stands before the first byte that a writer writes, and bears a name of its own. It makes a
token known that Redis may forget; of two writers with the same token the one that stands first is
right. It may come late, from a writer that slept: so it raises the token, but lowers nothing.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zlib import crc32

from pydantic_core import to_json

from storage.durability import Sync
from storage.errors import JournalDamaged, UploadGone, UploadNotFound
from storage.job import Ended
from storage.once import write_all
from storage.upload import Part, Upload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from storage.durability import Durability

_LIVE = b"L\n"
_DELETED = b"D"
# The mark, and the line feeds that end it and begin and end the first line.
_HEAD_LINES = 3
# Bytes from the end, some sixty lines.
_TAIL = 8192


@dataclass(frozen=True, slots=True)
class Journal:
    """Hold what a journal says: the record, how the job ended, and under which boot it was written.

    A lock on a file holds only against processes of the same boot of the same machine. `writer` is
    the name of the last one that opened the upload rightly; none has where it is empty. `linked`
    are the parts, by their ids, whose bytes a final upload has already.
    """

    upload: Upload
    ended: Ended | None
    boot: str
    writer: str = ""
    linked: Mapping[str, Part] = field(default_factory=dict)


def encode(*entry: Any) -> bytes:
    """Build one line."""
    text = to_json(entry)
    return b"\n%08x %s\n" % (crc32(text), text)


def first_lines(upload: Upload, boot: str) -> bytes:
    """Build the start of a journal."""
    return _LIVE + encode("upload", upload.to_json(), boot)


def parse(raw: bytes) -> Journal:
    """Read a journal; raise UploadGone, JournalDamaged or RecordTooNew."""
    if raw[:1] == _DELETED:
        raise UploadGone("this upload was removed")
    entries = [entry for line in raw.split(b"\n")[1:] if (entry := _entry(line))]
    if raw[:2] != _LIVE or not entries or entries[0][0] != "upload":
        raise JournalDamaged("the journal of this upload has no readable first line")
    read = Journal(Upload.from_json(entries[0][1]), None, entries[0][2])
    for name, *values in entries[1:]:
        read = _follow(read, name, values)
    return read


def buried(raw: bytes) -> Upload | None:
    """Return what an upload was that was removed; None: it was not, or cannot be read."""
    try:
        return parse(_LIVE + raw[len(_LIVE) :]).upload if raw[:1] == _DELETED else None
    except JournalDamaged:
        return None


def created(path: Path) -> Upload | None:
    """Return the record as it was created, be the upload removed by now; None: it is unreadable."""
    try:
        with path.open("rb") as file:
            # The mark, the line feed that begins the first line, and that line.
            _, _, line = file.readline(), file.readline(), file.readline()
    except FileNotFoundError:
        return None
    entry = _entry(line.rstrip(b"\n"))
    return Upload.from_json(entry[1]) if entry and entry[0] == "upload" else None


def broke_off(path: Path) -> bool:
    """Tell whether a power cut left only parts of what it began with: nobody was told of it.

    What was not written by then is zeros, or is not there; no line of ours has a zero in it.
    """
    raw = path.read_bytes()
    unfinished = b"\0" in raw or raw.count(b"\n") < _HEAD_LINES
    return unfinished and raw[:1] != _DELETED and created(path) is None


def _follow(read: Journal, name: str, values: list[Any]) -> Journal:
    if name == "ended":
        # One that is tried again has not ended.
        return replace(read, ended=Ended.from_json(values[0]) if values[0] else None)
    # True for ever, whoever wrote it: a finished part does not change.
    if name == "linked":
        part_id, length, starts = values
        return replace(read, linked={**read.linked, part_id: Part(length, tuple(starts))})
    # Of two holders the one with the higher token is right, whoever wrote last.
    if values[0] < read.upload.token:
        return read
    if name == "opened":
        return _open(read, values)
    if name == "described":
        return replace(read, upload=replace(read.upload, metadata=values[1]))
    return replace(read, upload=_apply(read.upload, values, name == "complete"), boot=values[-1])


def _open(read: Journal, values: list[Any]) -> Journal:
    *values, writer = values
    if values[0] == read.upload.token and read.writer:
        return read
    opened = _apply(read.upload, values, read.upload.complete)
    if opened.offset < read.upload.offset:
        # From before what was committed meanwhile. Its token may not be given out again.
        return replace(read, upload=replace(read.upload, token=opened.token))
    return replace(read, upload=opened, boot=values[-1], writer=writer)


def read(path: Path) -> Journal:
    """Read of a long journal only what counts: its first line and its last ones. Raises as `parse`.

    Raises:
        FileNotFoundError: there is none.
    """
    with path.open("rb") as file:
        # The mark, the line feed that begins the first line, and that line.
        head = file.readline() + file.readline() + file.readline()
        start = max(file.tell(), os.fstat(file.fileno()).st_size - _TAIL)
        file.seek(start)
        tail = file.read()
        if start > len(head) and not any(_says_all(line) for line in tail.split(b"\n")):
            file.seek(len(head))
            tail = file.read()
    return parse(head + tail)


def _says_all(line: bytes) -> bool:
    entry = _entry(line)
    return entry is not None and entry[0] in {"offset", "complete"}


def commit_line(upload: Upload, boot: str) -> bytes:
    """Build the line that says how far an upload is."""
    return encode("complete" if upload.complete else "offset", *_state(upload, boot))


def described_line(upload: Upload) -> bytes:
    """Build the line that says what metadata an upload has, where its creation did not know."""
    return encode("described", upload.token, upload.metadata)


def opened_line(upload: Upload, boot: str, writer: str) -> bytes:
    """Build the line that a writer of that name puts before everything it does."""
    return encode("opened", *_state(upload, boot), writer)


def _state(upload: Upload, boot: str) -> tuple[Any, ...]:
    where = (upload.token, upload.offset, upload.length, upload.expires_at)
    return (*where, upload.segments, boot)


def linked_line(part_id: str, part: Part) -> bytes:
    """Build the line that says that a final upload has the bytes of a part."""
    return encode("linked", part_id, part.length, part.starts)


def _apply(upload: Upload, values: list[Any], complete: bool) -> Upload:  # noqa: FBT001  a field
    token, offset, length, expires_at, segments, _ = values
    return replace(
        upload,
        token=token,
        offset=offset,
        length=length,
        expires_at=expires_at,
        segments=tuple((number, start) for number, start in segments),
        complete=complete,
    )


def _entry(line: bytes) -> list[Any] | None:
    checksum, _, text = line.partition(b" ")
    if not text or checksum != b"%08x" % crc32(text):
        return None
    entry: list[Any] = json.loads(text)
    return entry


def bury(path: Path, durability: Durability) -> None:
    """Mark the journal as deleted."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, _DELETED, 0)
        durability.file(fd)
    finally:
        os.close(fd)


def redact(path: Path) -> None:
    """Take out of a journal that is marked as deleted what its client said of the upload."""
    upload, was = created(path), buried(path.read_bytes())
    line = b""
    if upload is not None:
        complete = was is None or was.complete
        line = encode("upload", replace(upload, metadata=None, complete=complete).to_json(), "")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, line, len(_LIVE))
        # Lines that follow may say it again.
        os.ftruncate(fd, len(_LIVE) + len(line))
    finally:
        os.close(fd)


def settle(path: Path, durability: Durability) -> None:
    """Bring all that it says to stable storage, whoever wrote it and whatever came of his sync.

    It is written again where it stands: the kernel tells of a loss once, and takes the pages for
    clean then. Nothing that others write meanwhile is touched: not what they append, and not the
    mark of a removal.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        at = len(_LIVE)
        lines = memoryview(os.pread(fd, os.fstat(fd).st_size, at))
        while lines:
            written = os.pwrite(fd, lines, at)
            lines, at = lines[written:], at + written
        durability.file(fd)
    finally:
        os.close(fd)


class Log:
    """Append to one upload's journal, and notice when somebody else has.

    Every method blocks and raises OSError.
    """

    def __init__(self, path: str, durability: Durability, fd: int | None = None) -> None:
        """Open it, or take what was opened; raise UploadNotFound."""
        self._path = path
        self._durability = durability
        self._size = self._expected = -1
        if fd is None:
            with needed(Path(path)):
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._fd = fd

    @classmethod
    def create(cls, path: str, lines: bytes, durability: Durability) -> Self:
        """Create it with its first lines, which are not synced yet; raise FileExistsError."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        log = cls(path, durability, os.open(path, flags, 0o640))
        try:
            log.write(lines)
        except OSError:
            Path(path).unlink()
            log.close()
            raise
        log._size = len(lines)
        return log

    @property
    def sync(self) -> Sync:
        """Return what brings all of it to stable storage."""
        return Sync(self._fd, max(self._size, 0))

    def append(self, line: bytes) -> Journal | None:
        """Append a line and sync it; return what all of it says if it is not the only new one.

        Raises as `parse`, and UploadNotFound.
        """
        self.write(line)
        self._durability.file(self._fd)
        return self.others()

    def write(self, line: bytes) -> Sync:
        """Append a line; return what brings it to stable storage."""
        self._expected = self._size + len(line)
        write_all(self._fd, line)
        return Sync(self._fd, len(line))

    def others(self) -> Journal | None:
        """Return what all of it says if the line that was appended is not the only new one.

        Raises as `parse`, and UploadNotFound.
        """
        # Where that line ends. Whoever appends behind it sees it there.
        self._size = os.lseek(self._fd, 0, os.SEEK_CUR)
        if self._size == self._expected and self._is_live():
            return None
        path = Path(self._path)
        with needed(path):
            return read(path)

    def retract(self, line: bytes) -> None:
        """Append what counts instead of a line that may be lost; who reads it syncs both."""
        self.write(line)
        self._size = -1

    def undisturbed(self) -> bool:
        """Tell whether nobody has appended to it since, removed it or marked it as deleted."""
        stat = os.fstat(self._fd)
        return stat.st_size == self._size and stat.st_nlink > 0 and self._is_live()

    def _is_live(self) -> bool:
        return os.pread(self._fd, len(_LIVE), 0) == _LIVE

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def needed(path: Path) -> Iterator[None]:
    """Raise UploadNotFound where the journal at `path` is missing."""
    try:
        yield
    except FileNotFoundError:
        raise UploadNotFound(f"there is no upload {path.stem}") from None
