"""`tusd-py models`: the weights of the plate reader alpr, fetched when asked for and checked."""

from __future__ import annotations

import argparse
import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tusd_py.cli import (
    CommandError,
    Exit,
    Stopped,
    new_parser,
    one_of,
    read_settings,
    stop_on,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processing.weights import Model, WeightFile

CODES = {
    Exit.OK: "every file is there, whole and right; or the list was printed",
    Exit.FAILED: "a file is another than it has to be, cannot be had, or cannot be written",
    Exit.USAGE: "an option or a setting has a bad value, or there is no such model",
    Exit.UNREACHABLE: "a server cannot be reached",
    Exit.INTERRUPTED: "interrupted",
}
WHAT = """Fetch the weights of the plate reader alpr, or list those that are known.

Each file is checked by its size and SHA-256 before it gets its name; one that is there and right is
left alone, another of its name is replaced. Nothing else of tusd-py ever downloads weights."""
STATES = {
    "unknown": "no folder to look into (--into, ALPR_MODEL_DIR)",
    "there": "there, whole and right",
    "another": "another file has its name, or it is damaged",
    "missing": "not there",
}


def main(arguments: Sequence[str]) -> int:
    """List models, or fetch them one file after the other; the first failure ends it."""
    options = _parser().parse_args(arguments)
    models = _chosen(options.names)
    folder = read_settings(options).alpr_model_dir
    if options.action == "list":
        return _list(models, folder, as_json=options.json)
    if folder is None:
        raise CommandError("Where to? Give --into DIR or set ALPR_MODEL_DIR", Exit.USAGE)
    stop_on(signal.SIGTERM, signal.SIGHUP)
    try:
        _fetch(models, folder, _mirror(options.mirror))
    except Stopped:
        return Exit.INTERRUPTED
    return Exit.OK


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("models", WHAT, CODES)
    parser.add_argument("action", choices=("fetch", "list"), help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of models [default all]")
    parser.add_argument(
        "--into",
        type=Path,
        dest="alpr_model_dir",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="folder of the files; made where it is not there [ALPR_MODEL_DIR]",
    )
    parser.add_argument(
        "--from",
        dest="mirror",
        metavar="URL|DIR",
        help="mirror or local folder that has the files [default where each comes from]",
    )
    parser.add_argument("--json", action="store_true", help="list: one JSON object a line")
    return parser


def _chosen(names: Sequence[str]) -> list[Model]:
    from processing.weights import MODELS  # noqa: PLC0415

    known = {model.name: model for model in MODELS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CommandError(
            f"NAME: expected one of {one_of(list(known))}, got {unknown[0]!r}", Exit.USAGE
        )
    return [known[name] for name in dict.fromkeys(names or known)]


def _mirror(text: str | None) -> Path | str | None:
    """Return where the files come from instead: an address, a folder, or None."""
    if text is None:
        return None
    if text and Path(text).is_dir():
        return Path(text)
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and not parts.query:
            return text.partition("#")[0].rstrip("/")
    except ValueError:
        pass
    raise CommandError(
        f"--from: expected a folder, or an address such as https://host/models, got {text!r}",
        Exit.USAGE,
    )


def _source(file: WeightFile, mirror: Path | str | None) -> Path | str:
    if mirror is None:
        return file.url
    return mirror / file.name if isinstance(mirror, Path) else f"{mirror}/{file.name}"


def _fetch(models: Sequence[Model], folder: Path, mirror: Path | str | None) -> None:
    from tusd_py.cli.fetch import is_there  # noqa: PLC0415
    from tusd_py.cli.show import say  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    for file in (file for model in models for file in model.files):
        if is_there(file, folder):
            say(f"{folder / file.name}: it is there already")
        else:
            _fetch_one(file, folder, _source(file, mirror))
            say(f"{folder / file.name}: fetched, {file.size} bytes, SHA-256 as expected")
    say(_outlook(folder))


def _fetch_one(file: WeightFile, folder: Path, source: Path | str) -> None:
    from tusd_py.cli.fetch import fetch  # noqa: PLC0415
    from tusd_py.cli.show import meter, size  # noqa: PLC0415

    with meter() as shown:

        def tell(count: int) -> None:
            text = f"{size(count)} of {size(file.size)}"
            shown.tell(f"Fetch {file.name}", count / file.size, text)

        fetch(file, source, folder, tell)


def _outlook(folder: Path) -> str:
    """Say what the plate reader will do with what lies in the folder."""
    from processing.engines import find_alpr  # noqa: PLC0415  OpenCV takes a second
    from processing.errors import ReaderUnavailable  # noqa: PLC0415

    try:
        files = find_alpr(folder)
    except ReaderUnavailable as error:
        return f"PLATE_READER=auto does not take alpr yet: {error.came}. {error.remedy}."
    names = f"{files.detector.name} and {files.reader.name}"
    return f"With ALPR_MODEL_DIR={folder} PLATE_READER=auto takes alpr: {names}."


def _list(models: Sequence[Model], folder: Path | None, *, as_json: bool) -> int:
    for model in models:
        states = {file.name: _state(file, folder) for file in model.files}
        if as_json:
            _print_json(model, states)
        else:
            _print(model, states)
    return Exit.OK


def _state(file: WeightFile, folder: Path | None) -> str:
    from tusd_py.cli.fetch import is_there  # noqa: PLC0415

    if folder is None:
        return "unknown"
    if is_there(file, folder):
        return "there"
    return "another" if (folder / file.name).exists() else "missing"


def _print_json(model: Model, states: dict[str, str]) -> None:
    files = [{**asdict(file), "state": states[file.name]} for file in model.files]
    print(json.dumps({**asdict(model), "files": files}), flush=True)  # noqa: T201


def _print(model: Model, states: dict[str, str]) -> None:
    from tusd_py.cli.show import say  # noqa: PLC0415

    say(f"{model.name}: {model.task}, {model.licence}, {model.origin}")
    for file in model.files:
        say(f"  {file.name}: {STATES[states[file.name]]}")
        say(f"    {file.size} bytes, SHA-256 {file.sha256}")
        say(f"    {file.url}")
