"""Files in UPLOAD_DIR that no journal accounts for, and bytes that a journal counts and miss.

Crashes leave them: of a creation between data and journal, of a removal between data and journal,
of a result before its name. A file counts as an orphan after an hour only, by the time its name was
last changed too: a creation makes the data before the journal, and a link to old bytes is new.
Names that are not ours are never looked at.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from storage import journal
from storage.errors import DiskFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.upload import Upload

_ID = r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
ID = re.compile(_ID)
_DATA = re.compile(rf"{_ID}(?:\.[1-9][0-9]*)?")
_JOURNAL = re.compile(rf"{_ID}\.log")
_RESULT = re.compile(rf"{_ID}\.json")
_CROPS = re.compile(_ID)
_ASIDE = re.compile(r"\.[0-9a-f]{16}")
# Those that hold a directory for each.
_FOLDERS = ("crops", "shares")
_TRIAL = re.compile(rf"\.(?:(?:probe|marker)-[0-9a-f]{{8}}|(?:secret-|{_ID}\.)[0-9a-f]{{16}})")
# Seconds.
_OLD = 3600.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """Describe what to remove, a file or a directory of pictures, and why nobody needs it.

    `name` is its path in UPLOAD_DIR.
    """

    name: str
    why: str
    size: int


class Orphans:
    """Find and remove the orphans of one directory; every method blocks and raises DiskFailed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self) -> Iterator[Orphan]:
        """Yield each one; nothing is changed."""
        for name in self._names(""):
            yield from self._look(name)
        for folder in ("results", *_FOLDERS):
            for name in self._names(folder):
                yield from self._look(f"{folder}/{name}")

    def uploads_with_bytes(self) -> set[str]:
        """Return the ids of which there is a data file."""
        return {found["id"] for name in self._names("") if (found := _DATA.fullmatch(name))}

    def uploads_with_crops(self) -> set[str]:
        """Return the ids of which there are pictures, or a result that was not published."""
        return {
            name for folder in _FOLDERS for name in self._names(folder) if _CROPS.fullmatch(name)
        }

    def remove(self, orphan: Orphan) -> bool:
        """Remove it, unless it has found an owner or somebody has it open for writing."""
        path = self._directory / orphan.name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise DiskFailed(f"{path} cannot be opened: {error.strerror}") from error
        try:
            # Its writer keeps the lock while it has the file.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not any(self._look(orphan.name)):
                return False
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except BlockingIOError:
            return False
        except OSError as error:
            raise DiskFailed(f"{path} cannot be removed: {error.strerror}") from error
        finally:
            os.close(fd)
        return True

    def _names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._directory / folder) as entries:
                return sorted(entry.name for entry in entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DiskFailed(f"UPLOAD_DIR cannot be listed: {error.strerror}") from error

    def _look(self, name: str) -> Iterator[Orphan]:
        why = self._why(name)
        if why is None:
            return
        with suppress(FileNotFoundError):
            found = (self._directory / name).lstat()
            old = max(found.st_mtime, found.st_ctime) < time.time() - _OLD
            kind = stat.S_ISDIR if name.partition("/")[0] in _FOLDERS else stat.S_ISREG
            if old and kind(found.st_mode):
                yield Orphan(name, why, found.st_size)

    def _why(self, name: str) -> str | None:
        """Say why nobody needs a file, if nobody does."""
        folder, _, base = name.rpartition("/")
        if folder:
            return self._why_found(folder, base)
        if _TRIAL.fullmatch(base):
            return "left by a crash"
        if found := _DATA.fullmatch(base):
            if self._unknown(found["id"]):
                return "data without a journal"
            hollow = self._hollow(found["id"])
            return "data of a creation that broke off" if hollow else None
        found = _JOURNAL.fullmatch(base)
        hollow = found is not None and self._hollow(found["id"])
        return "the journal of a creation that broke off" if hollow else None

    def _why_found(self, folder: str, base: str) -> str | None:
        if _ASIDE.fullmatch(base):
            return "a result that was never published"
        found = (_RESULT if folder == "results" else _CROPS).fullmatch(base)
        if found and folder == "shares":
            # Whoever works on it has it open, and what is missing is done again.
            return "shares of an analysis that nobody does"
        return "a result without a journal" if found and self._unknown(found["id"]) else None

    def _unknown(self, upload_id: str) -> bool:
        return not os.path.lexists(self._directory / f"{upload_id}.log")

    def _hollow(self, upload_id: str) -> bool:
        """Tell whether there is not a byte of an upload: it was never promised to anybody."""
        paths = [self._directory / f"{upload_id}{end}" for end in ("", ".1")]
        result = self._directory / "results" / f"{upload_id}.json"
        nothing = not result.exists() and not any(_size(path) for path in paths)
        return nothing and self._broke_off(self._directory / f"{upload_id}.log")

    def _broke_off(self, log: Path) -> bool:
        with suppress(OSError):
            return not _size(log) or journal.broke_off(log)
        return False


def missing(directory: Path, upload: Upload) -> str | None:
    """Say which counted bytes of an upload are not in its files, or None where all are."""
    bounds = [*upload.segments, (-1, upload.offset)]
    for (number, start), (_, end) in pairwise(bounds):
        name = f"{upload.id}.{number}" if number else upload.id
        size = _size(directory / name)
        if size is None:
            return f"{name} is not there"
        if size < end - start:
            return f"{name} has {size} of {end - start} bytes"
    return None


def _size(path: Path) -> int | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskFailed(f"{path} cannot be read: {error.strerror}") from error
    # Whatever else bears the name, nothing may be made of it.
    return found.st_size if stat.S_ISREG(found.st_mode) else 1
