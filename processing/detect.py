"""Find where licence plates may stand in a frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import cv2
import numpy as np
import onnxruntime
from rapidocr import RapidOCR

from processing.result import Box

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from processing.video import Image

Point: TypeAlias = tuple[float, float]
Quad: TypeAlias = tuple[Point, Point, Point, Point]


SURELY_A_PLATE = 0.6
# Parts of more than this share of a frame are searched as whole frames are, smaller ones closer.
LARGE_PART = 0.3
# Picture, box, class and score: what YOLOv9 with its suppression built in says of each object.
END_TO_END = 7


@dataclass(frozen=True, slots=True)
class Candidate:
    """Hold one place where a plate may stand.

    Args:
        quad: its corners in pixels of the frame: top left, top right, bottom right, bottom left.
        score: the detector's own confidence, 0 to 1.
        joined: it is two lines that may be one plate; the two are candidates as well.
        worded: the detector knows plates from other texts, so that it may show a word.
        half: it is the upper or lower half of a place that may show two lines, and nothing alone.
    """

    quad: Quad
    score: float
    joined: bool = False
    worded: bool = False
    half: bool = False

    @property
    def box(self) -> Box:
        """Return the upright rectangle around the corners."""
        xs, ys = zip(*self.quad, strict=True)
        left, top = int(min(xs)), int(min(ys))
        return Box(left, top, max(1, round(max(xs)) - left), max(1, round(max(ys)) - top))

    @property
    def size(self) -> tuple[float, float]:
        """Return width and height in pixels along the sides."""
        top_left, top_right, bottom_right, bottom_left = self.quad
        return (
            max(_distance(top_left, top_right), _distance(bottom_left, bottom_right)),
            max(_distance(top_left, bottom_left), _distance(top_right, bottom_right)),
        )


class PlateDetector(Protocol):
    """Find the plates of one frame."""

    @property
    def name(self) -> str:
        """Name the detector in results."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Tell the version of each library or model used, by name."""

    @property
    def keyframes(self) -> int:
        """Tell in each how many frames of a video it shall look at all that changed.

        In those between it is shown the surroundings of known plates only; 0 shows it all of every
        frame.
        """

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        """Find candidates in a BGR uint8 image of height x width x 3, in its pixels.

        Args:
            image: a whole frame.
            within: the part of it to search; None for all.
            thorough: there is no other frame to find in what is missed here.
        """


@dataclass(frozen=True, slots=True)
class PlateGeometry:
    """Say which lines of text have the shape of a licence plate.

    Args:
        aspects: least and greatest width / height of the line.
        square: likewise of a place that may be two lines, found as one.
        least_height: pixels in the searched image.
        greatest_width: share of the searched image's width.
    """

    aspects: tuple[float, float] = (1.2, 9.0)
    square: tuple[float, float] = (1.0, 1.8)
    least_height: float = 6.0
    greatest_width: float = 0.9

    def admits(self, candidate: Candidate, image_width: int) -> bool:
        """Tell whether a candidate has a plate's shape."""
        width, height = candidate.size
        least, greatest = self.aspects
        return (
            height >= self.least_height
            and least <= width / height <= greatest
            and width <= self.greatest_width * image_width
        )

    def may_be_two_lines(self, candidate: Candidate) -> bool:
        """Tell whether a candidate has the shape of a plate with two lines."""
        width, height = candidate.size
        least, greatest = self.square
        return height >= 2 * self.least_height and least <= width / height <= greatest


