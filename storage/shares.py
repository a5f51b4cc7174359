"""One analysis shared out among workers: who does which share of it, and what each one brought.

`shares/{id}/{plan}/` holds the plan, and of each share `{n}.claim`, locked by who works on it, with
how far that is, and `{n}.json`, which is there whole or not at all. The kernel frees the lock of a
dead process. Nothing here is the truth of anything: what is lost is analysed again, and two that do
the same share bring the same. So it goes when its job ends, and is swept after an hour in which
nobody had it open.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage import once
from storage.durability import PerRequest
from storage.errors import StorageError
from storage.segments import DiskErrors, lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLAN = "plan.json"
# Seconds.
_TELL = 0.5
# Who tells nothing for so long stands still, wherever it runs: another one does its share too.
_STALLED = 60.0


class ShareGone(StorageError):
    """The job has ended, or is done by another plan: this share is wanted no more."""


@dataclass(frozen=True, slots=True)
class Told:
    """Tell how far somebody is with a share."""

    done: int = 0
    detections: int = 0
    texts: tuple[str, ...] = ()


class Shares:
    """Keep the shares of all jobs; every method blocks and raises StorageFull and DiskFailed."""

    def __init__(self, directory: Path) -> None:
        """Use `directory` of UPLOAD_DIR, where one of its own is made when it is needed."""
        self._directory = directory / "shares"

    @contextmanager
    def begin(self, upload_id: str, plan: bytes) -> Iterator[Work]:
        """Share a job out by a plan; what there is of that plan already stands, others go."""
        ours = self._directory / upload_id
        path = ours / digest(plan)
        with DiskErrors():
            path.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                once.create_once(path / _PLAN, plan, PerRequest(), aside=".")
            for other in ours.iterdir():
                if other != path:
                    self._discard(other)
        with self._opened(upload_id):
            yield Work(path, plan)

    @contextmanager
    def join(self, upload_id: str, name: str) -> Iterator[Work | None]:
        """Find the work of one plan by its digest; None where it is over."""
        path = self._directory / upload_id / name
        try:
            plan = (path / _PLAN).read_bytes()
        except FileNotFoundError:
            yield None
            return
        with self._opened(upload_id):
            yield Work(path, plan)

    @contextmanager
    def _opened(self, upload_id: str) -> Iterator[None]:
        """Keep it from being swept."""
        try:
            fd = os.open(self._directory / upload_id, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ShareGone("the job has ended") from None
        try:
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield
        finally:
            os.close(fd)

    def remove(self, upload_id: str) -> None:
        """Remove what there is of a job; idempotent."""
        with DiskErrors():
            self._discard(self._directory / upload_id)

    def _discard(self, path: Path) -> None:
        # Under another name first: nobody may put anything into it any more.
        aside = self._directory / f".{secrets.token_hex(8)}"
        with suppress(FileNotFoundError):
            path.rename(aside)
            shutil.rmtree(aside)


class Work:
    """Hold the shares of one job, by one plan; methods raise as `Shares`."""

    def __init__(self, path: Path, plan: bytes) -> None:
        self.plan = plan
        self._path = path
        # When somebody was last seen to tell anything, by our own clock.
        self._heard: dict[int, tuple[int, float]] = {}

    def brought(self, number: int) -> Any | None:
        """Return what was found in a share, or None."""
        with DiskErrors():
            try:
                return json.loads((self._path / f"{number}.json").read_bytes())
            except (FileNotFoundError, ValueError):
                return None

    def is_done(self, number: int) -> bool:
        """Tell whether somebody has brought it."""
        return (self._path / f"{number}.json").exists()

    def is_begun(self, number: int) -> bool:
        """Tell whether anybody has ever worked on it."""
        return (self._path / f"{number}.claim").exists()

    def told(self, number: int) -> Told:
        """Tell how far it is."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((self._path / f"{number}.claim").read_bytes())
            return Told(int(found["done"]), int(found["detections"]), tuple(found["texts"]))
        return Told()

    @contextmanager
    def claim(self, number: int, *, fresh: bool) -> Iterator[Claim | None]:
        """Take a share; None where somebody works on it.

        With `fresh` only one that nobody has begun: whatever kills who works on it then kills one
        helper at most, before whoever is responsible for the job takes it.
        """
        fd = self._open(number, os.O_EXCL if fresh else 0)
        if fd is None:
            yield None
            return
        try:
            free = lock(fd) or (not fresh and self._has_stalled(number, fd))
            yield Claim(self._path, number, fd) if free else None
        finally:
            os.close(fd)

    def _open(self, number: int, flags: int) -> int | None:
        path = self._path / f"{number}.claim"
        with DiskErrors():
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o640)
            except FileExistsError:
                return None
            except FileNotFoundError:
                raise ShareGone("the job has ended") from None

    def _has_stalled(self, number: int, fd: int) -> bool:
        # The clock of another host may be wrong.
        told, now = os.fstat(fd).st_mtime_ns, time.monotonic()
        before, since = self._heard.get(number, (told, now))
        self._heard[number] = (told, since if told == before else now)
        return now - self._heard[number][1] > _STALLED


class Claim:
    """Hold one share while this process works on it."""

    def __init__(self, path: Path, number: int, fd: int) -> None:
        self.number = number
        self._path = path
        self._fd = fd
        self._next = 0.0

    def tell(self, told: Told) -> None:
        """Tell how far it is, not more often than anybody looks; raise ShareGone."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TELL
        with DiskErrors():
            if not os.fstat(self._fd).st_nlink:
                raise ShareGone("the job has ended")
            content = json.dumps(
                {"done": told.done, "detections": told.detections, "texts": told.texts}
            ).encode()
            os.pwrite(self._fd, content, 0)
            os.ftruncate(self._fd, len(content))

    def bring(self, found: Any) -> None:
        """Leave what was found, durably; what somebody else brought before stands.

        Raises:
            ShareGone: the job has ended.
        """
        content = json.dumps(found).encode()
        with DiskErrors():
            try:
                once.create_once(
                    self._path / f"{self.number}.json", content, PerRequest(), aside="."
                )
            except FileNotFoundError:
                raise ShareGone("the job has ended") from None


def digest(plan: bytes) -> str:
    """Return the name of a plan."""
    return hashlib.sha256(plan).hexdigest()[:16]
