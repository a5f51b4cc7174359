"""`tusd-py evaluate`: how well the plates of labelled videos and images are read here."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tusd_py.cli import CommandError, Exit, add_settings, new_parser, read_settings
from tusd_py.cli.analyze import READERS, choose_reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processing.engines import Engine
    from processing.evaluate import Label, Outcome, Score

CODES = {
    Exit.OK: "every labelled file was read",
    Exit.FAILED: "a labelled file could not be read; it counts as one without plates found",
    Exit.USAGE: "labels.csv is missing or of another form, or a setting has a bad value",
    Exit.STARTUP: "the plate reader asked for cannot run here",
    Exit.INTERRUPTED: "interrupted",
}
COLUMNS = ("Folder", "Plates", "Exact", "CER", "Recall", "False/min", "ECE", "Speed", "s/image")


def main(arguments: Sequence[str]) -> int:
    """Analyse each labelled file and print a line of figures for each folder, and for all."""
    parser = new_parser("evaluate", "Measure how well plates are read, by labelled files.", CODES)
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="has labels.csv: file,text[,x,y,width,height]"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--part",
        metavar="I/N",
        default="0/1",
        help="only each N-th labelled file, from the I-th, counted from 0 [default 0/1: all]",
    )
    add_settings(parser, READERS)
    options = parser.parse_args(arguments)
    labels = dict(list(_labels(options.folder).items())[_part(options.part)])
    engine = choose_reader(read_settings(options))
    outcomes, failed = _outcomes(options.folder, labels, engine)
    _print(outcomes, engine, as_json=options.json)
    return Exit.FAILED if failed else Exit.OK


def _part(text: str) -> slice:
    start, _, step = text.partition("/")
    if not (start.isdecimal() and step.isdecimal() and int(start) < int(step)):
        raise CommandError(f"--part: expected I/N with I below N, got {text!r}", Exit.USAGE)
    return slice(int(start), None, int(step))


def _labels(folder: Path) -> dict[str, tuple[Label, ...]]:
    from processing.evaluate import InvalidLabels, read_labels  # noqa: PLC0415

    path = folder / "labels.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return read_labels(lines)
    except (InvalidLabels, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: {error}", Exit.USAGE) from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", Exit.USAGE) from error


def _outcomes(
    folder: Path, labels: Mapping[str, tuple[Label, ...]], engine: Engine
) -> tuple[dict[str, list[Outcome]], int]:
    """Return the outcomes by folder, and how many files could not be read."""
    from tusd_py.cli.show import meter  # noqa: PLC0415

    found: defaultdict[str, list[Outcome]] = defaultdict(list)
    failed = 0
    with meter() as shown:
        for number, (file, told) in enumerate(labels.items()):
            shown.tell("Evaluation", number / len(labels), file)
            outcome, error = _outcome(folder / file, told, engine)
            if error:
                failed += 1
                shown.say(f"{file}: {error}")
            found[file.rpartition("/")[0] or "."].append(outcome)
    return dict(found), failed


def _outcome(path: Path, labels: tuple[Label, ...], engine: Engine) -> tuple[Outcome, str | None]:
    from processing.errors import ProcessingError  # noqa: PLC0415
    from processing.evaluate import Outcome  # noqa: PLC0415
    from processing.pipeline import analyse  # noqa: PLC0415

    started = time.perf_counter()
    try:
        analysis = analyse(
            path,
            engine.detector,
            engine.reader,
            lambda _: None,
            region=engine.region,
            max_pixels=engine.max_pixels,
        )
    except (ProcessingError, OSError) as error:
        return Outcome(labels, (), 0.0, time.perf_counter() - started), str(error)
    minutes = analysis.duration / 60
    return Outcome(labels, analysis.plates, minutes, time.perf_counter() - started), None


def _print(outcomes: Mapping[str, list[Outcome]], engine: Engine, *, as_json: bool) -> None:
    from processing.evaluate import score  # noqa: PLC0415

    scores = {folder: score(found) for folder, found in outcomes.items()}
    if len(scores) != 1:
        scores["all"] = score([one for found in outcomes.values() for one in found])
    if as_json:
        document = {folder: one.to_json() for folder, one in scores.items()}
        print(json.dumps({"reader": engine.name, "scores": document}))  # noqa: T201
        return
    from tusd_py.cli.show import say, show_table  # noqa: PLC0415

    show_table(COLUMNS, [_row(folder, one) for folder, one in scores.items()])
    say(f"Plate reader: {engine.name} ({engine.reason}).")


def _row(folder: str, one: Score) -> tuple[str, ...]:
    figures = (
        one.exact, one.error_rate, one.recall, one.false_per_minute, one.calibration_error,
    )  # fmt: skip
    cells = ("-" if figure is None else f"{figure:.3f}" for figure in figures)
    speed = "-" if one.speed is None else f"{one.speed:.1f} x"
    image = "-" if one.seconds_per_image is None else f"{one.seconds_per_image:.2f}"
    return folder, str(one.labels), *cells, speed, image