class TextPlateDetector:
    """Find lines of text that have the shape of plates, by PP-OCR's text detector.

    Its model comes inside rapidocr's wheel; nothing is downloaded.

    Args:
        threads: cores to use.
        side: pixels of the longer side a frame is shrunk to; it is never enlarged.
        quick_side: the same for the whole frames of a video, of which there are many.
        geometry: the shape a line must have.
    """

    name = "rapidocr-text"
    # It takes a quarter of a second on two cores.
    keyframes = 3

    def __init__(
        self,
        threads: int = 2,
        side: int = 960,
        quick_side: int = 768,
        geometry: PlateGeometry | None = None,
    ) -> None:
        self._side = side
        self._quick_side = min(side, quick_side)
        self._geometry = geometry or PlateGeometry()
        # With 'min' small frames would be enlarged; 'max' shrinks to its own limit unless told.
        limits = {"Det.limit_type": "max", "Det.limit_side_len": side, "Det.box_thresh": 0.3}
        self._engine = rapidocr_engine(threads, limits)
        self._lines(np.zeros((64, 64, 3), np.uint8), 64, 64)
        unspun(self._engine.text_det, rapidocr_model("det"), threads)
        self.versions = {
            "rapidocr": metadata.version("rapidocr"),
            "onnxruntime": onnxruntime.__version__,
            "detector_model_sha256": sha256(rapidocr_model("det")),
        }

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        """Find lines of text with a plate's geometry, parts of one line joined as well."""
        if within is not None:
            part = image[within.y : within.y + within.height, within.x : within.x + within.width]
            share = max(part.shape[:2]) / max(image.shape[:2])
            large = part.size > LARGE_PART * image.size
            side = self._quick_side if large else self._side
            found = self._lines(part, max(32, round(side * share)), image.shape[1])
            return [_moved(one, within.x, within.y) for one in found]
        return self._lines(image, self._side if thorough else self._quick_side, image.shape[1])

    def _lines(self, image: Image, side: int, frame_width: int) -> list[Candidate]:
        small, scale = shrink(image, side)
        found = self._engine(small, use_det=True, use_cls=False, use_rec=False)
        if found.boxes is None:
            return []
        lines = [
            Candidate(_quad(corners), float(score))
            for corners, score in zip(found.boxes, found.scores, strict=True)
        ]
        width = round(frame_width * scale)
        plates = [line for line in (*lines, *_joined(lines)) if self._geometry.admits(line, width)]
        squares = [line for line in lines if self._geometry.may_be_two_lines(line)]
        halves = [half for square in squares for half in _halves(square)]
        return [scaled(found, 1 / scale) for found in (*plates, *halves)]


class AlprDetector:
    """Find plates by a YOLOv9 model of the open-image-models family.

    Args:
        model: ONNX file of the model.
        threads: cores to use.
        least_score: candidates below are dropped, 0 to 1.

    Raises:
        ValueError: the file is a model of another kind.
    """

    name = "open-image-models"
    keyframes = 0

    def __init__(self, model: Path, threads: int = 2, least_score: float = 0.25) -> None:
        library = import_module("open_image_models.detection.core.yolo_v9")
        self._model = library.YoloV9Detector(
            model,
            class_labels=["License Plate"],
            conf_thresh=least_score,
            providers=["CPUExecutionProvider"],
            sess_options=session_options(threads),
        )
        # Of a model of another kind the library would only ever say that it found nothing.
        _refuse_unless_detector(self._model.model)
        self.versions = {
            "open-image-models": metadata.version("open-image-models"),
            "onnxruntime": onnxruntime.__version__,
            "detector_model": model.stem,
            "detector_model_sha256": sha256(model),
        }

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        """Find plates; their corners are those of upright boxes."""
        # It takes every frame at its model's own size.
        del thorough
        if within is not None:
            part = image[within.y : within.y + within.height, within.x : within.x + within.width]
            return [_moved(one, within.x, within.y) for one in self.detect(part)]
        return [
            Candidate(
                _upright(found.bounding_box),
                float(found.confidence),
                worded=found.confidence >= SURELY_A_PLATE,
            )
            for found in self._model.predict(image)
        ]


def _refuse_unless_detector(session: Any) -> None:
    image, found = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    if len(image) != len("NCHW") or image[1] != len("RGB") or found[-1] != END_TO_END:
        raise ValueError(
            "expected a plate detector that takes pictures as N x 3 x side x side and gives rows"
            f" of {END_TO_END} numbers, got a model that takes {_shown(image)} and gives"
            f" {_shown(found)}"
        )


