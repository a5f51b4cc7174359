"""Draw single pictures of licence plates that are hard to read: small, askew, blurred, dark, dirty.

The same seed gives the same picture. Zeros are drawn as the letter O is, one as I, as many
countries do; so some plates cannot be told right, and who reads them should say that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from processing.result import Box
from tests.scene import paste

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.scene import Floats, Image

SIZE = (960, 544)
LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZ"
DIGITS = "0123456789"
# With a space where a plate of two lines is broken.
PATTERNS = (
    "LLDD LLL", "LL DDDLL", "LLL DDDD", "LL DDDD", "LLL DDD", "DLLL DDD", "LLL DLDD", "DDDD LLL",
)  # fmt: skip
# Width and height of a plate and height of its characters, millimetres.
LONG, SHORT, SQUARE = (520, 112, 76), (305, 152, 70), (280, 200, 76)
GROUNDS = ((232, 238, 240), (222, 226, 222), (90, 210, 235), (240, 236, 226))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold a picture with what is true of it.

    Args:
        image: BGR, uint8.
        text: of its one plate.
        box: where that is.
    """

    image: Image
    text: str
    box: Box


def snapshot(seed: int, *, lines: int = 1, hard: bool = True) -> Snapshot:
    """Draw a picture with one plate.

    Args:
        seed: of everything random.
        lines: 1, or 2 for a square plate with two of them.
        hard: blurred, dark, noisy, dirty and small, each by chance; else as a good camera shows it.
    """
    random = np.random.default_rng((seed, lines))
    halves = text(random).split()
    told = "".join(halves)
    texture = plate([told] if lines == 1 else halves, random)
    if hard and random.random() < 0.3:
        _soil(texture, random)
    width = math.exp(random.uniform(math.log(42), math.log(170))) if hard else 150.0
    corners = _corners(texture, width * (0.6 if lines == 2 else 1.0), random, askew=hard)
    picture = street(random, SIZE)
    car(picture, corners, random)
    paste(picture, texture, corners)
    left, top = (int(side) for side in corners.min(axis=0))
    right, bottom = (math.ceil(side) for side in corners.max(axis=0))
    box = Box(left, top, right - left, bottom - top)
    return Snapshot(_worsened(picture, box, random) if hard else picture, told, box)


def plate(lines: Sequence[str], random: np.random.Generator) -> Image:
    """Draw a plate from the front, a pixel for each millimetre."""
    shape = SQUARE if len(lines) > 1 else (LONG, SHORT)[int(random.integers(2))]
    width, height, tall = shape
    ground = np.array(GROUNDS[int(random.integers(len(GROUNDS)))], np.float32)
    texture = np.full((height, width, 3), ground, np.uint8)
    cv2.rectangle(texture, (3, 3), (width - 4, height - 4), (60, 50, 50), 4)
    weight, step = int(random.integers(420, 760)), height // len(lines)
    for number, line in enumerate(lines):
        ink = _ink(line, weight, (width - 48, min(tall, step - 20)))
        left = (width - ink.shape[1]) // 2
        top = step * number + (step - ink.shape[0]) // 2
        part = texture[top : top + ink.shape[0], left : left + ink.shape[1]]
        share = ink[:, :, :1] / np.float32(255)
        part[:] = (part * (1 - share) + np.array((32, 30, 30)) * share).astype(np.uint8)
    return texture


def _ink(line: str, weight: int, room: tuple[int, int]) -> Image:
    shown = line.replace("0", "O").replace("1", "I")
    face = cv2.FontFace("sans")
    _, _, wide, _ = cv2.getTextSize((2000, 200), shown, (0, 0), face, 92, weight)
    mask = np.zeros((150, wide + 40, 3), np.uint8)
    cv2.putText(mask, shown, (20, 110), (255, 255, 255), face, 92, weight)
    ys, xs = np.nonzero(mask[:, :, 0])
    ink = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    size = min(room[0], round(ink.shape[1] * room[1] / ink.shape[0])), room[1]
    return np.asarray(cv2.resize(ink, size, interpolation=cv2.INTER_AREA), np.uint8)


