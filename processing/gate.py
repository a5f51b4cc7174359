"""Say which parts of a frame are worth looking at: where it changed, and where plates are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from processing.result import Box

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from processing.video import Image

# Changes are looked for in a picture so wide: a block of 8 to 12 pixels evens out the noise.
THUMB_WIDTH = 160
# Of 255. Sensors' noise and encoders' flicker stay below, a small car in the distance does not.
CHANGE = 9
# Added around what changed, as a share of the frame's width: a plate is not cut in two.
MARGIN = 0.05
# So many blocks side by side have to change: of a car do many, and single ones flicker.
LEAST_BLOCKS = 3
# Above this share of the frame the rest costs less than another shape of input does.
MOST_OF_IT = 0.85
# After so many whole looks everything is looked at again, changed or not.
REFRESH = 10


@dataclass(frozen=True, slots=True)
class Glance:
    """Say where to look in a frame.

    Args:
        boxes: the parts to be searched for plates; empty for none.
        whole: search all of it instead.
    """

    boxes: tuple[Box, ...] = ()
    whole: bool = False


class Gate:
    """Remember how each part of the picture was when it was last looked at.

    Args:
        keyframes: all that changed is looked at in each so many frames; in those between only the
            surroundings of known plates are. 0 looks at the whole of every frame.
    """

    def __init__(self, keyframes: int) -> None:
        self._keyframes = keyframes
        self._count = 0
        self._size = (0, 0)
        self._scale = 1.0
        self._thumb: NDArray[np.int16] = np.zeros((1, 1), np.int16)
        self._seen: NDArray[np.int16] = np.zeros((0, 0), np.int16)

    def see(self, image: Image) -> None:
        """Take the next frame."""
        self._size = image.shape[1], image.shape[0]
        if self._keyframes:
            self._thumb, self._scale = _thumb(image)

    def changed(self, box: Box) -> bool:
        """Tell whether a part of the frame is not as it was when it was last looked at."""
        if not self._keyframes or self._seen.shape != self._thumb.shape:
            return True
        part = _slices(box, self._scale)
        return bool((np.abs(self._thumb[part] - self._seen[part]) > CHANGE).any())

    def glance(self, expected: Iterable[Box]) -> Glance:
        """Say where to look in the frame; what it says is taken as looked at.

        Args:
            expected: where known plates are thought to be.
        """
        number, self._count = self._count, self._count + 1
        if not self._keyframes or self._seen.shape != self._thumb.shape:
            return self._everything()
        if number % (self._keyframes * REFRESH) == 0:
            return self._everything()
        changed = self._changes() if number % self._keyframes == 0 else ()
        frame = Box(0, 0, *self._size)
        near = (_around(box, self._size) for box in expected if overlap(box, frame))
        boxes = merged([*changed, *near])
        if sum(box.area for box in boxes) > MOST_OF_IT * self._size[0] * self._size[1]:
            return self._everything()
        for box in boxes:
            part = _slices(box, self._scale)
            self._seen[part] = self._thumb[part]
        return Glance(tuple(boxes))

    def _everything(self) -> Glance:
        self._seen = self._thumb.copy()
        return Glance(whole=True)

    def _changes(self) -> Iterator[Box]:
        changed = (np.abs(self._thumb - self._seen) > CHANGE).astype(np.uint8)
        joined = cv2.dilate(changed, np.ones((5, 5), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
        blocks = np.bincount(labels.ravel(), changed.ravel(), count)
        margin = round(MARGIN * self._size[0])
        for left, top, width, height, _ in stats[1:][blocks[1:] >= LEAST_BLOCKS].tolist():
            sides = (round(side / self._scale) for side in (left, top, width, height))
            yield _widened(Box(*sides), margin, margin, self._size)


def merged(boxes: Sequence[Box]) -> list[Box]:
    """Return boxes that cover the same and do not overlap."""
    apart: list[Box] = []
    for box in boxes:
        grown = box
        while True:
            touching = [other for other in apart if overlap(grown, other)]
            if not touching:
                break
            apart = [other for other in apart if other not in touching]
            grown = _hull([grown, *touching])
        apart.append(grown)
    return apart


def _thumb(image: Image) -> tuple[NDArray[np.int16], float]:
    scale = min(1.0, THUMB_WIDTH / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.int16), scale


def _slices(box: Box, scale: float) -> tuple[slice, slice]:
    left, top = int(box.x * scale), int(box.y * scale)
    right, bottom = (box.x + box.width) * scale, (box.y + box.height) * scale
    return slice(top, int(bottom) + 1), slice(left, int(right) + 1)


def _around(box: Box, size: tuple[int, int]) -> Box:
    return _widened(box, box.width, max(box.width // 2, 2 * box.height), size)


def _widened(box: Box, across: int, down: int, size: tuple[int, int]) -> Box:
    width, height = size
    left, top = min(max(0, box.x - across), width - 1), min(max(0, box.y - down), height - 1)
    right = min(width, box.x + box.width + across)
    bottom = min(height, box.y + box.height + down)
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def overlap(one: Box, other: Box) -> bool:
    """Tell whether two boxes have a pixel in common."""
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return min(across, down) > 0


def _hull(boxes: Sequence[Box]) -> Box:
    left, top = min(box.x for box in boxes), min(box.y for box in boxes)
    right = max(box.x + box.width for box in boxes)
    bottom = max(box.y + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)
