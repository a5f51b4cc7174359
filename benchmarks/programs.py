"""The programs in C, built where they are first needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
BUILD = HERE / ".build"
LOAD = ("load.c", "http.c", "figures.c")
RECEIVER = ("receiver.c",)


class CannotBuild(Exception):
    """There is no compiler, or it refuses."""


def build(sources: Sequence[str], into: Path = BUILD) -> Path:
    """Return the program made of these sources, built again when one of them is newer.

    Raises:
        CannotBuild: no C compiler is on PATH, or it does not take the sources.
    """
    program = into / Path(sources[0]).stem
    newest = max(path.stat().st_mtime for path in HERE.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < newest:
        into.mkdir(parents=True, exist_ok=True)
        _compile([HERE / name for name in sources], program)
    return program


def _compile(sources: Sequence[Path], program: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotBuild(
            "The benchmarks need a C compiler, and there is no cc on PATH: on Debian, "
            "apt install gcc libc6-dev."
        )
    # Moved into place as a whole: two may build at once.
    made = program.with_suffix(f".{id(program)}")
    command: list[str | Path] = [compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", made]
    command += sources
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise CannotBuild(f"cc ended with {done.returncode}:\n{done.stderr}")
    made.replace(program)
