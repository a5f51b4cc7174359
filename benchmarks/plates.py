"""`python -m benchmarks.plates`: how well and how fast each engine reads plates.

Real images and videos are read where they lie beside the project, in `../shared`; drawn ones are
made anew. The table goes into PLATES.md, between its two marks; the rest there is written by hand.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from processing.engines import choose
from processing.errors import ReaderUnavailable
from processing.evaluate import Label, Outcome, Score, read_labels, score
from processing.pipeline import analyse
from tests.scene import Setting, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processing.engines import Engine, ReaderName

PLACE = Path(__file__).with_name("PLATES.md")
SHARED = Path(__file__).parents[2] / "shared"
LIBRARIES = ("onnxruntime", "opencv-python-headless", "rapidocr", "fast-plate-ocr")
ENGINES: tuple[ReaderName, ...] = ("rapidocr", "alpr")
# Read by eye; the second one shows no plate that could be read.
FILMS = {
    "parkpow_cars.mp4": ("34A36837", "34A23126", "89C20339"),
    "intel_car-detection.mp4": (),
}
# No seed of the tests, and none that anything was tuned on.
DRAWN = (
    Setting(seed=101, width=1920, height=1088, fps=30, seconds=4.0, plates=2),
    Setting(seed=102, seconds=4.0, plates=2),
    Setting(seed=103, seconds=4.0, plates=2),
)
MARKS = "<!-- figures -->\n", "<!-- end of figures -->\n"
HEAD = (
    "| engine | set | plates | exact | CER | recall | false/min | ECE | x real time | s/image |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)

Samples = dict[str, list[tuple[Path, tuple[Label, ...]]]]


def main(words: Sequence[str]) -> int:
    """Measure each engine, and write or print the table."""
    options = _parser().parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        samples = _real(options.shared) if options.kind != "drawn" else {}
        if options.kind != "real":
            samples |= _drawn(Path(folder))
        table = HEAD
        for row in _rows(options.engines, options.shared, _thinned(samples, options.each)):
            print(row, end="", file=sys.stderr, flush=True)  # noqa: T201  it takes long
            table += row
    note = f"{_circumstances()}\n\n"
    if options.write:
        _replace(note + table)
    else:
        print(note + table)  # noqa: T201  talks to people
    return 0


def _circumstances() -> str:
    names = [f"{name} {version(name)}" for name in LIBRARIES]
    versions = ", ".join([f"Python {platform.python_version()}", *names])
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores with a load average of"
        f" {os.getloadavg()[2]:.1f} over 15 minutes, {versions}."
    )


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.plates", description=__doc__)
    made.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    made.add_argument("--shared", type=Path, default=SHARED, help="real images, videos, weights")
    made.add_argument("--kind", choices=("real", "drawn", "all"), default="all")
    made.add_argument("--each", type=int, default=1, metavar="N", help="only each N-th image")
    made.add_argument("--write", action="store_true", help="put the table into PLATES.md")
    return made


def _real(shared: Path) -> Samples:
    found: Samples = {}
    labels = shared / "plates" / "labels.csv"
    if labels.is_file():
        with labels.open(encoding="utf-8", newline="") as lines:
            for file, told in read_labels(lines).items():
                name = f"stills {file.partition('/')[0]}"
                found.setdefault(name, []).append((labels.parent / file, told))
    for name, texts in FILMS.items():
        path = shared / "videos" / name
        if path.is_file():
            found[name] = [(path, tuple(Label(text) for text in texts))]
    return found


def _drawn(folder: Path) -> Samples:
    made = []
    for setting in DRAWN:
        path = folder / f"{setting.seed}.webm"
        shown = write(path, setting)
        made.append((path, tuple(Label(one.text) for one in shown)))
    return {"drawn 1080p/30": made[:1], "drawn 720p/25": made[1:]}


def _thinned(samples: Samples, each: int) -> Samples:
    return {name: files[::each] for name, files in samples.items()}


def _rows(engines: Sequence[ReaderName], shared: Path, samples: Samples) -> Iterator[str]:
    for name in engines:
        try:
            engine = choose(name, alpr_model_dir=shared / "models")
        except ReaderUnavailable as error:
            print(f"{name} is left out: {error}", file=sys.stderr)  # noqa: T201
            continue
        for kind, files in samples.items():
            yield _row(engine.name, kind, score([_outcome(engine, *one) for one in files]))


def _outcome(engine: Engine, path: Path, labels: tuple[Label, ...]) -> Outcome:
    started = time.perf_counter()
    found = analyse(path, engine.detector, engine.reader, lambda _: None)
    return Outcome(labels, found.plates, found.duration / 60, time.perf_counter() - started)


def _row(engine: str, kind: str, one: Score) -> str:
    figures = (
        (one.exact, 3),
        (one.error_rate, 3),
        (one.recall, 3),
        (one.false_per_minute, 1),
        (one.calibration_error, 3),
        (one.speed, 1),
        (one.seconds_per_image, 2),
    )
    cells = ("" if value is None else f"{value:.{places}f}" for value, places in figures)
    return f"| {' | '.join([engine, kind, str(one.labels), *cells])} |\n"


def _replace(table: str) -> None:
    before, start, rest = PLACE.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    PLACE.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
