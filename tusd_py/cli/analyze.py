"""`tusd-py analyze`: the plates of local videos or images, same pipeline, no server."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tusd_py.cli import CommandError, Exit, add_settings, new_parser, read_settings, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processing.engines import Engine
    from processing.options import Options
    from processing.pipeline import Progress
    from processing.result import Analysis, Box, Part
    from settings import Settings

CODES = {
    Exit.OK: "every file was read, with or without plates",
    Exit.FAILED: "a file could not be read; the others were",
    Exit.USAGE: "an option or a setting has a bad value",
    Exit.STARTUP: "the plate reader asked for cannot run here",
    Exit.INTERRUPTED: "interrupted",
}
READERS = (
    "plate_reader",
    "alpr_model_dir",
    "plate_model_dir",
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
    "plate_region",
    "max_pixels",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Hold what was chosen for the analysis."""

    options: Options
    part: Part


def main(arguments: Sequence[str]) -> int:
    """Analyse each file and print its plates, in the order given."""
    options = _parser().parse_args(arguments)
    wanted = _wanted(options)
    if (options.annotate or options.sheet) and len(options.files) > 1:
        raise CommandError("--annotate and --sheet: expected one FILE", Exit.USAGE)
    engine = choose_reader(read_settings(options))
    code = Exit.OK
    for path in options.files:
        found = _analysed(path, engine, wanted)
        if isinstance(found, str):
            code = Exit.FAILED
            document: dict[str, Any] = {"error": found, "plates": []}
        else:
            document = found.to_json()
            _draw(path, found, options.annotate, options.sheet)
        _print(path, document, options.form)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "analyze", "Print the licence plates of local videos or still images.", CODES
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="video or image")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        dest="form",
        action="store_const",
        const="json",
        help="print one JSON object a line for each file: file, plates, reader ... or error",
    )
    form.add_argument(
        "--csv", dest="form", action="store_const", const="csv", help="print the plates as CSV"
    )
    parser.add_argument("--annotate", type=Path, metavar="OUT.webm", help="write boxes and texts")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="write all best shots")
    _add_choices(parser)
    add_settings(parser, READERS)
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    choices = parser.add_argument_group("what is analysed")
    choices.add_argument("--frame-skip", default="", metavar="N", help="only each N-th frame")
    choices.add_argument(
        "--min-confidence", default="", metavar="C", help="leave out plates below, 0 to 1"
    )
    choices.add_argument("--start", type=_seconds, default=0.0, metavar="SECONDS")
    choices.add_argument("--end", type=_seconds, metavar="SECONDS")
    choices.add_argument("--region", type=_box, metavar="X,Y,W,H", help="pixels of the frame")
    choices.add_argument(
        "--max-frames", type=_count, metavar="N", help="end after N analysed frames"
    )


def _wanted(options: argparse.Namespace) -> Wanted:
    from processing.options import InvalidOption, Options  # noqa: PLC0415
    from processing.result import Part  # noqa: PLC0415

    given = {"frame_skip": options.frame_skip, "min_confidence": options.min_confidence}
    try:
        chosen = Options.parse(given)
    except InvalidOption as error:
        raise CommandError(str(error), Exit.USAGE) from error
    return Wanted(chosen, Part(options.start, options.end, options.region, options.max_frames))


def _seconds(text: str) -> float:
    with _expected("seconds, 0 or more", text):
        value = float(text)
        if not 0 <= value < float("inf"):
            raise ValueError
    return value


def _count(text: str) -> int:
    with _expected("an integer from 1", text):
        value = int(text)
        if value < 1:
            raise ValueError
    return value


def _box(text: str) -> Box:
    from processing.result import Box  # noqa: PLC0415

    with _expected("X,Y,W,H in pixels, W and H from 1", text):
        x, y, width, height = (int(part) for part in text.split(","))
        if width < 1 or height < 1:
            raise ValueError
    return Box(x, y, width, height)


@contextmanager
def _expected(what: str, text: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected {what}, got {text[:40]!r}") from error


def choose_reader(settings: Settings) -> Engine:
    """Build the engine that the settings ask for; raise CommandError."""
    from processing.errors import ReaderUnavailable  # noqa: PLC0415  OpenCV takes a second
    from worker import choose_engine  # noqa: PLC0415

    try:
        return choose_engine(settings)
    except ReaderUnavailable as error:
        raise CommandError(str(error), Exit.STARTUP) from error


def _analysed(path: Path, engine: Engine, wanted: Wanted) -> Analysis | str:
    """Return the analysis of one file, or the sentence why there is none."""
    from processing.errors import ProcessingError  # noqa: PLC0415
    from processing.pipeline import analyse  # noqa: PLC0415
    from tusd_py.cli.show import meter  # noqa: PLC0415

    with meter() as shown:

        def tell(progress: Progress) -> None:
            shown.tell(f"Analysis {path.name}", progress.fraction, _message(progress))

        try:
            return analyse(
                path,
                engine.detector,
                engine.reader,
                tell,
                every=wanted.options.frame_skip,
                min_confidence=wanted.options.min_confidence,
                region=engine.region,
                max_pixels=engine.max_pixels,
                part=wanted.part,
                reason=engine.reason,
            )
        except (ProcessingError, ValueError) as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)


def _draw(path: Path, analysis: Analysis, video: Path | None, sheet_path: Path | None) -> None:
    from processing.draw import annotate, sheet  # noqa: PLC0415

    try:
        if video is not None:
            annotate(path, analysis, video)
        if sheet_path is not None:
            sheet_path.write_bytes(sheet(analysis.plates))
    except OSError as error:
        raise CommandError(sentence(error)) from error


def _message(progress: Progress) -> str:
    total = f"/{progress.total_frames}" if progress.total_frames else ""
    return (
        f"Processed {progress.done_frames}{total} frames "
        f"({progress.unique_plates} unique plates, {progress.total_detections} total detections)"
    )


def _print(path: Path, document: dict[str, Any], form: str | None) -> None:
    if form == "json":
        print(json.dumps({"file": str(path), **document}), flush=True)  # noqa: T201
        return
    from tusd_py.cli.show import say, show_analysis  # noqa: PLC0415

    if "error" in document:
        say(f"{path}: {document['error']}")
    elif form == "csv":
        from tusd_py.table import csv_of  # noqa: PLC0415

        print(csv_of(document["plates"]).decode(), end="", flush=True)  # noqa: T201
    else:
        say(str(path))
        show_analysis(document)
