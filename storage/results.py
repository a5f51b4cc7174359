"""Results of jobs and the pictures that belong to them: published once, all together.

What one run has found lies in `crops/{id}/`: `result.json`, and `{n}.jpg` for plate n. The
directory comes there whole, by a rename that fails where another run's is, and `results/{id}.json`
is a second name of the `result.json` in it. So the run whose directory is there first is the one
whose result is published, whoever gives it that name: no result has the pictures of another run.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from storage import once
from storage.durability import PerRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RESULT = "result.json"


class Results:
    """Keep them in two directories of their own, always durably. Raises OSError throughout."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, in which `prepare` makes the two."""
        self.directory = directory / "results"
        self._crops = directory / "crops"
        self._durability = PerRequest()

    def prepare(self) -> None:
        """Make the directories."""
        for directory in (self.directory, self._crops):
            directory.mkdir(parents=True, exist_ok=True)

    def publish(self, upload_id: str, result: bytes, crops: Sequence[bytes]) -> bool:
        """Store a result and its pictures, of which some may be empty: there are none then.

        False when there is a result already, which then stands.
        """
        if self._path(upload_id).exists():
            return False
        aside = self._crops / f".{secrets.token_hex(8)}"
        try:
            self._write(aside, result, crops)
            return self._publish(upload_id, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _write(self, aside: Path, result: bytes, crops: Sequence[bytes]) -> None:
        self._crops.mkdir(exist_ok=True)
        aside.mkdir()
        once.create(aside / _RESULT, result, self._durability)
        for number, crop in enumerate(crops):
            if crop:
                once.create(aside / f"{number}.jpg", crop, self._durability)
        self._durability.directory(aside)

    def _publish(self, upload_id: str, aside: Path) -> bool:
        ours = self._claim(upload_id, aside)
        while True:
            try:
                self._name(upload_id)
                break
            except FileNotFoundError:
                # What a removal left of another one's.
                shutil.rmtree(self._crops / upload_id, ignore_errors=True)
                ours = self._claim(upload_id, aside)
        return ours and self._is_named(upload_id)

    def _claim(self, upload_id: str, aside: Path) -> bool:
        """Tell whether the directory is ours; it may be one that a dead run could not publish."""
        try:
            aside.rename(self._crops / upload_id)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
        finally:
            self._durability.directory(self._crops)
        return True

    def _name(self, upload_id: str) -> None:
        """Give the result its name, unless there is one already."""
        try:
            with suppress(FileExistsError):
                os.link(self._crops / upload_id / _RESULT, self._path(upload_id))
        finally:
            # Be it another's: he may not have come to this yet, and may have died before it.
            self._durability.directory(self.directory)

    def _is_named(self, upload_id: str) -> bool:
        """Tell whether what has the name is what lies in the directory, whoever named it."""
        try:
            return (self._crops / upload_id / _RESULT).samefile(self._path(upload_id))
        except FileNotFoundError:
            return False

    def get(self, upload_id: str) -> bytes | None:
        """Return it, or None."""
        try:
            return self._path(upload_id).read_bytes()
        except FileNotFoundError:
            return None

    def crop(self, upload_id: str, number: int) -> bytes | None:
        """Return the best shot of a plate, or None."""
        try:
            return (self._crops / upload_id / f"{number}.jpg").read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, upload_id: str) -> None:
        """Remove it and its pictures; idempotent."""
        self._path(upload_id).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self._crops / upload_id)

    def _path(self, upload_id: str) -> Path:
        return self.directory / f"{upload_id}.json"
