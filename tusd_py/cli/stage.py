"""What the demo plays on: child processes that die with it, and a connection that breaks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tusd_py.cli import CommandError, Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO

ROOT = Path(__file__).resolve().parent.parent.parent
PR_SET_PDEATHSIG = 1
BLOCK = 16 * 1024


def command(*words: str) -> list[str]:
    """Return how this very program is started again; -P keeps the current directory out."""
    return [sys.executable, "-P", "-m", "tusd_py", *words]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which a child finds the same modules."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


class Child:
    """Run one verb as a process of its own that ends when this one does."""

    def __init__(
        self,
        words: tuple[str, ...],
        env: Mapping[str, str],
        log: Path,
        *,
        alive: int,
        stderr: IO[bytes] | None = None,
    ) -> None:
        """Take the words of the command, and a descriptor the child holds while it lives.

        What it says goes to `log`; its stderr to another file, where one is given.
        """
        self.name = words[0]
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                command(*words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=stderr or out,
                env=environment(env),
                pass_fds=(alive,),
                # A Ctrl-C is for the parent alone, which stops its children in order.
                process_group=0,
                preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509  one system call, no lock
            )

    @property
    def code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            CommandError: it ended; its last lines say why.
        """
        if self.code is not None:
            raise CommandError(
                f"`tusd-py {self.name}` ended with {self.code}. "
                f"The end of {self.log}:\n{self.tail()}",
                Exit.STARTUP,
            )

    def said(self) -> str:
        """Return what it wrote."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """Return its last lines."""
        return "\n".join(self.said().splitlines()[-12:]) or "(nothing)"

    def stop(self) -> None:
        """Ask it to end, then more firmly; return when it has."""
        for number, patience in ((signal.SIGTERM, 5), (signal.SIGTERM, 5), (signal.SIGKILL, None)):
            if self.code is not None:
                return
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child calls before it becomes the program: the kernel ends it with us."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return call


class Cutter:
    """Pass one port on to another at a given pace, and break the connection once."""

    def __init__(
        self, target: int, *, cut_after: int, rate: float, told: Callable[[int], None]
    ) -> None:
        """Take the port, the bytes after which it breaks, bytes per second, and whom to tell."""
        self._target = target
        self._cut_after = cut_after
        self._rate = rate
        self._told = told
        self._passed = 0
        self.cut = False
        self._lock = threading.Lock()
        self._listener = socket.socket()
        # Little may wait here, so that the client knows how much has passed.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        """Pass bytes both ways; one thread has both sockets, so that closing them really resets."""
        address = ("127.0.0.1", self._target)
        with client, contextlib.suppress(OSError), socket.create_connection(address) as server:
            while self._pass_on(client, server):
                pass

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Pass on what has come; tell whether to go on."""
        ready, _, _ = select.select([client, server], [], [])
        if server in ready and not _move(server, client):
            return False
        if client not in ready:
            return True
        count = _move(client, server)
        if self._breaks(count):
            _reset(client, server)
            return False
        time.sleep(count / self._rate)
        return count > 0

    def _breaks(self, count: int) -> bool:
        with self._lock:
            self._passed += count
            if self.cut or self._passed < self._cut_after:
                return False
            self.cut = True
        # The server has read what passed before the reset throws the rest away.
        time.sleep(0.2)
        self._told(self._passed)
        return True


def _move(source: socket.socket, target: socket.socket) -> int:
    block = source.recv(BLOCK)
    target.sendall(block)
    return len(block)


def _reset(*sockets: socket.socket) -> None:
    for one in sockets:
        # Lingering for no time makes close() send RST: the peer's next system call fails.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
