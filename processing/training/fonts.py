"""`python -m processing.training.fonts FOLDER`: fetch the fonts that plates are drawn with.

They come from packages of npm and of Debian by these registries' own clients, each under a licence
that allows it. None is part of the project.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Package:
    """Name one package, its licence as an SPDX identifier, and its files that are wanted."""

    source: Literal["npm", "apt"]
    name: str
    licence: str
    files: tuple[str, ...]


LATIN = ("*-latin-[4-8]00-normal.woff",)
NPM = tuple(
    Package("npm", f"@fontsource/{name}@5.3.0", licence, LATIN)
    for licence, names in {
        "OFL-1.1": (
            "antonio", "archivo-narrow", "barlow", "barlow-condensed", "barlow-semi-condensed",
            "big-shoulders-display", "fjalla-one", "khand", "league-gothic", "oswald", "overpass",
            "overpass-mono", "quantico", "rajdhani", "roboto-condensed", "rubik", "saira-condensed",
            "share-tech-mono", "teko",
        ),
        "Ubuntu-font-1.0": ("ubuntu-condensed",),
    }.items()
    for name in names
)  # fmt: skip
DEBIAN = tuple(
    Package("apt", f"fonts-{name}", licence, files)
    for name, licence, files in (
        ("roadgeek", "MIT", ("RG2014[BCDEF].ttf", "RG2014EM.ttf")),
        ("opendin", "OFL-1.1", ("OSP-DIN.ttf",)),
        ("bebas-neue", "OFL-1.1", ("BebasNeue-[BR]*.otf",)),
        ("routed-gothic", "OFL-1.1", ("routed-gothic.ttf", "*-narrow.ttf", "*-wide.ttf")),
        ("national-park", "OFL-1.1", ("*-Regular.otf", "*-Heavy.otf")),
        ("b612", "OFL-1.1", ("*-Regular.otf", "*-Bold.otf")),
        (
            "liberation",
            "GPL-2.0-only WITH Font-exception-2.0",
            ("LiberationSans*-Regular.ttf", "LiberationSans*-Bold.ttf"),
        ),
        ("dosis", "OFL-1.1", ("*Bold.otf", "*-Medium.otf")),
        ("allerta", "OFL-1.1", ("allerta_medium.otf",)),
    )
)


def fetch(packages: Sequence[Package], folder: Path) -> Iterator[tuple[Package, int]]:
    """Put the wanted files of packages into a folder, and tell how many of each there were.

    Raises:
        OSError: the client of a registry is not on this machine.
        CalledProcessError: a package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        with tempfile.TemporaryDirectory() as place:
            _unpack(package, Path(place))
            found = [file for name in package.files for file in sorted(Path(place).rglob(name))]
            for file in found:
                shutil.copyfile(file, folder / file.name)
        yield package, len(found)


def _unpack(package: Package, place: Path) -> None:
    if package.source == "npm":
        _run(["npm", "pack", "--silent", package.name], place)
        _run(["tar", "--extract", "--file", _only(place, "*.tgz")], place)
    else:
        _run(["apt-get", "download", "--quiet", package.name], place)
        _run(["dpkg-deb", "--extract", _only(place, "*.deb"), "files"], place)


def _run(command: list[str], place: Path) -> None:
    subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def _only(place: Path, pattern: str) -> str:
    [file] = place.glob(pattern)
    return file.name


def main(words: Sequence[str]) -> int:
    """Fetch them all."""
    parser = argparse.ArgumentParser(
        prog="python -m processing.training.fonts", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    for package, many in fetch((*NPM, *DEBIAN), parser.parse_args(words).folder):
        print(f"{many} files of {package.name} ({package.licence})")  # noqa: T201  talks to people
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
