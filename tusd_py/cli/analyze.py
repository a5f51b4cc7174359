"""`tusd-py analyze`: the plates of local videos or images, same pipeline, no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tusd_py.cli import CommandError, Exit, add_settings, new_parser, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processing.engines import Engine
    from processing.pipeline import Progress
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
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
    "plate_region",
    "max_pixels",
)


def main(arguments: Sequence[str]) -> int:
    """Analyse each file and print its plates, in the order given."""
    parser = new_parser(
        "analyze", "Print the licence plates of local videos or still images.", CODES
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="video or image")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line for each file: file, plates, reader ... or error",
    )
    add_settings(parser, READERS)
    options = parser.parse_args(arguments)
    engine = choose_reader(read_settings(options))
    code = Exit.OK
    for path in options.files:
        document = _analysed(path, engine)
        if "error" in document:
            code = Exit.FAILED
        _print(path, document, as_json=options.json)
    return code


def choose_reader(settings: Settings) -> Engine:
    """Build the engine that the settings ask for; raise CommandError."""
    from processing.errors import ReaderUnavailable  # noqa: PLC0415  OpenCV takes a second
    from worker import choose_engine  # noqa: PLC0415

    try:
        return choose_engine(settings)
    except ReaderUnavailable as error:
        raise CommandError(str(error), Exit.STARTUP) from error


def _analysed(path: Path, engine: Engine) -> dict[str, Any]:
    """Return the analysis of one file, or the sentence why there is none."""
    from processing.errors import ProcessingError  # noqa: PLC0415
    from processing.pipeline import analyse  # noqa: PLC0415
    from tusd_py.cli.show import meter  # noqa: PLC0415

    with meter() as shown:

        def tell(progress: Progress) -> None:
            shown.tell(f"Analysis {path.name}", progress.fraction, _message(progress))

        try:
            found = analyse(
                path,
                engine.detector,
                engine.reader,
                tell,
                region=engine.region,
                max_pixels=engine.max_pixels,
                reason=engine.reason,
            )
        except ProcessingError as error:
            return {"error": str(error), "plates": []}
        except OSError as error:
            return {"error": error.strerror or str(error), "plates": []}
    return found.to_json()


def _message(progress: Progress) -> str:
    return (
        f"Processed {progress.done_frames}/{progress.total_frames or '?'} frames "
        f"({progress.unique_plates} unique plates, {progress.total_detections} total detections)"
    )


def _print(path: Path, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": str(path), **document}), flush=True)  # noqa: T201
        return
    from tusd_py.cli.show import say, show_analysis  # noqa: PLC0415

    if "error" in document:
        say(f"{path}: {document['error']}")
    else:
        say(str(path))
        show_analysis(document)
