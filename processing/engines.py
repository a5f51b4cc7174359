"""Choose the detector and the reader by name and by what lies on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from processing.builtin import BuiltinReader
from processing.detect import AlprDetector, PlateDetector, TextPlateDetector
from processing.errors import ReaderUnavailable
from processing.read import (
    AlprReader,
    EasyOcrOptions,
    EasyOcrReader,
    PlateReader,
    RapidOcrReader,
)
from processing.recognition import FILE
from processing.video import MOST_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processing.formats import Region

ReaderName: TypeAlias = Literal["auto", "rapidocr", "easyocr", "alpr", "builtin"]

DETECTOR_FILES = "yolo-v9-*-license-plates-end2end*.onnx"
DETECTOR_NAME = re.compile(r"yolo-v9-([a-z])-(\d{1,5})-license-plates-(.*)")
# Of the networks of YOLOv9, the smallest first.
CLASSES = "tsmce"
READER_FILES = "cct_*_global.onnx"
CONFIG_SUFFIX = "_plate_config.yaml"
DETECTOR_CACHE = Path(".cache") / "open-image-models"
READER_CACHE = Path(".cache") / "fast-plate-ocr"
ALPR_LIBRARIES = ("open_image_models", "fast_plate_ocr")


@dataclass(frozen=True, slots=True)
class Engine:
    """Hold the detector and the reader that will run.

    Args:
        detector: finds candidates.
        reader: reads them.
        name: `rapidocr`, `easyocr`, `alpr` or `builtin`.
        reason: one sentence on what runs and why.
        region: whose plates' forms decide between characters that look alike.
        max_pixels: larger pictures are refused.
    """

    detector: PlateDetector
    reader: PlateReader
    name: str
    reason: str
    region: Region = "any"
    max_pixels: int = MOST_PIXELS


@dataclass(frozen=True, slots=True)
class AlprFiles:
    """Hold where the ONNX models of fast-alpr's family lie."""

    detector: Path
    reader: Path
    config: Path


def choose(
    name: ReaderName = "auto",
    *,
    alpr_model_dir: Path | None = None,
    plate_model_dir: Path | None = None,
    easyocr: EasyOcrOptions | None = None,
    threads: int = 2,
    region: Region = "any",
    max_pixels: int = MOST_PIXELS,
    home: Path | None = None,
) -> Engine:
    """Build the engine of a name; nothing is ever downloaded.

    Args:
        name: `auto` takes alpr where its libraries and files lie, else rapidocr.
        alpr_model_dir: folder of alpr's files under their official names; its libraries' caches
            are looked into as well.
        plate_model_dir: folder of the network that `processing/training` makes, for builtin.
        easyocr: where EasyOCR's weights lie.
        threads: cores to use.
        region: whose plates' forms decide between characters that look alike.
        max_pixels: larger pictures are refused.
        home: folder that holds the libraries' caches; None for the user's.

    Raises:
        ReaderUnavailable: a reader asked for by name lacks its libraries or sound files.
    """
    if name == "builtin":
        engine = _builtin(plate_model_dir, threads)
    else:
        engine = _chosen(name, alpr_model_dir, easyocr, threads, home)
    return replace(engine, region=region, max_pixels=max_pixels)


def _chosen(
    name: ReaderName,
    alpr_model_dir: Path | None,
    easyocr: EasyOcrOptions | None,
    threads: int,
    home: Path | None,
) -> Engine:
    if name == "easyocr":
        return _easyocr(easyocr, threads)
    if name == "rapidocr":
        return _rapidocr("rapidocr was chosen by name", threads)
    try:
        return _alpr(find_alpr(alpr_model_dir, home), name, threads)
    except ReaderUnavailable as error:
        if name == "alpr":
            raise
        return _rapidocr(
            f"auto chose rapidocr, whose models are inside its package; for alpr {error.came}",
            threads,
        )


def find_alpr(alpr_model_dir: Path | None = None, home: Path | None = None) -> AlprFiles:
    """Find alpr's libraries and files.

    Raises:
        ReaderUnavailable: a library or a file is missing; it says which and where.
    """
    missing = [library for library in ALPR_LIBRARIES if find_spec(library) is None]
    if missing:
        raise ReaderUnavailable(
            "alpr",
            f"the packages {' and '.join(ALPR_LIBRARIES)}",
            f"{' and '.join(missing)} cannot be imported",
            "Install the extra: pip install 'tusd-py[alpr]'",
        )
    user = home or Path.home()
    detector = _first(_detectors(alpr_model_dir, user / DETECTOR_CACHE))
    reader = _first(_readers(alpr_model_dir, user / READER_CACHE))
    if detector is None or reader is None:
        raise _files_missing(alpr_model_dir, detector, reader)
    return AlprFiles(detector, reader, _config(reader))


