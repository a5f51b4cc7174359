"""How fast the disk itself takes what shall last: no server that promises that is faster."""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 4 << 20
_BLOCKS = 64


def speed(directory: Path, rounds: int = 5) -> float | None:
    """Return the MB/s at which a new file grows past the page cache until it is synced.

    None: the file system has nothing but the page cache.
    """
    with suppress(OSError), mmap.mmap(-1, _BLOCK) as block:
        block.write(os.urandom(_BLOCK))
        return statistics.median(_once(directory, block) for _ in range(rounds))
    return None


def _once(directory: Path, block: mmap.mmap) -> float:
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        descriptor = os.open(file.name, os.O_WRONLY | os.O_DIRECT)
        try:
            began = time.perf_counter()
            written = sum(os.pwrite(descriptor, block, at * _BLOCK) for at in range(_BLOCKS))
            os.fdatasync(descriptor)
            return written / 1e6 / (time.perf_counter() - began)
        finally:
            os.close(descriptor)
