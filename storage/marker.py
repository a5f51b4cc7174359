"""Whose Redis this is: one random id lies both in UPLOAD_DIR and in Redis.

Two directories on one Redis would sweep each other's uploads. A directory that is not mounted has
no marker, so nothing is taken for lost that is only out of sight.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from storage import redis_schema as schema
from storage.durability import sync_way
from storage.errors import AnotherDirectory, DiskFailed
from storage.redis_sync import call, redis_errors

if TYPE_CHECKING:
    from pathlib import Path

    from redis import Redis

log = structlog.get_logger()

NAME = ".marker"


@dataclass(frozen=True, slots=True)
class _Owner:
    """Name a directory: by its random id, and by its path for people."""

    id: str
    place: str

    def __str__(self) -> str:
        return f"{self.place} (marker {self.id})"


class Marker:
    """Compare the marker of one directory with that of one Redis; every method blocks."""

    def __init__(self, redis: Redis, directory: Path) -> None:
        """Use a client that decodes responses."""
        # redis-py's types cannot say that it decodes.
        self._redis: Any = redis
        self._path = directory / NAME

    def known(self) -> bool:
        """Tell whether Redis knows this directory; it changes nothing.

        Raises:
            AnotherDirectory: it knows another one.
            StoreUnavailable: Redis does not answer.
            DiskFailed: the directory cannot be read.
        """
        # Redis first: whoever marked it had marked the directory before.
        owner = self._owner()
        if owner is None:
            return False
        if owner.id != self._id():
            raise AnotherDirectory(self._refusal(owner))
        return True

    def claim(self) -> None:
        """Mark a Redis that bears no marker; all records are then compared. Raises as `known`."""
        if self.known():
            return
        try:
            mine = self._made()
        except DiskFailed as error:
            # A full disk must not keep the server from making room.
            log.warning("marker.not_made", reason=str(error))
            return
        self._mark(mine)
        # Another process may have been first, with another directory.
        self.known()

    def adopt(self) -> None:
        """Mark Redis as this directory's, whoever had it. Raises as `known`."""
        mine = self._made()
        with redis_errors():
            self._redis.delete(schema.MARKER)
        self._mark(mine)
        self.known()

    @redis_errors()
    def _mark(self, mine: str) -> None:
        args = (f"{mine} {self._path.parent.resolve()}",)
        call(self._redis, schema.MARK, (schema.MARKER, schema.CHECKED), args)

    @redis_errors()
    def _owner(self) -> _Owner | None:
        text = self._redis.get(schema.MARKER)
        if text is None:
            return None
        marker, _, place = text.partition(" ")
        return _Owner(marker, place)

    def _id(self) -> str | None:
        try:
            return self._path.read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskFailed(f"{self._path} cannot be read: {error.strerror}") from error

    def _made(self) -> str:
        """Return the directory's id, made where it has none; of many at once one wins."""
        aside = self._path.with_name(f"{NAME}-{secrets.token_hex(4)}")
        try:
            if not self._path.exists():
                _write(aside, f"{secrets.token_hex(16)}\n")
                with suppress(FileExistsError):
                    os.link(aside, self._path)
            # Before Redis bears it: without it here that would be another directory's Redis.
            sync_way(self._path.parent)
        except OSError as error:
            raise DiskFailed(f"{self._path} cannot be written: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)
        return self._id() or ""

    def _refusal(self, owner: _Owner) -> str:
        mine = self._id()
        place = self._path.parent.resolve()
        this = f"{place} has no marker" if mine is None else f"this is {_Owner(mine, str(place))}"
        return (
            f"This Redis belongs to the upload directory {owner}, and {this}. Two directories on "
            f"one Redis would sweep each other's uploads: mount the right UPLOAD_DIR, or give "
            f"this one a REDIS_URL of its own, another database number will do. Where this "
            f"directory has taken the other's place, run: tusd-py doctor --adopt"
        )


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
