"""`python -m benchmarks.plates`: how well and how fast each engine reads plates.

Real images and videos are read where they lie beside the project, in `../shared`; drawn ones are
made anew. What was measured replaces its rows of the table in PLATES.md, between its two marks; the
other rows stay, and the rest there is written by hand.
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

from benchmarks.plate_sets import KINDS, TOGETHER, samples
from processing.engines import choose
from processing.errors import ReaderUnavailable
from processing.evaluate import Outcome, Score, score
from processing.pipeline import analyse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.plate_sets import Samples
    from processing.engines import Engine, ReaderName
    from processing.evaluate import Label

PLACE = Path(__file__).with_name("PLATES.md")
SHARED = Path(__file__).parents[2] / "shared"
LIBRARIES = ("onnxruntime", "opencv-python-headless", "rapidocr", "fast-plate-ocr")
ENGINES: tuple[ReaderName, ...] = ("rapidocr", "alpr")
# Of these one has to name a folder with a trained network.
KNOWN: tuple[ReaderName, ...] = (*ENGINES, "builtin")
MARKS = "<!-- figures -->\n", "<!-- end of figures -->\n"
HEAD = (
    "| engine | set | plates | exact | CER | recall | false/min | ECE | x real time | s/image"
    " | measured (UTC), load |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def main(words: Sequence[str]) -> int:
    """Measure each engine, and write or print the table."""
    options = _parser().parse_args(words)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found: Samples = {}
        for kind in options.kind:
            found |= samples(kind, options.shared, Path(folder))
        engines = _engines(options.engines, options.shared, options.plate_model_dir)
        for row in _rows(engines, _thinned(found, options.each)):
            print(row, end="", file=sys.stderr, flush=True)  # noqa: T201  it takes long
            rows.append(row)
    if options.write:
        _replace(rows)
    else:
        print(_table(rows))  # noqa: T201  talks to people
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.plates", description=__doc__)
    made.add_argument("--engines", nargs="+", choices=KNOWN, default=ENGINES)
    made.add_argument("--plate-model-dir", type=Path, help="folder of the network for builtin")
    made.add_argument("--shared", type=Path, default=SHARED, help="real images, videos, weights")
    made.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    made.add_argument("--each", type=int, default=1, metavar="N", help="only each N-th file")
    made.add_argument("--write", action="store_true", help="put the rows into PLATES.md")
    return made


def _thinned(found: Samples, each: int) -> Samples:
    return {name: files[::each] for name, files in found.items()}


def _engines(
    names: Sequence[ReaderName], shared: Path, plate_model_dir: Path | None
) -> Iterator[Engine]:
    for name in names:
        try:
            yield choose(name, alpr_model_dir=shared / "models", plate_model_dir=plate_model_dir)
        except ReaderUnavailable as error:
            print(f"{name} is left out: {error}", file=sys.stderr)  # noqa: T201


def _rows(engines: Iterable[Engine], found: Samples) -> Iterator[str]:
    for engine in engines:
        hard: list[Outcome] = []
        for kind, files in found.items():
            outcomes = [_outcome(engine, *one) for one in files]
            hard += outcomes if "hard" in kind else []
            yield _row(engine.name, kind, score(outcomes))
        if hard:
            yield _row(engine.name, TOGETHER, score(hard))


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
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}, {os.getloadavg()[1]:.1f}"
    return f"| {' | '.join([engine, kind, str(one.labels), *cells, now])} |\n"


def _table(rows: Iterable[str]) -> str:
    names = [f"{name} {version(name)}" for name in LIBRARIES]
    versions = ", ".join([f"Python {platform.python_version()}", *names])
    return f"{os.cpu_count()} cores, {versions}.\n\n{HEAD}{''.join(rows)}"


def _replace(rows: Iterable[str]) -> None:
    before, start, rest = PLACE.read_text(encoding="utf-8").partition(MARKS[0])
    old, end, after = rest.partition(MARKS[1])
    table = _table(_together(old.splitlines(keepends=True), rows))
    PLACE.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


def _together(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Return the rows of both, where both have one the new; those of each engine side by side."""
    kept = {_name(row): row for row in old if row.startswith(ENGINE_CELLS)}
    kept |= {_name(row): row for row in new}
    return sorted(kept.values(), key=lambda row: ENGINE_CELLS.index(f"| {_name(row)[0]} |"))


def _name(row: str) -> tuple[str, str]:
    engine, kind, *_ = (cell.strip() for cell in row.strip().strip("|").split("|"))
    return engine, kind


ENGINE_CELLS = tuple(f"| {name} |" for name in KNOWN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
