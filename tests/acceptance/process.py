"""Our programs as real processes: started, waited for by what they print, killed by their pid."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import pytest

from settings import Settings
from storage.embedded import Embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
# Seconds. Far beyond what anything takes: whoever waits so long waits for ever.
DEADLINE = 90.0


def eventually(look: Callable[[], T | None], what: str, *, deadline: float = DEADLINE) -> T:
    """Look again and again until there is something, and return it."""
    end = time.monotonic() + deadline
    while True:
        if found := look():
            return found
        if time.monotonic() > end:
            raise AssertionError(f"in {deadline:.0f} s there was no {what}")
        time.sleep(0.02)


def is_dead(pid: int) -> bool:
    """Tell whether a process has ended, though perhaps nobody has asked for its status yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def unavailable(reason: str) -> None:
    """Skip the test, but not on a CI machine: there everything has to be."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def rss_peak(pid: int) -> int:
    """Return the most memory that a process ever had, in bytes (proc(5), VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1]) * 1024


class Process:
    """Run one command, its output in a file."""

    def __init__(
        self, name: str, command: Sequence[str | Path], cwd: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = cwd / f"{name}.out"
        with self._log.open("wb") as out:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def log(self) -> str:
        """Return all that it has printed."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the first match of a regular expression in what it prints."""

        def look() -> re.Match[str] | None:
            # Asked first: what it said last may come between the two.
            running = self.running
            found = re.search(pattern, self.log)
            if found is None and not running:
                raise AssertionError(
                    f"{self.name} ended with {self._popen.returncode} and never said "
                    f"{pattern!r}:\n{self.log}"
                )
            return found

        return eventually(look, f"{pattern!r} in the output of {self.name}")

    def wait(self) -> int:
        """Return its exit status once it has ended by itself."""
        try:
            return self._popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.log}") from None

    def terminate(self) -> None:
        """Ask it to stop."""
        self._popen.terminate()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def kill9(self) -> None:
        """Kill it without a warning, and return when it is dead."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """Ask it to stop, and kill it where it does not."""
        if not self.running:
            return
        self.terminate()
        try:
            self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self.kill9()

    def children(self) -> list[int]:
        """Return the processes that it has forked and that live."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        found = [int(pid) for one in threads for pid in (one / "children").read_text().split()]
        return [pid for pid in found if not is_dead(pid)]

    def rss_peak(self) -> int:
        """Return the most memory it ever had, in bytes."""
        return rss_peak(self.pid)


class Server(Process):
    """Run `serve`, and return when it listens."""

    #: Where it creates uploads.
    url: str
    port: int

    def listen(self) -> Self:
        found = self.wait_for(r"Listening on (http://127\.0\.0\.1:(\d+)/\S+)")
        self.url, self.port = found[1], int(found[2])
        return self


class Site:
    """One UPLOAD_DIR with its private Redis, and the processes that share it."""

    def __init__(self, directory: Path, **settings: str) -> None:
        """Use a directory whose path is short; `settings` are for every process."""
        self.directory = directory
        self.uploads = directory / "data"
        self.processes: list[Process] = []
        self._settings = settings

    def serve(self, *, port: int = 0, **settings: str) -> Server:
        """Start a server and wait until it listens."""
        return self.begin_to_serve(port=port, **settings).listen()

    def begin_to_serve(self, *, port: int = 0, **settings: str) -> Server:
        """Start a server that does not listen yet."""
        return self.run("serve", "serve", kind=Server, PORT=str(port), **settings)

    def work(self, **settings: str) -> Process:
        """Start a worker and wait until it listens for jobs."""
        worker = self.run("work", "work", kind=Process, **settings)
        worker.wait_for(r"worker\.ready")
        return worker

    def run(self, name: str, *words: str | Path, kind: type[P], **settings: str) -> P:
        """Start `tusd-py` with these words."""
        command = [sys.executable, "-m", "tusd_py", *words]
        return self.run_python(name, command, kind=kind, **settings)

    def run_python(
        self, name: str, command: Sequence[str | Path], *, kind: type[P], **settings: str
    ) -> P:
        """Start any command in the environment of this site."""
        process = kind(
            f"{name}-{len(self.processes)}", command, self.directory, self.environment(**settings)
        )
        self.processes.append(process)
        return process

    def environment(self, **settings: str) -> dict[str, str]:
        """Return an environment that holds these settings and no others."""
        others = {
            name: value
            for name, value in os.environ.items()
            if name.lower() not in Settings.model_fields
        }
        ours = {"PYTHONPATH": str(ROOT), "UPLOAD_DIR": str(self.uploads)}
        return others | ours | self._settings | settings

    @property
    def redis_url(self) -> str:
        """Return where the private Redis is."""
        return Embedded(self.uploads / "redis").url

    def redis_pid(self) -> int | None:
        """Return the process of the private Redis, if it runs."""
        with suppress(OSError, ValueError):
            pid = int((self.uploads / "redis" / "redis.pid").read_text())
            # A dead one leaves its number behind, which may be another program's now.
            if Path(f"/proc/{pid}/cwd").resolve() == (self.uploads / "redis").resolve():
                return pid
        return None

    def kill_redis(self) -> None:
        """Kill the private Redis without a warning, and return when it is dead."""
        pid = self.redis_pid()
        if pid is None:
            raise AssertionError("the private Redis does not run")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.redis_pid() != pid, "end of the private Redis")

    def stored(self, upload: str) -> Path:
        """Return the file that holds the bytes of an upload, named by its URL's path."""
        return self.uploads / upload.rpartition("/")[2]

    def results(self) -> list[str]:
        """Return the names of the published results."""
        return sorted(path.name for path in (self.uploads / "results").iterdir())

    def close(self) -> None:
        """End every process, each by its own pid."""
        for process in reversed(self.processes):
            process.stop()
        if self.redis_pid() is not None:
            self.kill_redis()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


P = TypeVar("P", bound=Process)


def new_directory() -> Path:
    """Make a directory with a path short enough for a Unix socket."""
    return Path(tempfile.mkdtemp(prefix="tusd-acc-"))


def wait_until_let_go(file: Path) -> None:
    """Wait until no server has an upload at hand any more, whose file this is."""

    def is_free() -> bool | None:
        with file.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        return True

    eventually(is_free, "a file that nobody holds")