def _detectors(folder: Path | None, cache: Path) -> Iterator[Path]:
    if folder is not None:
        yield from sorted(folder.glob(DETECTOR_FILES), key=_precision, reverse=True)
    yield from sorted(cache.glob(f"*/{DETECTOR_FILES}"), key=_precision, reverse=True)


def _precision(detector: Path) -> tuple[int, int, bool, str]:
    """Return what sorts detectors as their authors measured them, the best last.

    By the mAP50 in open-image-models' README: the class of the network first, then the side of its
    input. Of two alike the one that nobody quantised again comes first.
    """
    told = DETECTOR_NAME.match(detector.name)
    if told is None:
        return -1, 0, False, detector.name
    network, side, rest = told.groups()
    return CLASSES.find(network), int(side), rest == "end2end.onnx", detector.name


def _readers(folder: Path | None, cache: Path) -> Iterator[Path]:
    models = [] if folder is None else sorted(folder.glob(READER_FILES))
    models += sorted(cache.glob(f"*/{READER_FILES}"))
    # A newer generation (v2) reads better than an older one (v1).
    models.sort(key=lambda model: "_v2_" not in model.name)
    yield from (model for model in models if _config(model).is_file())


def _config(reader: Path) -> Path:
    return reader.with_name(reader.stem + CONFIG_SUFFIX)


def _first(paths: Iterator[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _files_missing(
    folder: Path | None, detector: Path | None, reader: Path | None
) -> ReaderUnavailable:
    wanted = [DETECTOR_FILES] * (detector is None)
    wanted += [f"{READER_FILES} with its *{CONFIG_SUFFIX}"] * (reader is None)
    places = "ALPR_MODEL_DIR (not set)" if folder is None else f"ALPR_MODEL_DIR ({folder})"
    return ReaderUnavailable(
        "alpr",
        f"{DETECTOR_FILES}, {READER_FILES} and its *{CONFIG_SUFFIX} in {places} or in"
        f" ~/{DETECTOR_CACHE} and ~/{READER_CACHE}",
        f"there is no {' and no '.join(wanted)}",
        "Fetch them by `tusd-py models fetch`, or choose PLATE_READER=rapidocr",
    )


def _rapidocr(reason: str, threads: int) -> Engine:
    return Engine(TextPlateDetector(threads), RapidOcrReader(threads), "rapidocr", reason)


def _builtin(folder: Path | None, threads: int) -> Engine:
    model = None if folder is None else folder / FILE
    if model is None or not model.is_file():
        raise ReaderUnavailable(
            "builtin",
            f"{FILE} in PLATE_MODEL_DIR ({folder or 'not set'})",
            "there is no such file",
            "Train one by `python -m processing.training.recogniser`, or choose"
            " PLATE_READER=rapidocr",
        )
    reader = BuiltinReader(model, threads)
    return Engine(TextPlateDetector(threads), reader, "builtin", "builtin was chosen by name")


def _easyocr(options: EasyOcrOptions | None, threads: int) -> Engine:
    # EasyOCR's own text detector takes seconds a frame: PP-OCR's proposes, EasyOCR reads.
    reader = EasyOcrReader(options)
    return Engine(TextPlateDetector(threads), reader, "easyocr", "easyocr was chosen by name")


def _alpr(files: AlprFiles, name: ReaderName, threads: int) -> Engine:
    why = "alpr was chosen by name" if name == "alpr" else "auto chose alpr"
    try:
        detector = AlprDetector(files.detector, threads)
        reader = AlprReader(files.reader, files.config, threads)
    except Exception as error:
        # The libraries raise whatever onnxruntime, yaml and pydantic raise.
        raise ReaderUnavailable(
            "alpr",
            f"sound model files {files.detector}, {files.reader} and {files.config.name}",
            f"they cannot be loaded ({error})",
            "Fetch them by `tusd-py models fetch`, or choose PLATE_READER=rapidocr",
        ) from error
    names = f"{files.detector.name} and {files.reader.name}"
    return Engine(detector, reader, "alpr", f"{why}: its models {names} are on this machine")
