"""Turn what speaks for a text into the chance that it is right; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Nothing is surer than this, and nothing more hopeless. What is wrong above it are look-alikes, of
# which readers are as sure as of all else.
BOUNDS = 0.01, 0.98


@dataclass(frozen=True, slots=True)
class Calibration:
    """Say how sure a reader is when it is right: a logistic function, fitted to drawn plates.

    Readers know themselves badly, each in its own way: `python -m benchmarks.calibration` draws
    plates that are hard to read, and prints these figures for each engine (Platt 1999).

    Args:
        offset: of the logarithm of the odds, as all of them.
        certainty: for each unit of the certainty's logarithm of the odds.
        form: where the text has the form of a plate of some region.
        video: where there were several frames to read it in.
        rarity: what is added for 1 / the number of frames in which it was read.
    """

    offset: float = -2.2
    certainty: float = 1.0
    form: float = 0.5
    video: float = 2.5
    rarity: float = -4.0

    def chance(self, certainty: float, *, form: bool, frames: int | None) -> float:
        """Return the chance that a text is right, 0 to 1.

        Args:
            certainty: geometric mean of how sure its characters are, 0 to 1.
            form: it has the form of a plate of some region.
            frames: in how many of a video's it was read; None for a still image.
        """
        odds = self.offset + self.certainty * log_odds(certainty) + self.form * form
        if frames is not None:
            odds += self.video + self.rarity / frames
        return 1 / (1 + math.exp(-odds))


def log_odds(certainty: float) -> float:
    """Return the logarithm of the odds of a certainty within bounds."""
    least, most = BOUNDS
    known = min(most, max(least, certainty))
    return math.log(known / (1 - known))