def _shown(shape: Sequence[int | str]) -> str:
    return " x ".join(str(length) for length in shape)


def rapidocr_engine(threads: int, more: Mapping[str, Any]) -> Any:
    """Return a RapidOCR on `threads` cores that keeps silent and loads its models when used."""
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            **more,
        }
    )


def unspun(step: Any, model: Path | None, threads: int) -> None:
    """Let a step of RapidOCR, detector or recogniser, wait for its threads without spinning.

    RapidOCR has no setting for it, and where other processes want the cores half of all its time
    would go into waiting.
    """
    if model is None:
        return
    options = session_options(threads)
    # As RapidOCR has it: inputs of many shapes would leave memory behind for each.
    options.enable_cpu_mem_arena = False
    step.session.session = onnxruntime.InferenceSession(
        str(model), options, providers=["CPUExecutionProvider"]
    )


def rapidocr_model(kind: str) -> Path | None:
    """Return the file of the det or rec model inside rapidocr's package, None for none or many."""
    folder = Path(str(import_module("rapidocr").__file__)).parent / "models"
    found = list(folder.glob(f"*_{kind}_*.onnx"))
    return found[0] if len(found) == 1 else None


def sha256(model: Path | None) -> str:
    """Return the digest of a model's file in hexadecimal, or that it is unknown."""
    if model is None:
        return "unknown"
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def session_options(threads: int) -> Any:
    """Return onnxruntime's options for `threads` cores and no chatter."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that wait busily would take the cores from the decoder and from other jobs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def shrink(image: Image, side: int) -> tuple[Image, float]:
    """Return the image with its longer side at most `side` pixels, and the scale applied."""
    scale = min(1.0, side / max(image.shape[:2]))
    if scale == 1.0:
        return image, scale
    # A strip keeps its one line of pixels.
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), scale


def _joined(lines: Sequence[Candidate]) -> Iterator[Candidate]:
    # A plate with a wide gap is found as two lines.
    ordered = sorted(lines, key=lambda line: line.quad[0][0])
    for index, left in enumerate(ordered):
        for right in ordered[index + 1 :]:
            if _adjoin(left, right):
                corners = (left.quad[0], right.quad[1], right.quad[2], left.quad[3])
                yield Candidate(corners, min(left.score, right.score), joined=True)


def _halves(square: Candidate) -> Iterator[Candidate]:
    top_left, top_right, bottom_right, bottom_left = square.quad
    left, right = _between(top_left, bottom_left), _between(top_right, bottom_right)
    yield replace(square, quad=(top_left, top_right, right, left), half=True)
    yield replace(square, quad=(left, right, bottom_right, bottom_left), half=True)


def _between(one: Point, other: Point) -> Point:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def _adjoin(left: Candidate, right: Candidate) -> bool:
    height, other = left.size[1], right.size[1]
    gap = _distance(left.quad[1], right.quad[0])
    level = abs(left.quad[1][1] - right.quad[0][1]) < 0.35 * height
    alike = 0.7 < height / max(other, 1e-6) < 1.4  # noqa: PLR2004
    return alike and level and gap < 1.2 * height and right.quad[0][0] > left.quad[0][0]


def _quad(corners: Any) -> Quad:
    first, second, third, fourth = ((float(x), float(y)) for x, y in corners)
    return first, second, third, fourth


def _upright(box: Any) -> Quad:
    left, top, right, bottom = (float(side) for side in (box.x1, box.y1, box.x2, box.y2))
    return (left, top), (right, top), (right, bottom), (left, bottom)


def scaled(candidate: Candidate, factor: float) -> Candidate:
    """Return the candidate in a picture so many times as large."""
    first, second, third, fourth = ((x * factor, y * factor) for x, y in candidate.quad)
    return replace(candidate, quad=(first, second, third, fourth))


def _moved(candidate: Candidate, x: int, y: int) -> Candidate:
    first, second, third, fourth = ((left + x, top + y) for left, top in candidate.quad)
    return replace(candidate, quad=(first, second, third, fourth))


def _distance(one: Point, other: Point) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))
