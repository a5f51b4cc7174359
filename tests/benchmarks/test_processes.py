"""Which processes are a server's, and what they took."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.processes import family, look
from tests.acceptance.process import eventually

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
# It starts a process that has no parent of ours, says its number, and waits for the end of input.
DAEMON = """
import os, subprocess, sys
shell = subprocess.run(
    ["/bin/sh", "-c", "sleep 600 >/dev/null & echo $!"], cwd=sys.argv[1], stdout=subprocess.PIPE
)
print(int(shell.stdout.split()[0]), flush=True)
sys.stdin.read()
"""
SPENDER = """
import sys
len(b"x" * (64 * 1024 * 1024))
for _ in range(10_000_000):
    pass
print(flush=True)
sys.stdin.read()
"""


def test_a_daemon_belongs_to_the_server_in_whose_directory_it_works(tmp_path: Path) -> None:
    inside, elsewhere = tmp_path / "server" / "redis", tmp_path / "other"
    inside.mkdir(parents=True)
    elsewhere.mkdir()
    for place, expected in ((inside, True), (elsewhere, False)):
        command = [sys.executable, "-c", DAEMON, str(place)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            daemon = int(process.stdout.readline())
            try:
                found = family(process.pid, tmp_path / "server")
                assert process.pid in found
                assert (daemon in found) is expected
                assert os.getpid() not in found
            finally:
                os.kill(daemon, 9)
                process.communicate()


def test_memory_and_processor_time_are_those_the_process_took() -> None:
    command = [sys.executable, "-c", SPENDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        [took] = look([process.pid])
        process.communicate()
    # 64 MiB were there at once, though they have been given back.
    assert took.peak > 64 * MIB
    assert took.cpu > 0
    assert eventually(lambda: not look([process.pid]), "end of the process")
