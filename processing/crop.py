"""Cut a plate out of its frame, seen from the front."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from processing.detect import Quad
    from processing.video import Image


@dataclass(frozen=True, slots=True)
class View:
    """Say how a reader wants to see a plate.

    Args:
        margin: what to add on each side, as a share of the width and of the height; negative takes
            away.
        tone: leave the colours, or take the brightness alone, or stretch that to the full range.
    """

    margin: tuple[float, float] = (0.0, 0.0)
    tone: Literal["colour", "grey", "stretched"] = "colour"

    def of(self, image: Image, quad: Quad) -> Image:
        """Return the plate inside four corners as an upright BGR uint8 image."""
        plate = cut(image, quad, self.margin)
        return plate if self.tone == "colour" else _grey(plate, stretch=self.tone == "stretched")


# What a picture shows around a plate, as a share of its width and of its height.
SURROUNDINGS = (0.12, 0.3)
PICTURE_WIDTH = 480


def cut(image: Image, quad: Quad, margin: tuple[float, float] = (0.0, 0.0)) -> Image:
    """Return what lies inside four corners as an upright BGR uint8 image, one pixel per pixel.

    Args:
        image: BGR, uint8, height x width x 3.
        quad: top left, top right, bottom right, bottom left, in the image's pixels.
        margin: what to add on each side, as a share of the width and of the height.
    """
    corners = _widened(np.array(quad, np.float32), margin)
    if _is_upright(corners) and not _is_within(image, corners):
        return _slice(image, corners)
    width = max(2, round(max(_side(corners, 0, 1), _side(corners, 3, 2))))
    height = max(2, round(max(_side(corners, 0, 3), _side(corners, 1, 2))))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    transform = cv2.getPerspectiveTransform(corners, target)
    plate = cv2.warpPerspective(
        image,
        transform,
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(plate, np.uint8)


def picture(image: Image, quad: Quad) -> bytes:
    """Return a JPEG of a plate with some of its surroundings, at most 480 pixels wide."""
    plate = cut(image, quad, SURROUNDINGS)
    scale = min(1.0, PICTURE_WIDTH / plate.shape[1])
    if scale < 1.0:
        size = (PICTURE_WIDTH, max(1, round(plate.shape[0] * scale)))
        plate = np.asarray(cv2.resize(plate, size, interpolation=cv2.INTER_AREA), np.uint8)
    encoded, data = cv2.imencode(".jpg", plate, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(data) if encoded else b""


def _grey(plate: Image, *, stretch: bool) -> Image:
    grey = cv2.cvtColor(plate, cv2.COLOR_BGR2GRAY)
    if stretch:
        # Not from the darkest to the brightest pixel: one glint would spoil it.
        dark, bright = np.percentile(grey, (2, 98))
        wide = (grey.astype(np.float32) - dark) * (255 / max(bright - dark, 1.0))
        grey = np.clip(wide, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)


def _is_upright(corners: NDArray[np.float32]) -> bool:
    return bool(corners[0][1] == corners[1][1] and corners[0][0] == corners[3][0])


def _is_within(image: Image, corners: NDArray[np.float32]) -> bool:
    height, width = image.shape[:2]
    return bool(corners.min() >= 0 and (corners <= (width, height)).all())


def _slice(image: Image, corners: NDArray[np.float32]) -> Image:
    # Nothing is made up beyond the border: readers take a smear for a character.
    height, width = image.shape[:2]
    left, top = (max(0, int(side)) for side in corners[0])
    right, bottom = (math.ceil(side) for side in corners[2])
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _widened(corners: NDArray[np.float32], margin: tuple[float, float]) -> NDArray[np.float32]:
    top_left, top_right, bottom_right, bottom_left = corners
    across, down = margin
    top, bottom = (top_right - top_left) * across, (bottom_right - bottom_left) * across
    left, right = (bottom_left - top_left) * down, (bottom_right - top_right) * down
    return np.array(
        [
            top_left - top - left,
            top_right + top - right,
            bottom_right + bottom + right,
            bottom_left - bottom + left,
        ],
        np.float32,
    )


def _side(corners: NDArray[np.float32], start: int, end: int) -> float:
    return float(np.linalg.norm(corners[start] - corners[end]))
