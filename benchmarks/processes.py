"""What the processes of a server took of memory and processor time, as proc(5) tells."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its name, the most memory it had in bytes, its processor time in seconds."""

    pid: int
    name: str
    peak: int
    cpu: float


def family(root: int, directory: Path) -> list[int]:
    """Return a process, all that descend from it, and all that work below a directory.

    A private Redis is a daemon: only its working directory tells whose it is.
    """
    parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found | {pid for pid in parents if _works_below(pid, directory)})


def look(pids: Iterable[int]) -> list[Process]:
    """Return what these processes took so far; those that have ended are left out."""
    found = []
    for pid in pids:
        with suppress(OSError):
            found.append(_process(pid))
    return found


def forget_peaks(pids: Iterable[int]) -> None:
    """Have the kernel count the peak of memory anew (proc(5), clear_refs 5)."""
    for pid in pids:
        with suppress(OSError):
            (_PROC / str(pid) / "clear_refs").write_text("5")


def _process(pid: int) -> Process:
    status = (_PROC / str(pid) / "status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    # utime and stime are the 14th and 15th field; pid and name are cut off here.
    ticks = int(fields[11]) + int(fields[12])
    return Process(
        pid,
        status.split("\n", 1)[0].partition("\t")[2],
        int(peak[1]) * 1024 if peak else 0,
        ticks / os.sysconf("SC_CLK_TCK"),
    )


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int | None:
    with suppress(OSError):
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return None


def _works_below(pid: int, directory: Path) -> bool:
    with suppress(OSError):
        return (_PROC / str(pid) / "cwd").readlink().is_relative_to(directory.resolve())
    return False
