"""Take a picture of a drawn plate: from an angle, small, blurred, noisy, compressed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from processing.recognition import SHAPE
from processing.training.typeface import HEIGHT

if TYPE_CHECKING:
    from processing.training.dice import Dice
    from processing.training.plate import Drawing, Grey
    from processing.training.strokes import Mask

LEAST, MOST = 8.5, 42.0


# Below this scale a pixel sees an area rather than a point.
COARSE = 0.7


def picture(drawing: Drawing, dice: Dice) -> Mask:
    """Return what a detector would cut out, uint8 of the recogniser's shape."""
    # How high the characters are in the picture; more often small than large.
    size = math.exp(dice.between(math.log(LEAST), math.log(MOST)))
    small = _taken(drawing.image, _corners(drawing, dice), size / HEIGHT)
    image = _exposed(_lit(small, dice), size, dice)
    return np.asarray(cv2.resize(image, SHAPE[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _corners(drawing: Drawing, dice: Dice) -> Grey:
    left, top, right, bottom = _box(drawing, dice)
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
    middle = corners.mean(axis=0)
    away = corners - middle
    if dice.odds(0.6):
        away[:, 0] += away[:, 1] * dice.about(0.12)
        away[:, 1] += away[:, 0] * dice.about(0.035)
    return np.asarray(middle + away + dice.noise((4, 2), 0.9), np.float32)


def _box(drawing: Drawing, dice: Dice) -> tuple[float, float, float, float]:
    if dice.odds(0.3):
        around, beside, over = drawing.plate, (-0.03, 0.15), (-0.05, 0.15)
    else:
        # What is cut off at the sides is lost, above and below it is not.
        around, beside, over = drawing.text, (-0.03, 0.5), (-0.06, 0.34)
    return (
        around[0] - dice.between(*beside) * HEIGHT,
        around[1] - dice.between(*over) * HEIGHT,
        around[2] + dice.between(*beside) * HEIGHT,
        around[3] + dice.between(*over) * HEIGHT,
    )


def _taken(image: Grey, corners: Grey, scale: float) -> Grey:
    width = float(np.linalg.norm(corners[1] - corners[0])) * scale
    height = float(np.linalg.norm(corners[3] - corners[0])) * scale
    size = max(8, round(width)), max(5, round(height))
    if scale < COARSE:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.45 / scale), np.float32)
    target = np.array([[0, 0], [size[0], 0], size, [0, size[1]]], np.float32)
    transform = cv2.getPerspectiveTransform(corners, target)
    taken = cv2.warpPerspective(image, transform, size, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(taken, np.float32)


def _lit(image: Grey, dice: Dice) -> Grey:
    if dice.odds(0.4):
        image = image * cv2.resize(dice.field(2, 3, 0.4, 1.2), image.shape[::-1])
    for share, change in ((0.12, _shadowed), (0.1, _glared), (0.15, _dirty)):
        if dice.odds(share):
            image = change(image, dice)
    if dice.odds(0.4):
        image = np.clip(image, 0, 1) ** dice.between(0.5, 2.0)
    return np.asarray(image, np.float32)


def _shadowed(image: Grey, dice: Dice) -> Grey:
    height, width = image.shape
    shade = np.ones_like(image)
    start, end = dice.whole(0, width), dice.whole(0, width)
    side = dice.among((0, width))
    outline = np.array([(start, 0), (end, height), (side, height), (side, 0)], np.int32)
    cv2.fillPoly(shade, [outline], dice.between(0.3, 0.75), cv2.LINE_AA)
    return image * shade


def _glared(image: Grey, dice: Dice) -> Grey:
    height, width = image.shape
    rows, columns = np.ogrid[:height, :width]
    y, x = dice.between(0, height), dice.between(0, width)
    far = ((rows - y) ** 2 + (columns - x) ** 2) / (dice.between(0.3, 1.5) * height) ** 2
    return np.asarray(image + np.exp(-far) * dice.between(0.2, 0.7), np.float32)


def _dirty(image: Grey, dice: Dice) -> Grey:
    height, width = image.shape
    tone = dice.between(0, 0.6)
    dirty = image.copy()
    for _ in range(dice.whole(1, 7)):
        centre = dice.whole(0, width), dice.whole(0, height)
        radius = max(1, round(height * dice.between(0.02, 0.12)))
        cv2.circle(dirty, centre, radius, tone, -1, cv2.LINE_AA)
    return image + (dirty - image) * dice.between(0.3, 0.9)


def _exposed(image: Grey, size: float, dice: Dice) -> Mask:
    if dice.odds(0.55):
        image = _blurred(image, size, dice)
    if dice.odds(0.4):
        contrast = dice.between(0.35, 1.0)
        image = image * contrast + dice.between(0, 1 - contrast)
    if dice.odds(0.6):
        image = image + _noise(image, dice)
    exposed = np.clip(image * 255, 0, 255).astype(np.uint8)
    if dice.odds(0.15):
        exposed = _sharpened(exposed)
    return _compressed(exposed, dice) if dice.odds(0.6) else exposed


def _noise(image: Grey, dice: Dice) -> Grey:
    usual = 0.008 + 0.035 * float(np.ptp(image))
    noise = dice.noise(image.shape, min(float(dice.generator.exponential(usual)), 3 * usual))
    if dice.odds(0.3):
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.8) * 2, np.float32)
    return noise


def _blurred(image: Grey, size: float, dice: Dice) -> Grey:
    # A twelfth of the height is about half a line's thickness.
    strength = dice.between(0.02, 0.08) * size
    if dice.odds(0.3):
        return _shaken(image, max(2, round(strength * 3)), dice)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.3, strength)), np.float32)


def _shaken(image: Grey, length: int, dice: Dice) -> Grey:
    angle = 0.0 if dice.odds(0.5) else dice.between(0, math.pi)
    middle = (length - 1) / 2
    across, down = middle * math.cos(angle), middle * math.sin(angle)
    kernel = np.zeros((length, length), np.float32)
    start = round(middle - across), round(middle - down)
    cv2.line(kernel, start, (round(middle + across), round(middle + down)), 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)


def _sharpened(image: Mask) -> Mask:
    soft = cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.asarray(cv2.addWeighted(image, 2.0, soft, -1.0, 0), np.uint8)


def _compressed(image: Mask, dice: Dice) -> Mask:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, dice.whole(15, 90)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
