"""Whether UPLOAD_DIR is the directory that it was: where nothing is mounted lies another one."""

from __future__ import annotations

import os

from storage.errors import DiskFailed
from storage.marker import NAME


class Mounted:
    """Remember which directory lies at a path."""

    def __init__(self, path: str) -> None:
        """Take the directory that is there, or else the one that is found first."""
        self._path = path
        self._known = self._found()

    def check(self) -> None:
        """Raise DiskFailed where another directory lies there now that bears no marker.

        An upload that cannot be seen is not lost, and one that were begun would be.
        """
        found = self._found()
        if found is not None and found == self._known:
            return
        if self._known is not None and not os.path.exists(f"{self._path}/{NAME}"):  # noqa: PTH110  no Path for each creation
            raise DiskFailed(f"UPLOAD_DIR {self._path} is not the directory it was: mount that one")
        self._known = found

    def _found(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._path)  # noqa: PTH116  as above
        except OSError:
            return None
        return stat.st_dev, stat.st_ino
