"""Give each plate a typeface: one of a font's files, or one of our own pens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from processing.training.dice import Dice
from processing.training.strokes import CHARACTERS, Mask, Pen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Characters are drawn once at this height in pixels, and kept.
HEIGHT = 40
PENS = 160


class Typeface(Protocol):
    """Draw characters of one style."""

    def glyph(self, character: str) -> Mask:
        """Return a character `HEIGHT` pixels high, 255 where there is ink, without margins."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Draw with a pen."""

    pen: Pen
    _kept: dict[str, Mask] = field(default_factory=dict)

    def glyph(self, character: str) -> Mask:
        """Return a character."""
        if character not in self._kept:
            self._kept[character] = self.pen.draw(character, HEIGHT)
        return self._kept[character]


@dataclass(frozen=True, slots=True)
class Printed:
    """Draw with a font's file.

    Args:
        file: what FreeType reads: ttf, otf, woff.
    """

    file: Path
    _kept: dict[str, Mask] = field(default_factory=dict)

    def glyph(self, character: str) -> Mask:
        """Return a character."""
        if not self._kept:
            self._kept.update(_printed(self.file))
        return self._kept[character]


def typefaces(fonts: Sequence[Path], seed: int) -> tuple[list[Typeface], list[Typeface]]:
    """Return the typefaces of fonts, and as many pens as are worth having, chosen by a seed."""
    dice = Dice.of(seed, 1)
    return [Printed(file) for file in sorted(fonts)], [Drawn(Pen.of(dice)) for _ in range(PENS)]


def _printed(file: Path) -> dict[str, Mask]:
    trial = ImageFont.truetype(str(file), 100)
    _, top, _, bottom = trial.getbbox("H")
    font = ImageFont.truetype(str(file), 100 * HEIGHT / (bottom - top))
    _, top, _, _ = font.getbbox("H")
    return {character: _glyph(font, character, round(top)) for character in CHARACTERS}


def _glyph(font: ImageFont.FreeTypeFont, character: str, top: int) -> Mask:
    left, _, right, bottom = (round(side) for side in font.getbbox(character))
    # The tail of a Q is what tells it from an O.
    height = max(HEIGHT, bottom - top)
    page = Image.new("L", (max(2, right - left), height))
    ImageDraw.Draw(page).text((-left, -top), character, fill=255, font=font)
    return np.asarray(page.resize((page.width, HEIGHT)), np.uint8)
