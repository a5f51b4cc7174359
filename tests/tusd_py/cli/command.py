"""Run the command as a person would: a process of its own, from a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[3]
# What the machine of the tests has set must not decide them.
OURS = {name.upper() for name in Settings.model_fields}


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.upper() not in OURS}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(home / "state"),
        **(more or {}),
    }


def start(home: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command in the directory `home`."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tusd_py", *words],
        cwd=home,
        env=environment(home, env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    home: Path, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with start(home, *words, env=env) as process:
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)
