"""A process that has made itself ready for a job before there is one.

It is a fork of its own like every other one, and does one job: what may become of a job's process
ends with it. Only what takes long before a job can begin was done while nobody waited.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from storage.linux import die_with

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 4096


class Spare:
    """Keep one such process; the one that forks has no threads."""

    def __init__(self, prepare: Callable[[], object], work: Callable[[str], object]) -> None:
        """Each process calls `prepare`, and `work` with what `hand` is told; it ends with that."""
        self._prepare = prepare
        self._work = work
        self._pid = 0
        self._pipe = -1

    def ensure(self) -> None:
        """See to it that there is one."""
        if not self._lives():
            self._fork()

    def hand(self, told: str) -> int | None:
        """Give it a job; return its pid, whose end is from then on the caller's to wait for.

        None where there is none, or where it has died.
        """
        if not self._lives():
            return None
        pid = self._pid
        try:
            os.write(self._pipe, told.encode())
        except OSError:
            self.close()
            return None
        self._forget()
        return pid

    def close(self) -> None:
        """End it, if there is one."""
        if self._lives():
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._forget()

    def _lives(self) -> bool:
        if not self._pid:
            return False
        with suppress(ChildProcessError):
            if os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                return True
        self._forget()
        return False

    def _forget(self) -> None:
        os.close(self._pipe)
        self._pid, self._pipe = 0, -1

    def _fork(self) -> None:
        parent = os.getpid()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(reading)
            self._pid, self._pipe = pid, writing
            return
        try:
            die_with(parent)
            os.setpgrp()
            os.close(writing)
            self._prepare()
            if told := os.read(reading, _LONGEST):
                self._work(told.decode())
        finally:
            # Whatever happens, it must not go on as a second worker.
            os._exit(os.EX_SOFTWARE)
