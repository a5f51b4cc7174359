"""`python -m benchmarks.calibration`: fit how sure each reader is when it is right.

Plates that are hard to read are drawn with seeds of their own, read, and a logistic regression over
what `processing.calibrate` knows of each is printed, to be put into `processing/read.py`. What
benchmarks/plates.py reports afterwards was drawn with other seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.plate_sets import films, pictures
from processing.calibrate import Calibration, log_odds
from processing.engines import choose
from processing.formats import fits
from processing.pipeline import analyse
from processing.text import plausibility

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from processing.crop import View
    from processing.engines import Engine
    from processing.evaluate import Label
    from processing.read import PlateReader
    from processing.result import Text
    from processing.video import Image

PICTURES = range(2000, 2580)
FILMS = range(2000, 2080)
# How much each figure is held near that which is likely of any reader. All drawn plates have the
# form of a region's, so that nothing can be learnt of those that have none.
TRUST = (1.0, 1.0, 1000.0, 1.0, 1.0)
ROUNDS = 50
# With it the chance is the certainty.
AS_READ = Calibration(offset=0.0, certainty=1.0, form=0.0, video=0.0, rarity=0.0)


@dataclass(frozen=True, slots=True)
class Uncalibrated:
    """Read as another reader does, and leave its certainty as it is."""

    reader: PlateReader
    calibration: Calibration = AS_READ

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def versions(self) -> Mapping[str, str]:
        return self.reader.versions

    @property
    def views(self) -> Sequence[View]:
        return self.reader.views

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read each crop."""
        return self.reader.read(crops)


@dataclass(frozen=True, slots=True)
class Case:
    """Hold one plate that was reported, with what speaks for it, and whether it is right."""

    certainty: float
    form: bool
    frames: int | None
    right: bool

    @property
    def row(self) -> tuple[float, ...]:
        """Return what each figure of a calibration is multiplied by."""
        video = self.frames is not None
        rarity = 1 / self.frames if self.frames else 0.0
        return 1.0, log_odds(self.certainty), float(self.form), float(video), rarity


def main(words: Sequence[str]) -> int:
    """Print a calibration for each engine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--engines", nargs="+", default=("rapidocr", "alpr"))
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[2] / "shared/models")
    options = parser.parse_args(words)
    for name in options.engines:
        engine = choose(name, alpr_model_dir=options.models)
        with tempfile.TemporaryDirectory() as folder:
            cases = list(_cases(engine, Path(folder)))
        made = fitted(cases)
        told = ", ".join(f"{one.name}={getattr(made, one.name):.2f}" for one in fields(made))
        print(f"{name}, by {len(cases)} plates: Calibration({told})")  # noqa: T201
    return 0


def fitted(cases: Sequence[Case]) -> Calibration:
    """Return the calibration under which the cases are the likeliest (Newton's method)."""
    rows = np.array([case.row for case in cases], np.float64)
    right = np.array([case.right for case in cases], np.float64)
    likely = np.array(astuple(Calibration()), np.float64)
    found = np.zeros_like(likely)
    for _ in range(ROUNDS):
        chance = 1 / (1 + np.exp(-rows @ found))
        slope = rows.T @ (right - chance) - np.array(TRUST) * (found - likely)
        curve = (rows.T * (chance * (1 - chance))) @ rows + np.diag(TRUST)
        found = found + np.linalg.solve(curve, slope)
    return Calibration(*_rounded(found))


def _rounded(figures: NDArray[np.float64]) -> list[float]:
    return [round(float(figure), 2) for figure in figures]


def _cases(engine: Engine, folder: Path) -> Iterator[Case]:
    for path, labels in pictures(folder, PICTURES):
        # Of a picture the first plate counts, as it does where accuracy is measured.
        yield from list(_reported(engine, path, labels, single=True))[:1]
    for path, labels in films(folder, FILMS):
        yield from _reported(engine, path, labels, single=False)


def _reported(
    engine: Engine, path: Path, labels: tuple[Label, ...], *, single: bool
) -> Iterator[Case]:
    reader = Uncalibrated(engine.reader)
    texts = {label.text for label in labels}
    found = analyse(path, engine.detector, reader, lambda _: None, min_confidence=0.0)
    for plate in found.plates:
        certainty = plate.confidence / plausibility(plate.text)
        frames = None if single else plate.detections
        yield Case(certainty, fits(plate.text), frames, plate.text in texts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
