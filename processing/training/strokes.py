"""Draw the characters of plates with a pen: our own shapes, so that no licence binds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from processing.training.dice import Dice

Mask: TypeAlias = "NDArray[np.uint8]"
Line: TypeAlias = list[tuple[float, float]]

# Lines are drawn larger and shrunk, for OpenCV's own smoothing is coarse.
FINER = 3
ARC_STEPS = 20
NARROW = {"I": 0.12, "1": 0.5, ":": 0.12, ".": 0.12, "-": 0.5}


@dataclass(frozen=True, slots=True)
class Pen:
    """Say how the characters of one plate are drawn.

    Args:
        aspect: width of an ordinary character's middle line / its height.
        weight: thickness of the line / the height.
        squareness: exponent of the superellipses that bowls are; 2 is round, 5 nearly square.
        wide: how much wider than the others M and W are.
        variants: which of its forms a character with several has, one bit for each.
    """

    aspect: float
    weight: float
    squareness: float
    wide: float
    variants: int

    @classmethod
    def of(cls, dice: Dice) -> Pen:
        """Choose a pen."""
        aspect = dice.between(0.3, 0.62)
        return cls(
            aspect=aspect,
            # Thicker lines would close the bowls.
            weight=min(dice.between(0.09, 0.2), 0.36 * aspect),
            squareness=dice.between(2.0, 4.5),
            wide=dice.between(1.0, 1.35),
            variants=dice.whole(0, 1 << 13),
        )

    def draw(self, character: str, height: int) -> Mask:
        """Return a character as a mask of uint8, 255 where there is ink, as narrow as it is."""
        size = height * FINER
        thick = max(2, round(self.weight * size))
        span = size - thick
        width = round(span * self._width(character))
        canvas = np.zeros((size, width + thick), np.uint8)
        for line in _lines(character, self):
            scaled = np.array(line) * (width, span) + thick / 2
            points = [np.round(scaled * 16).astype(np.int32)]
            cv2.polylines(canvas, points, False, 255, thick, cv2.LINE_AA, shift=4)
        smaller = (max(2, round(canvas.shape[1] / FINER)), height)
        return np.asarray(cv2.resize(canvas, smaller, interpolation=cv2.INTER_AREA), np.uint8)

    def varies(self, bit: int) -> bool:
        """Tell whether the form with this number is drawn in its second way."""
        return bool(self.variants >> bit & 1)

    def _width(self, character: str) -> float:
        if character == "1" and not self.varies(1):
            return self.aspect * 0.35
        wide = self.wide if character in "MW" else 1.0
        return self.aspect * NARROW.get(character, wide)


def _lines(character: str, pen: Pen) -> list[Line]:
    return [list(line) for line in _SHAPES[character](pen)]


def _arc(pen: Pen, centre: tuple[float, float], radii: tuple[float, float],
         start: float, end: float) -> Line:  # fmt: skip
    # Degrees from the right over the bottom: 90 is down.
    power = 2 / pen.squareness
    line = []
    for step in range(ARC_STEPS + 1):
        angle = math.radians(start + (end - start) * step / ARC_STEPS)
        x, y = math.cos(angle), math.sin(angle)
        line.append(
            (
                centre[0] + radii[0] * math.copysign(abs(x) ** power, x),
                centre[1] + radii[1] * math.copysign(abs(y) ** power, y),
            )
        )
    return line


def _bowl(pen: Pen, top: float, bottom: float, start: float, end: float) -> Line:
    half = (bottom - top) / 2
    return _arc(pen, (0.5, top + half), (0.5, half), start, end)


def _right(pen: Pen, start: float, top: float, bottom: float, reach: float = 1.0) -> Line:
    half = (bottom - top) / 2
    return _arc(pen, (start, top + half), (reach - start, half), 270, 450)


def _one(pen: Pen) -> Iterator[Line]:
    if pen.varies(1):
        yield [(0.1, 0.22), (0.55, 0), (0.55, 1)]
        if pen.varies(2):
            yield [(0.05, 1), (1, 1)]
    else:
        yield [(0, 0.2), (0.9, 0), (0.9, 1)]


def _three(pen: Pen) -> Iterator[Line]:
    if pen.varies(3):
        yield [(0, 0), (1, 0), (0.45, 0.42), *_arc(pen, (0.45, 0.71), (0.55, 0.29), 270, 520)]
    else:
        yield _arc(pen, (0.46, 0.25), (0.5, 0.25), 200, 450)
        yield _arc(pen, (0.46, 0.75), (0.54, 0.25), 270, 520)


def _six(pen: Pen) -> Iterator[Line]:
    if pen.varies(4):
        yield [(0.72, 0), (0.12, 0.5), *_bowl(pen, 0.38, 1, 200, 560)]
    else:
        yield [*_bowl(pen, 0, 0.9, 325, 180), (0, 0.7)]
        yield _bowl(pen, 0.42, 1, 0, 360)


def _nine(pen: Pen) -> Iterator[Line]:
    for line in _six(pen):
        yield [(1 - x, 1 - y) for x, y in line]


def _a(pen: Pen) -> Iterator[Line]:
    flat = 0.12 if pen.varies(5) else 0.0
    yield [(0, 1), (0.5 - flat, 0), (0.5 + flat, 0), (1, 1)]
    yield [(0.17, 0.7), (0.83, 0.7)]


def _i(pen: Pen) -> Iterator[Line]:
    yield [(0.5, 0), (0.5, 1)]
    if pen.varies(6):
        yield [(-1, 0), (2, 0)]
        yield [(-1, 1), (2, 1)]


def _m(pen: Pen) -> Iterator[Line]:
    yield [(0, 1), (0, 0), (0.5, 0.95 if pen.varies(7) else 0.6), (1, 0), (1, 1)]


def _v(pen: Pen) -> Iterator[Line]:
    flat = 0.08 if pen.varies(12) else 0.0
    yield [(0, 0), (0.5 - flat, 1), (0.5 + flat, 1), (1, 0)]


def _w(pen: Pen) -> Iterator[Line]:
    middle = (0.05, 0.4, 0.3, 0.5)[pen.varies(7) + 2 * pen.varies(10)]
    # Where room is short the outer lines stand nearly upright.
    foot = (0.25, 0.12, 0.18, 0.04)[pen.varies(8) + 2 * pen.varies(11)]
    yield [(0, 0), (foot, 1), (0.5, middle), (1 - foot, 1), (1, 0)]


def _g(pen: Pen) -> Iterator[Line]:
    yield [*_bowl(pen, 0, 1, 325, 20), (1, 0.55), (0.55, 0.55)]


def _zero(pen: Pen) -> Iterator[Line]:
    yield _bowl(pen, 0, 1, 0, 360)
    # Few authorities strike their zeros through.
    if pen.varies(9) and pen.varies(0) and pen.varies(8):
        yield [(0.8, 0.2), (0.2, 0.8)]


def _p(pen: Pen) -> Line:
    return [(0, 1), (0, 0), *_right(pen, 0.5, 0, 0.55), (0, 0.55)]


_SHAPES: dict[str, Callable[[Pen], Iterator[Line] | list[Line]]] = {
    "0": _zero,
    "1": _one,
    "2": lambda pen: [[*_bowl(pen, 0, 0.58, 190, 395), (0, 1), (1, 1)]],
    "3": _three,
    "4": lambda _: [[(0.75, 1), (0.75, 0), (0, 0.72), (1, 0.72)]],
    "5": lambda pen: [[(0.92, 0), (0.12, 0), *_arc(pen, (0.47, 0.68), (0.53, 0.32), 222, 505)]],
    "6": _six,
    "7": lambda _: [[(0, 0), (1, 0), (0.35, 1)]],
    "8": lambda pen: [
        _arc(pen, (0.5, 0.24), (0.45, 0.24), 0, 360),
        _arc(pen, (0.5, 0.74), (0.5, 0.26), 0, 360),
    ],
    "9": _nine,
    "A": _a,
    "B": lambda pen: [
        [
            (0, 0),
            *_right(pen, 0.5, 0, 0.48, 0.94),
            (0, 0.48),
            *_right(pen, 0.5, 0.48, 1),
            (0, 1),
            (0, 0),
        ]
    ],
    "C": lambda pen: [_bowl(pen, 0, 1, 325, 35)],
    "D": lambda pen: [[(0, 0), *_right(pen, 0.4, 0, 1), (0, 1), (0, 0)]],
    "E": lambda _: [[(1, 0), (0, 0), (0, 1), (1, 1)], [(0, 0.5), (0.85, 0.5)]],
    "F": lambda _: [[(1, 0), (0, 0), (0, 1)], [(0, 0.5), (0.85, 0.5)]],
    "G": _g,
    "H": lambda _: [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 0.5), (1, 0.5)]],
    "I": _i,
    "J": lambda pen: [[(0.9, 0), *_arc(pen, (0.45, 0.7), (0.45, 0.3), 0, 170)]],
    "K": lambda _: [[(0, 0), (0, 1)], [(1, 0), (0, 0.62)], [(0.32, 0.42), (1, 1)]],
    "L": lambda _: [[(0, 0), (0, 1), (1, 1)]],
    "M": _m,
    "N": lambda _: [[(0, 1), (0, 0), (1, 1), (1, 0)]],
    "O": lambda pen: [_bowl(pen, 0, 1, 0, 360)],
    "P": lambda pen: [_p(pen)],
    "Q": lambda pen: [_bowl(pen, 0, 1, 0, 360), [(0.6, 0.72), (1, 1.02)]],
    "R": lambda pen: [_p(pen), [(0.45, 0.55), (1, 1)]],
    "S": lambda pen: [[*_bowl(pen, 0, 0.5, 335, 90), *_bowl(pen, 0.5, 1, 270, 515)]],
    "T": lambda _: [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],
    "U": lambda pen: [[(0, 0), *_arc(pen, (0.5, 0.62), (0.5, 0.38), 180, 0), (1, 0)]],
    "V": _v,
    "W": _w,
    "X": lambda _: [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],
    "Y": lambda _: [[(0, 0), (0.5, 0.5), (1, 0)], [(0.5, 0.5), (0.5, 1)]],
    "Z": lambda _: [[(0, 0), (1, 0), (0, 1), (1, 1)]],
    "-": lambda _: [[(0, 0.5), (1, 0.5)]],
    ".": lambda _: [[(0.5, 1), (0.5, 1)]],
    ":": lambda _: [[(0.5, 0.3), (0.5, 0.3)], [(0.5, 0.8), (0.5, 0.8)]],
    "/": lambda _: [[(1, 0), (0, 1)]],
}

CHARACTERS = tuple(_SHAPES)
