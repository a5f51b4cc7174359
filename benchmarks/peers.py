"""Other servers of tus, installed beside the programs in C where their package managers are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.programs import BUILD, HERE
from benchmarks.servers import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NODE_PACKAGES = ("@tus/server@2.4.5", "@tus/file-store@2.1.1")
PYTHON_PACKAGES = ("tuspyserver==4.4.3", "uvicorn[standard]==0.54.0")
PEERS = ("tusd", "@tus/server", "tuspyserver")
# Where a slow one is looked at: what the published figures name.
FEW_ROWS = frozenset({"create_patch_16", "creation_with_upload_16", "head_16", "big"})


class CannotInstall(Exception):
    """A peer cannot be had on this machine."""


def tusd() -> Kind:
    """Return tusd, where PATH has one.

    Raises:
        CannotInstall: it has none.
    """
    if shutil.which("tusd") is None:
        raise CannotInstall("there is no tusd on PATH")
    options = ("-host", "127.0.0.1", "-port", "{port}", "-upload-dir", "{directory}")
    return Kind("tusd", ("tusd", *options))


def node() -> Kind:
    """Return @tus/server, installed by npm.

    Raises:
        CannotInstall: npm is not there, or cannot install it.
    """
    place = BUILD / "node"
    if shutil.which("npm") is None:
        raise CannotInstall("there is no npm on PATH")
    options = ("--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", place)
    _install(place, "node_modules", [["npm", "install", *options, *NODE_PACKAGES]])
    # It finds its packages beside itself.
    shutil.copy(HERE / "tus_node.mjs", place)
    program = str(place / "tus_node.mjs")
    return Kind("@tus/server", ("node", program, "{port}", "{directory}"), rounds=2)


def tuspyserver() -> Kind:
    """Return tuspyserver, installed by pip into an environment of its own.

    Raises:
        CannotInstall: pip cannot install it.
    """
    place = BUILD / "tuspyserver"
    _install(
        place,
        "bin/uvicorn",
        [
            [sys.executable, "-m", "venv", place],
            [place / "bin" / "python", "-m", "pip", "install", "--quiet", *PYTHON_PACKAGES],
        ],
    )
    options = ("--factory", "--app-dir", str(HERE), "--no-access-log", "--port", "{port}")
    command = (str(place / "bin" / "uvicorn"), "tuspyserver_app:create", *options)
    return Kind("tuspyserver", command, {"UPLOADS": "{directory}"}, rounds=1, rows=FEW_ROWS)


def peers(wanted: Callable[[str], bool], tell: Callable[[str], None]) -> list[Kind]:
    """Return those that are wanted and can be had; tell why the others cannot."""
    found = []
    for name, make in zip(PEERS, (tusd, node, tuspyserver), strict=True):
        try:
            found += [make()] if wanted(name) else []
        except CannotInstall as error:
            tell(f"Without {name}: {error}.")
    return found


def _install(place: Path, made: str, commands: Sequence[Sequence[str | Path]]) -> None:
    """Run commands that leave `made` below a place, unless it is there."""
    if (place / made).exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            shutil.rmtree(place)
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise CannotInstall(f"{command[0]} ended with {done.returncode} {reason}")
