"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from storage.durability import Durability


def create(path: Path, content: bytes, durability: Durability) -> None:
    """Create a file and sync it, but not its name; raise FileExistsError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        if content:
            write_all(fd, content)
            durability.file(fd)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def create_once(path: Path, content: bytes, durability: Durability, aside: str) -> bool:
    """Create a file where others may do the same, and sync its name; tell whether it is ours.

    For a while there is one beside it whose name begins with `aside`.
    """
    beside = path.with_name(f"{aside}{secrets.token_hex(8)}")
    create(beside, content, durability)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
        # Be it another's: he may not have come to this yet, and may have died before it.
        durability.directory(path.parent)
    return True


def write_all(fd: int, content: bytes) -> None:
    """Write all of it where the descriptor stands."""
    written = os.write(fd, content)
    while written < len(content):
        written += os.write(fd, memoryview(content)[written:])
