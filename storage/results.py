"""Results of jobs: each is published once, under a name that must not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.durability import PerRequest
from storage.once import create_once

if TYPE_CHECKING:
    from pathlib import Path


class Results:
    """Keep them in a directory of their own, always durably. Raises OSError throughout."""

    def __init__(self, directory: Path) -> None:
        """Use a directory that is there when it is needed."""
        self.directory = directory

    def publish(self, upload_id: str, result: bytes) -> bool:
        """Store it; False when there is one already, which then stands."""
        return create_once(self._path(upload_id), result, PerRequest(), aside=".")

    def get(self, upload_id: str) -> bytes | None:
        """Return it, or None."""
        try:
            return self._path(upload_id).read_bytes()
        except FileNotFoundError:
            return None

    def crop(self, upload_id: str, number: int) -> bytes | None:
        """Return the best shot of a plate, or None."""
        try:
            return self._crop(upload_id, number).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, upload_id: str) -> None:
        """Remove it; idempotent."""
        self._path(upload_id).unlink(missing_ok=True)

    def _path(self, upload_id: str) -> Path:
        return self.directory / f"{upload_id}.json"

    def _crop(self, upload_id: str, number: int) -> Path:
        return self.directory.parent / "crops" / upload_id / f"{number}.jpg"
