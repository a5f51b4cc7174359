"""What plates are measured by: real stills and videos where they lie, drawn ones made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import cv2

from processing.evaluate import Label, read_labels
from tests import traffic
from tests.scene import Setting, write
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind: TypeAlias = Literal["stills", "videos", "drawn"]
Samples: TypeAlias = dict[str, list[tuple["Path", tuple[Label, ...]]]]

KINDS: tuple[Kind, ...] = ("stills", "videos", "drawn")
# Read by eye; the second one shows no plate that could be read.
FILMS = {
    "parkpow_cars.mp4": ("34A36837", "34A23126", "89C20339"),
    "intel_car-detection.mp4": (),
}
# No seed of the tests, and none that anything was tuned on.
SCENES = (
    Setting(seed=101, width=1920, height=1088, fps=30, seconds=4.0, plates=2),
    Setting(seed=102, seconds=4.0, plates=2),
    Setting(seed=103, seconds=4.0, plates=2),
)
PICTURES = range(7000, 7400)
TRAFFIC = range(7000, 7060)
# Each so many pictures show a plate of two lines.
TWO_LINES = 8
TOGETHER = "drawn, hard ones together"


def samples(kind: Kind, shared: Path, folder: Path) -> Samples:
    """Return the files of a kind by set, each with the plates that it shows.

    Args:
        kind: of samples.
        shared: where `plates` and `videos` lie; what is not there is left out.
        folder: an empty one to draw into.
    """
    if kind == "stills":
        return _stills(shared)
    return _videos(shared) if kind == "videos" else _drawn(folder)


def _stills(shared: Path) -> Samples:
    found: Samples = {}
    labels = shared / "plates" / "labels.csv"
    if labels.is_file():
        with labels.open(encoding="utf-8", newline="") as lines:
            for file, told in read_labels(lines).items():
                name = f"stills {file.partition('/')[0]}"
                found.setdefault(name, []).append((labels.parent / file, told))
    return found


def _videos(shared: Path) -> Samples:
    return {
        name: [(path, tuple(Label(text) for text in texts))]
        for name, texts in FILMS.items()
        if (path := shared / "videos" / name).is_file()
    }


def _drawn(folder: Path) -> Samples:
    made = []
    for setting in SCENES:
        path = folder / f"{setting.seed}.webm"
        shown = write(path, setting)
        made.append((path, tuple(Label(one.text) for one in shown)))
    return {
        "drawn 1080p/30": made[:1],
        "drawn 720p/25": made[1:],
        "drawn, hard pictures": list(pictures(folder, PICTURES)),
        "drawn, hard videos": list(films(folder, TRAFFIC)),
    }


def pictures(folder: Path, seeds: range) -> Iterator[tuple[Path, tuple[Label, ...]]]:
    """Draw a picture for each seed."""
    for seed in seeds:
        drawn = snapshot(seed, lines=1 if seed % TWO_LINES else 2)
        path = folder / f"picture-{seed}.png"
        cv2.imwrite(str(path), drawn.image)
        yield path, (Label(drawn.text, drawn.box),)


def films(folder: Path, seeds: range) -> Iterator[tuple[Path, tuple[Label, ...]]]:
    """Draw a video for each seed."""
    for seed in seeds:
        routes, weather = traffic.hard(seed)
        path = folder / f"traffic-{seed}.avi"
        traffic.film(path, routes, 6.0, weather, seed)
        yield path, tuple(Label(route.text) for route in routes)
