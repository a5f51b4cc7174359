"""The servers that are measured, and how each is started in a fresh directory and ended."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Seconds. A server that takes longer to start or to stop does neither.
_DEADLINE = 60
# Bytes. Journals and records stay as they are.
_WORTH_CUTTING = 8192
# linux/fs.h: ext4 takes the subdirectories for unrelated, and puts each where there is room.
_GET_FLAGS, _SET_FLAGS, _TOP_OF_TREES = 0x80086601, 0x40086602, 0x20000
_LARGE_ROWS = frozenset({"big", "big_8m", "big_1m", "parallel_8", "parallel_32"})
_SMALL_ROWS = frozenset({"create_patch_16", "creation_with_upload_16", "head_16"})
_POLICY_ROWS = frozenset({"create_patch_16", "creation_with_upload_16", "big", "parallel_8"})
# Of the environment nothing else is handed on: settings of whoever measures would count too.
_INHERITED = ("HOME", "LANG", "PATH", "TMPDIR")


class DoesNotStart(Exception):
    """A server ended, or does not answer, instead of beginning to serve."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A server: its command and environment, where {port} and {directory} are filled in."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/files/"
    #: Where nobody names it, it is measured in these rows only (None: in all), and so often.
    rows: frozenset[str] | None = None
    rounds: int = 99
    #: One that starts in no time is started for every row.
    instant: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers; what runs elsewhere has neither process nor directory."""

    kind: Kind
    port: int
    pid: int | None = None
    directory: Path | None = None

    def family(self) -> list[int]:
        """Return its processes, those of its private Redis too."""
        if self.pid is None or self.directory is None:
            return []
        return processes.family(self.pid, self.directory)

    def clear(self) -> None:
        """Cut the uploads of the last measurement: their pages would be written during the next.

        They are not unlinked: for half a minute ext4 steps over the inode of each file that was
        removed, one by one, when it makes a new one.
        """
        for entry in os.scandir(self.directory / "uploads") if self.directory else ():
            # The server may remove one meanwhile.
            with suppress(FileNotFoundError):
                if entry.is_file() and entry.stat().st_size >= _WORTH_CUTTING:
                    os.truncate(entry.path, 0)


def ours(durability: str) -> Kind:
    """Return `tusd-py serve` as production runs it, with its private Redis and this policy."""
    settings = {
        "DURABILITY": durability,
        "MAX_FILE_SIZE": str(4 << 30),
        "PORT": "{port}",
        "UPLOAD_DIR": "{directory}",
    }
    name = "ours" if durability == "none" else f"ours-{durability}"
    rows = _POLICY_ROWS if durability == "interval" else None
    return Kind(
        name, (str(Path(sys.executable).with_name("tusd-py")), "serve"), settings, rows=rows
    )


def bare(way: str, receiver: Path) -> Kind:
    """Return a bare receiver: `splice` or `recv`, which do the same with small bodies."""
    rows = None if way == "splice" else _LARGE_ROWS
    return Kind(way, (str(receiver), way, "{directory}", "{port}"), rows=rows, instant=True)


def bare_asgi() -> Kind:
    """Return a bare app on uvicorn: the limit of a server in Python, as `bare` is of any."""
    words = "-m uvicorn --log-level error --no-access-log --no-server-header --port {port}"
    app = ("--app-dir", str(Path(__file__).parents[1]), "benchmarks.bare_asgi:app")
    environment = {"UPLOAD_DIR": "{directory}"}
    return Kind("bare-asgi", (sys.executable, *words.split(), *app), environment, rows=_SMALL_ROWS)


@contextmanager
def place(below: Path | None) -> Iterator[Path]:
    """Make a directory for servers, and remove it with all that they wrote when all is measured."""
    directory = Path(tempfile.mkdtemp(prefix="tusd-bench-", dir=below))
    # Else new files lie beside those that the last run removed: see Running.clear.
    with suppress(OSError), _opened(directory) as fd:
        flags = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, struct.pack("l", 0)))[0]
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags | _TOP_OF_TREES))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def started(kinds: Sequence[Kind], below: Path) -> Iterator[list[Running]]:
    """Run these servers, each in a fresh directory, and end them."""
    with ExitStack() as stack:
        yield [stack.enter_context(_started(kind, below)) for kind in kinds]


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _started(kind: Kind, below: Path) -> Iterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="server-", dir=below))
    uploads = directory / "uploads"
    uploads.mkdir()
    port = _free_port()
    filled = {"port": port, "directory": uploads}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  a command of whoever measures
            [word.format(**filled) for word in kind.command],
            env=_environment({name: v.format(**filled) for name, v in kind.environment.items()}),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Running(kind, port, process.pid, directory)
    try:
        _wait_until_it_answers(process, running)
        yield running
    finally:
        _stop(process, running)


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | dict(settings)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_it_answers(process: subprocess.Popen[bytes], running: Running) -> None:
    end = time.monotonic() + _DEADLINE
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_DEADLINE)
            asked.request("OPTIONS", running.kind.path, headers={"Tus-Resumable": "1.0.0"})
            asked.getresponse().read()
            asked.close()
            return
        time.sleep(0.05)
    log = (running.directory / "log").read_text(errors="replace") if running.directory else ""
    raise DoesNotStart(f"{running.kind.name} does not answer:\n{log[-2000:]}")


def _stop(process: subprocess.Popen[bytes], running: Running) -> None:
    family = running.family()
    process.terminate()
    try:
        process.wait(_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # What it left running, such as a private Redis that nobody stopped.
    for pid in set(family) & set(running.family()) - {process.pid}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