def text(random: np.random.Generator) -> str:
    """Make up what a plate shows, with a space where it may be broken."""
    pattern = PATTERNS[int(random.integers(len(PATTERNS)))]
    glyphs = {"L": list(LETTERS), "D": list(DIGITS)}
    return "".join(" " if kind == " " else str(random.choice(glyphs[kind])) for kind in pattern)


def _soil(texture: Image, random: np.random.Generator) -> None:
    height, width = texture.shape[:2]
    for _ in range(int(random.integers(2, 7))):
        at = int(random.integers(width)), int(random.integers(height))
        size = int(random.integers(4, 20)), int(random.integers(4, 20))
        colour = [int(random.integers(60, 150))] * 3
        cv2.ellipse(texture, at, size, float(random.uniform(0, 180)), 0, 360, colour, -1)


def _corners(texture: Image, width: float, random: np.random.Generator, *, askew: bool) -> Floats:
    """Return where the corners of a plate are that is turned in space before a camera."""
    yaw, pitch, roll = (
        math.radians(random.uniform(-most, most)) * askew for most in (42.0, 22.0, 9.0)
    )
    half, tall = 0.5, 0.5 * texture.shape[0] / texture.shape[1]
    flat = np.array([[-half, -tall, 0], [half, -tall, 0], [half, tall, 0], [-half, tall, 0]])
    turned = flat @ cv2.Rodrigues(np.array([pitch, yaw, roll]))[0].T
    seen = turned[:, :2] / (1 + turned[:, 2:] / 6) * width
    centre = random.uniform(0.25, 0.75, 2) * SIZE
    return (seen + centre).astype(np.float32)


def street(random: np.random.Generator, size: tuple[int, int]) -> Image:
    """Draw what lies around, grey, without edges."""
    width, height = size
    picture = np.full((height, width), random.uniform(70, 130), np.float32)
    for grain, strength in ((3, 4.0), (24, 8.0), (120, 18.0)):
        coarse = random.normal(0, strength, (height // grain + 2, width // grain + 2))
        picture += cv2.resize(coarse.astype(np.float32), size)
    tint = random.uniform(0.9, 1.1, 3).astype(np.float32)
    return np.asarray(np.clip(picture[:, :, None] * tint, 0, 255), np.uint8)


def car(picture: Image, corners: Floats, random: np.random.Generator) -> None:
    """Draw the back of a car around a plate."""
    x, y = corners.mean(axis=0)
    width = float(np.ptp(corners[:, 0]))
    paint = [int(value) for value in random.integers(20, 200, 3)]
    sides = ((1.9, 1.6, 1.0), (1.5, 0.45, 0.7))
    for across, down, shade in sides:
        start = round(x - across * width), round(y - down * width)
        end = round(x + across * width), round(y + 0.5 * down * width)
        cv2.rectangle(picture, start, end, [round(shade * value) for value in paint], -1)


def _worsened(picture: Image, box: Box, random: np.random.Generator) -> Image:
    # Few are bad in every way, as of real ones.
    worst = random.uniform(0.1, 1.0)
    seen = picture.astype(np.float32)
    blur = random.uniform(0.1, 0.06 * box.height * worst + 0.11)
    seen = cv2.GaussianBlur(seen, (0, 0), blur).astype(np.float32)
    if random.random() < 0.4:
        seen = _smeared(
            seen, random.uniform(1, 1 + worst * 0.05 * box.width), random.uniform(0, math.pi)
        )
    light = math.exp(random.uniform(worst * math.log(0.2), math.log(1.1)))
    noise = random.normal(0, random.uniform(1, 9) * worst, (*seen.shape[:2], 1))
    seen = seen * np.float32(light) + noise.astype(np.float32)
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(95 - worst * random.uniform(0, 65))]
    _, data = cv2.imencode(".jpg", np.clip(seen, 0, 255).astype(np.uint8), quality)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _smeared(picture: Floats, length: float, angle: float) -> Floats:
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    middle, reach = side // 2, np.array([math.cos(angle), math.sin(angle)]) * length / 2
    start, end = (np.round(middle + sign * reach).astype(int) for sign in (-1, 1))
    cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum()), np.float32)
