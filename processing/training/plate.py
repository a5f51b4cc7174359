"""Draw a plate: text, band, emblems, words, frame and bolts, and a bit of the car around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from processing.training.layouts import COUNTRIES
from processing.training.typeface import HEIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from processing.training.dice import Dice
    from processing.training.layouts import Layout, Style
    from processing.training.strokes import Mask
    from processing.training.typeface import Typeface

Grey: TypeAlias = "NDArray[np.float32]"
# Left, top, right and bottom in pixels.
Rectangle: TypeAlias = tuple[int, int, int, int]

# How often there is something between the parts of a text.
FILLED: dict[Style, float] = {"us": 0.5, "eu": 0.5, "br": 0.6}
STICKERS: dict[Style, float] = {"us": 0.3, "eu": 0.1}
AROUND = 26
BAND = 34


@dataclass(frozen=True, slots=True)
class Drawing:
    """Hold a plate as it was drawn.

    Args:
        image: brightness, 0 to 1, height x width.
        text: where the text stands.
        plate: where the plate is.
    """

    image: Grey
    text: Rectangle
    plate: Rectangle


@dataclass(frozen=True, slots=True)
class Row:
    """Hold a text as a mask, `HEIGHT` pixels high, and where its gaps begin and end."""

    mask: Mask
    gaps: tuple[tuple[int, int], ...] = ()


def draw(layout: Layout, faces: Sequence[Typeface], dice: Dice) -> Drawing:
    """Draw a plate with a typeface chosen among some."""
    # Many authorities have one shape for both, so that only its place tells a letter.
    same = layout.style not in {"us", "sign"} and dice.odds(0.5)
    row = run(layout.text.replace("O", "0") if same else layout.text, dice.among(faces), dice)
    left = dice.whole(3, 22) + (BAND if layout.country else 0)
    right, top = dice.whole(3, 22), _room(layout.above, dice)
    height, width = HEIGHT + top + _room(layout.below, dice), row.mask.shape[1] + left + right
    plate = (AROUND, AROUND, AROUND + width, AROUND + height)
    text = (AROUND + left, AROUND + top, AROUND + width - right, AROUND + top + HEIGHT)
    ground, ink = _tones(dice)
    image = _car(height + 2 * AROUND, width + 2 * AROUND, dice)
    paper = _Paper(image, ground, ink, faces, dice)
    paper.lay(plate, pictured=layout.style == "us")
    paper.surround(layout, plate, text)
    if layout.text:
        paint(image, row.mask, text[:2], ink, emboss=dice.between(-0.25, 0.3))
        paper.fill(row.gaps, text, layout.style)
        paper.frame(plate)
    else:
        paper.litter()
    return Drawing(np.clip(image, 0, 1), text, plate)


def run(text: str, face: Typeface, dice: Dice) -> Row:
    """Draw a text, its characters set close or wide."""
    if not text:
        return Row(np.zeros((HEIGHT, dice.whole(90, 300)), np.uint8))
    gap, blank = dice.between(0.06, 0.24) * HEIGHT, dice.between(0.15, 0.75) * HEIGHT
    # Many authorities give each character the same room.
    cell = dice.between(0.42, 0.6) * HEIGHT if dice.odds(0.4) else 0.0
    parts: list[tuple[int, Mask]] = []
    gaps: list[tuple[float, float]] = []
    place = 0.0
    for character in text:
        if character == " ":
            gaps.append((place - gap, place + blank))
            place += blank
            continue
        glyph = face.glyph(character)
        spare = max(0.0, cell - glyph.shape[1]) / 2
        parts.append((round(place + spare), glyph))
        place += glyph.shape[1] + 2 * spare + gap
    row = np.zeros((HEIGHT, max(1, round(place - gap) + 2)), np.uint8)
    for start, glyph in parts:
        part = row[:, start : start + glyph.shape[1]]
        np.maximum(part, glyph[:, : part.shape[1]], out=part)
    stretch = dice.between(0.75, 1.2)
    width = max(4, round(row.shape[1] * stretch))
    return Row(
        np.asarray(cv2.resize(row, (width, HEIGHT)), np.uint8),
        tuple((round(start * stretch), round(end * stretch)) for start, end in gaps),
    )


def paint(
    image: Grey, mask: Mask, corner: tuple[int, int], ink: float, *, emboss: float = 0.0
) -> None:
    """Put ink where a mask is; pressed characters have a bright and a dark flank."""
    left, top = corner
    part = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    share = mask[: part.shape[0], : part.shape[1]].astype(np.float32) / 255
    part += share * (ink - part)
    if emboss:
        part[1:] += (share[1:] - share[:-1]) * emboss


def _room(words: str, dice: Dice) -> int:
    return dice.whole(16, 34) if words else dice.whole(3, 16)


def _tones(dice: Dice) -> tuple[float, float]:
    contrast = dice.between(0.25, 0.9)
    bright = dice.between(contrast, 1.0)
    dark = bright - contrast
    return (bright, dark) if dice.odds(0.83) else (dark, bright)


def _car(height: int, width: int, dice: Dice) -> Grey:
    coarse = dice.field(4, 6, 0, dice.between(0.05, 0.7)) + dice.between(0, 0.4)
    image = np.asarray(cv2.resize(coarse.astype(np.float32), (width, height)), np.float32)
    for _ in range(dice.whole(0, 4)):
        ends = (0, dice.whole(0, height)), (width, dice.whole(0, height))
        cv2.line(image, *ends, dice.between(0, 1), dice.whole(1, 7))
    return image


@dataclass(frozen=True, slots=True)
class _Paper:
    """Draw what is beside the text on one plate."""

    image: Grey
    ground: float
    ink: float
    faces: Sequence[Typeface]
    dice: Dice

    def lay(self, plate: Rectangle, *, pictured: bool) -> None:
        """Cover the plate's ground."""
        left, top, right, bottom = plate
        part = self.image[top:bottom, left:right]
        part[:] = self.ground
        strength = self.dice.between(0, 0.12) + (self.dice.between(0, 0.25) if pictured else 0)
        coarse = self.dice.noise((6, 10) if pictured else (3, 5), strength)
        picture = cv2.resize(coarse, part.shape[::-1], interpolation=cv2.INTER_CUBIC)
        part += np.clip(picture, -0.35, 0.35) * abs(self.ground - self.ink)
        if pictured and self.dice.odds(0.3):
            self._mountains(part)

    def surround(self, layout: Layout, plate: Rectangle, text: Rectangle) -> None:
        """Draw band, words, emblems and bolts."""
        left, top, right, bottom = plate
        if layout.country:
            self._band(layout.country, plate, text)
        if layout.style == "br" and self.dice.odds(0.4):
            self.image[top : text[1] - 2, left:right] = self.dice.between(0.1, 0.5)
        if layout.above:
            self._words(layout.above, (left, top, right, text[1]), self.ink)
        if layout.below:
            self._words(layout.below, (left, text[3], right, bottom), self.ink)
        for place in self._emblems(layout, text):
            self._emblem(place)
        if self.dice.odds(STICKERS.get(layout.style, 0.03)):
            self._sticker(text)
        for _ in range(self.dice.among((0, 0, 2, 4))):
            bolt = self.dice.whole(left + 3, right - 3), self.dice.among((top + 5, bottom - 5))
            self._blot(bolt, self.dice.whole(2, 5))

    def fill(self, gaps: Sequence[tuple[int, int]], text: Rectangle, style: Style) -> None:
        """Draw seals, dots, shields and outlines between the parts of a text."""
        if not self.dice.odds(FILLED.get(style, 0.15)):
            return
        kind = self.dice.among(("seals", "dot", "emblem", "outline"))
        size = self.dice.between(0.12, 0.45) * HEIGHT
        for start, end in gaps:
            x = text[0] + (start + end) // 2
            half = round(min(size, end - start - 4) / 2)
            if half >= 2:  # noqa: PLR2004  of less nothing is seen
                self._mark(kind, (x, text[1] + round(self.dice.between(0.4, 0.6) * HEIGHT)), half)

    def frame(self, plate: Rectangle) -> None:
        """Draw a border on the plate, or a holder over its edge."""
        left, top, right, bottom = plate
        if self.dice.odds(0.6):
            inset, wide = self.dice.whole(1, 4), self.dice.whole(1, 3)
            corners = (left + inset, top + inset), (right - inset, bottom - inset)
            cv2.rectangle(self.image, *corners, self.ink, wide, cv2.LINE_AA)
        if self.dice.odds(0.5):
            wide = self.dice.whole(2, 9)
            corners = (
                (left - wide // 2, top - wide // 2),
                (right + wide // 2, bottom + wide // 2),
            )
            cv2.rectangle(self.image, *corners, self.dice.between(0, 0.8), wide, cv2.LINE_AA)

    def litter(self) -> None:
        """Draw what is no text but found as a line of it: grilles, lamps, kerbs."""
        height, width = self.image.shape
        step, kind = self.dice.whole(4, 24), self.dice.whole(0, 3)
        if kind == 0:
            self.image[:, ::step] = self.image[:, 1::step] = self.dice.between(0, 1)
        elif kind == 1:
            self.image[::step] = self.dice.between(0, 1)
        else:
            for _ in range(step):
                self._scratch((0, 0, width, height), 2)

    def _mountains(self, part: Grey) -> None:
        height, width = part.shape
        tone = self.ground + (self.ink - self.ground) * self.dice.between(0.08, 0.35)
        peaks = [(width * step // 6, self.dice.between(0.3, 1.0) * height) for step in range(7)]
        outline = np.array([(0, height), *peaks, (width, height)], np.int32)
        cv2.fillPoly(part, [outline], tone, cv2.LINE_AA)

    def _band(self, country: str, plate: Rectangle, text: Rectangle) -> None:
        left, top, _, bottom = plate
        right = min(left + self.dice.whole(18, 30), text[0] - 3)
        self.image[top:bottom, left:right] = self.dice.between(0.05, 0.5)
        bright = self.dice.between(0.6, 1.0)
        x, y, radius = (left + right) // 2, top + (bottom - top) // 3, (right - left) // 3
        for star in range(12):
            across, down = math.cos(star * math.pi / 6), math.sin(star * math.pi / 6)
            centre = round(x + radius * across), round(y + radius * down)
            cv2.circle(self.image, centre, 1, bright, -1)
        self._words(country, (left, top + (bottom - top) * 2 // 3 - 2, right, bottom), bright)

    def _words(self, words: str, place: Rectangle, ink: float) -> None:
        left, top, right, bottom = place
        mask = run(words, self.dice.among(self.faces), self.dice).mask
        height = max(4, round((bottom - top) * self.dice.between(0.5, 0.85)))
        width = max(3, min(right - left - 2, round(mask.shape[1] * height / HEIGHT)))
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        spare = max(1, right - left - 2 - width)
        start = left + 1 + (self.dice.whole(0, spare) if self.dice.odds(0.3) else spare // 2)
        tone = ink if self.dice.odds(0.6) else self.dice.between(0, 1)
        paint(self.image, np.asarray(small, np.uint8), (start, (top + bottom - height) // 2), tone)

    def _emblems(self, layout: Layout, text: Rectangle) -> Iterator[Rectangle]:
        chance = {"eu": 0.4, "us": 0.2, "other": 0.2}.get(layout.style, 0.05)
        left, top, right, bottom = text
        size = self.dice.whole(12, 26)
        # Most stand on the left, some with small letters under them.
        if self.dice.odds(chance):
            yield left - size - 3, top + 2, left - 3, top + 2 + size
            if self.dice.odds(0.4):
                below = left - size - 3, top + size + 3, left - 3, top + size + 14
                self._words(self.dice.among(COUNTRIES), below, self.ink)
        if self.dice.odds(chance / 3):
            yield right + 3, bottom - size, right + 3 + size, bottom

    def _sticker(self, text: Rectangle) -> None:
        # Month, year or county in small type is no part of what is read.
        left, top, right, bottom = text
        high, wide = self.dice.whole(10, 18), self.dice.whole(12, 24)
        start = self.dice.among((left - wide - 3, right + 3))
        down = self.dice.whole(top, bottom - high)
        place = start, down, start + wide, down + high
        if self.dice.odds(0.6):
            tone = self.dice.between(0, 1)
            cv2.rectangle(self.image, place[:2], place[2:], tone, -1)
        self._words(str(self.dice.whole(1, 100)), place, self.ink)

    def _emblem(self, place: Rectangle) -> None:
        left, top, right, bottom = place
        tone = self.ground + (self.ink - self.ground) * self.dice.between(0.3, 1.0)
        middle, low = (left + right) // 2, top + (bottom - top) * 2 // 3
        kind = self.dice.among(("shield", "seal", "ring", "square"))
        if kind == "shield":
            outline = [(left, top), (right, top), (right, low), (middle, bottom), (left, low)]
            cv2.fillPoly(self.image, [np.array(outline, np.int32)], tone, cv2.LINE_AA)
        elif kind == "square":
            cv2.rectangle(self.image, (left, top), (right, bottom), tone, -1)
        else:
            axes = (right - left) // 2, (bottom - top) // 2
            centre, wide = (middle, (top + bottom) // 2), -1 if kind == "seal" else 2
            cv2.ellipse(self.image, centre, axes, 0, 0, 360, tone, wide, cv2.LINE_AA)
        for _ in range(self.dice.whole(1, 5)):
            self._scratch(place, self.dice.whole(1, 4))

    def _mark(self, kind: str, centre: tuple[int, int], half: int) -> None:
        x, y = centre
        tone = self.ground + (self.ink - self.ground) * self.dice.between(0.4, 1.0)
        if kind == "emblem":
            self._emblem((x - half, y - half, x + half, y + half))
        elif kind == "outline":
            turns = [(step * math.pi / 4, half * self.dice.between(0.4, 1.0)) for step in range(8)]
            outline = [(x + far * math.cos(turn), y + far * math.sin(turn)) for turn, far in turns]
            cv2.fillPoly(self.image, [np.array(outline, np.int32)], tone, cv2.LINE_AA)
        else:
            apart = HEIGHT // 4 if kind == "seals" else 0
            for down in {-apart, apart}:
                cv2.circle(self.image, (x, y + down), half, tone, -1, cv2.LINE_AA)

    def _scratch(self, place: Rectangle, wide: int) -> None:
        left, top, right, bottom = place
        start, end = (
            (self.dice.whole(left, right), self.dice.whole(top, bottom)) for _ in range(2)
        )
        cv2.line(self.image, start, end, self.dice.between(0, 1), wide, cv2.LINE_AA)

    def _blot(self, centre: tuple[int, int], radius: int) -> None:
        cv2.circle(self.image, centre, radius, self.dice.between(0, 1), -1, cv2.LINE_AA)
