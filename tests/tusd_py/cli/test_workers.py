"""The parent of several processes, with work of a few lines."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.acceptance.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# What each does is put in between. The parent says what it sees, and is stopped when all serve.
PROGRAM = """
import os, signal, sys, time
from tusd_py.cli import CommandError, Stopped
from tusd_py.cli.workers import Workers

def say(*words):
    print(*words, flush=True)

def serving():
    say("all serve")
    os.kill(os.getpid(), signal.SIGTERM)

def work(number, serves):
    {work}

try:
    Workers(2, work, grace={grace}).run(serving, lambda: say("stopping"))
except Stopped:
    say("stopped")
except CommandError as error:
    say(error)
"""


def run(place: Path, *lines: str, grace: float = 60.0) -> list[str]:
    """Run two processes that do this; return what they and their parent said, line by line."""
    program = PROGRAM.format(work="\n    ".join(lines), grace=grace)
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(
        command, cwd=place, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == 0
    return done.stdout.decode().splitlines()


def test_one_that_ends_before_it_serves_ends_them_all(tmp_path: Path) -> None:
    said = run(tmp_path, "serves() if number else sys.exit(9)", "time.sleep(600)")
    assert said == ["stopping", "A process could not begin: it ended with code 3"]


def test_all_serve_before_it_is_said_and_end_before_the_parent_does(tmp_path: Path) -> None:
    said = run(
        tmp_path, "try:", "    serves()", "    time.sleep(600)", "finally:", "    say('ends')"
    )
    assert said == ["all serve", "stopping", "ends", "ends", "stopped"]


def test_one_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    first, second, killed, last = run(tmp_path, deaf, "serves()", "time.sleep(600)", grace=0.1)
    assert (first, second, last) == ("all serve", "stopping", "stopped")
    assert "worker.killed" in killed
