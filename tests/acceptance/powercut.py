"""A disk whose power can be cut: a process of its own that serves a forgetful file system."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.acceptance.process import ROOT, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Disk:
    """Order about the process that serves the disk; `place` is where it is mounted."""

    def __init__(self, place: Path) -> None:
        """Mount a disk there; raise OSError where that is not allowed."""
        self.place = place
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.fuse", str(place)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._answer()

    def cut(self, seed: int | None) -> None:
        """Lose the power; what nobody synced is kept or lost as the seed has it, lost with None.

        Whoever still has something open there finds it gone.
        """
        self._order(cut=seed)

    def limit(self, capacity: int) -> None:
        """Have room for so many bytes in all."""
        self._order(capacity=capacity)

    def fail_syncs(self, times: int) -> None:
        """Let the next syncs of files fail, and lose what they should have kept."""
        self._order(fail=errno.EIO, times=times)

    def fail_writes(self, times: int) -> None:
        """Let the next writes fail."""
        self._order(fail_writes=errno.EIO, times=times)

    def hold_syncs(self, passing: int) -> None:
        """Let so many syncs pass, and those behind them wait."""
        self._order(hold=passing)

    def let_go(self) -> None:
        """Hold no syncs any more; those that were held have not taken place."""
        self._order(let_go=1)

    @property
    def held(self) -> int:
        """Tell how many syncs wait."""
        return int(self._order()["held"])

    @property
    def failing(self) -> int:
        """Tell how many syncs are still to fail."""
        return int(self._order()["failing"])

    @property
    def used(self) -> int:
        """Tell how many bytes have a place on it."""
        return int(self._order()["used"])

    def close(self) -> None:
        """Take the disk away, with all that is on it."""
        self._process.communicate(timeout=60)

    def _order(self, **order: int | None) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            raise OSError(said.decode(errors="replace"))
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def mounted(place: Path) -> Iterator[Disk]:
    """Mount a disk at a new directory, or skip the test where nothing can be mounted."""
    place.mkdir()
    try:
        disk = Disk(place)
    except OSError as error:
        unavailable(f"no FUSE here: {error}")
        raise
    try:
        yield disk
    finally:
        disk.close()
        place.rmdir()
