"""Stand-ins for engines, and short ways to make values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from processing.calibrate import Calibration
from processing.crop import View
from processing.detect import Candidate
from processing.result import Box, Reading, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from processing.video import Image


class SharedFolder(Protocol):
    """Find evaluation data by its name, or skip the test."""

    def __call__(self, name: str) -> Path:
        """Return its path."""


def quad(
    x: float, y: float, width: float, height: float
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Return an upright rectangle's corners."""
    return (x, y), (x + width, y), (x + width, y + height), (x, y + height)


def reading(
    text: str,
    frame: int = 0,
    confidence: float = 0.9,
    at: tuple[int, int] = (100, 100),
    fps: float = 5.0,
) -> Reading:
    """Return a reading of a plate 100 pixels wide."""
    return Reading(frame, frame / fps, Box(*at, 100, 25), text, confidence)


@dataclass
class FixedDetector:
    """Find the same places in each frame."""

    candidates: Sequence[Candidate] = (Candidate(quad(10, 10, 80, 20), 0.9),)
    name: str = "fixed"
    versions: Mapping[str, str] = field(default_factory=lambda: {"fixed": "1"})
    keyframes: int = 0
    seen: int = 0

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        assert image.ndim == 3
        self.seen += 1
        return list(self.candidates)


@dataclass
class FixedReader:
    """Read the same texts in each frame."""

    texts: Sequence[Text] = (Text("AB12CDE", 0.9),)
    name: str = "fixed"
    views: Sequence[View] = (View(),)
    calibration: Calibration = field(default_factory=Calibration)
    versions: Mapping[str, str] = field(default_factory=dict)

    def read(self, crops: Sequence[Image]) -> list[Text]:
        assert len(crops) <= len(self.texts)
        return list(self.texts)[: len(crops)]
