"""The crash-safe log beside the data: all it takes to rebuild a record.

The first two bytes are `L` (live) or `D` (deleted) and a line feed: deletion overwrites one byte,
which works on a full disk and outranks every later line. Then one line an entry, each
`{crc32:08x} {json}`. Lines are only ever appended, and each begins with a line feed of its own: one
that was torn, or that decayed, is skipped and takes no other with it. Each says all that is then
true, so the last sound one of the highest token is enough; a holder whose token was overtaken
writes hardly a line more, so that one stands near the end.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from storage.errors import JournalDamaged, UploadGone
from storage.job import Ended
from storage.upload import Upload

if TYPE_CHECKING:
    from pathlib import Path

_LIVE = b"L\n"
_DELETED = b"D"
# Bytes from the end, some sixty lines.
_TAIL = 8192


@dataclass(frozen=True, slots=True)
class Journal:
    """Hold what a journal says: the record, how the job ended, and under which boot it was written.

    A lock on a file holds only against processes of the same boot of the same machine.
    """

    upload: Upload
    ended: Ended | None
    boot: str


def encode(*entry: Any) -> bytes:
    """Build one line."""
    text = json.dumps(entry, separators=(",", ":")).encode()
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
    upload, boot = Upload.from_json(entries[0][1]), entries[0][2]
    ended = None
    for name, *values in entries[1:]:
        if name == "ended":
            ended = Ended.from_json(values[0])
        # Of two holders the one with the higher token is right, whoever wrote last.
        elif values[0] >= upload.token:
            upload, boot = _apply(upload, name, values), values[-1]
    return Journal(upload, ended, boot)


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
    name = "complete" if upload.complete else "offset"
    where = (upload.token, upload.offset, upload.length, upload.expires_at)
    return encode(name, *where, upload.segments, boot)


def _apply(upload: Upload, name: str, values: list[Any]) -> Upload:
    token, offset, length, expires_at, segments, _ = values
    return replace(
        upload,
        token=token,
        offset=offset,
        length=length,
        expires_at=expires_at,
        segments=tuple((number, start) for number, start in segments),
        complete=name == "complete",
    )


def _entry(line: bytes) -> list[Any] | None:
    checksum, _, text = line.partition(b" ")
    if not text or checksum != b"%08x" % crc32(text):
        return None
    entry: list[Any] = json.loads(text)
    return entry


def bury(path: Path) -> None:
    """Mark the journal as deleted, durably."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, _DELETED, 0)
        os.fdatasync(fd)
    finally:
        os.close(fd)
