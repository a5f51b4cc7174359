"""Make the samples that the recogniser learns from; a seed and a number tell each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from processing.training.camera import picture
from processing.training.dice import Dice
from processing.training.layouts import layout
from processing.training.plate import draw
from processing.training.typeface import typefaces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processing.training.strokes import Mask
    from processing.training.typeface import Typeface

OWN_PENS = 0.5


@dataclass(frozen=True, slots=True)
class Samples:
    """Draw plates with our own pens and with the fonts of some files.

    Args:
        printed: the typefaces of fonts; none is possible.
        drawn: those of our own pens.
        seed: another one gives other samples.
    """

    printed: Sequence[Typeface]
    drawn: Sequence[Typeface]
    seed: int

    @classmethod
    def of(cls, fonts: Sequence[Path], seed: int) -> Samples:
        """Open the fonts and choose the pens."""
        printed, drawn = typefaces(fonts, seed)
        return cls(printed, drawn, seed)

    def sample(self, number: int) -> tuple[Mask, str]:
        """Return the picture with this number, uint8 of `camera.SHAPE`, and what it says."""
        dice = Dice.of(self.seed, 2, number)
        told = layout(dice)
        own = not self.printed or dice.odds(OWN_PENS)
        drawing = draw(told, self.drawn if own else self.printed, dice)
        return picture(drawing, dice), told.label
