"""Show people what was read: boxes and texts in the video, and a sheet of the best shots."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from processing.result import Box
from processing.video import open_video

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processing.result import Analysis, Place, Plate
    from processing.video import Image, Source

COLOUR: Final = (60, 220, 60)
INK: Final = (20, 20, 20)
PAPER: Final = (245, 245, 245)
# Seconds between two places over which a box is thought to move evenly.
BRIDGE = 1.0
CELL: Final = (300, 140)
SHOT: Final = (280, 84)
COLUMNS = 4
# Pixels that a text takes above or, at the upper edge, below its box.
LINE = 28
# Encoding takes longer than everything else: what people look at needs no more pixels.
SIDE = 1280
LIKELY_FPS = 25.0


class CannotWrite(OSError):
    """The annotated video cannot be written there; the message says where."""


def annotate(source: Source, analysis: Analysis, out: Path) -> int:
    """Write the video with boxes and texts as VP9 in WebM, at most 1280 pixels wide.

    Args:
        source: the video that was analysed.
        analysis: what was found in it.
        out: a path that ends with .webm.

    Returns:
        How many frames were written.

    Raises:
        CannotWrite: nothing can be written there.
        ProcessingError: the source cannot be opened any more.
    """
    with open_video(source) as video:
        scale = min(1.0, SIDE / max(video.info.width, video.info.height))
        size = _even(video.info.width * scale), _even(video.info.height * scale)
        codec = cv2.VideoWriter.fourcc(*"VP90")
        writer = cv2.VideoWriter(str(out), codec, video.info.fps or LIKELY_FPS, size)
        if not writer.isOpened():
            raise CannotWrite(f"{out}: no video can be written there")
        count = 0
        try:
            for frame in video.frames():
                small = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
                image = np.asarray(small, np.uint8)
                for plate in analysis.plates:
                    _mark(image, plate, frame.time, scale)
                writer.write(image)
                count += 1
        finally:
            writer.release()
        return count


def sheet(plates: Sequence[Plate]) -> bytes:
    """Return a PNG of the best shots of all plates with their texts; empty where there are none."""
    if not plates:
        return b""
    rows = -(-len(plates) // COLUMNS)
    width, height = CELL
    paper = np.full((rows * height, min(COLUMNS, len(plates)) * width, 3), PAPER, np.uint8)
    for number, plate in enumerate(plates):
        row, column = divmod(number, COLUMNS)
        _cell(
            paper[row * height : (row + 1) * height, column * width : (column + 1) * width], plate
        )
    encoded, data = cv2.imencode(".png", paper)
    return bytes(data) if encoded else b""


def place_at(places: Sequence[Place], time: float) -> Box | None:
    """Return where a plate is at a time: between two places near in time on the way there."""
    after = bisect_right([place.time for place in places], time)
    if not after:
        return None
    last = places[after - 1]
    if after == len(places):
        return last.box if time - last.time < BRIDGE / 4 else None
    following = places[after]
    gap = following.time - last.time
    if gap > BRIDGE:
        return last.box if time - last.time < BRIDGE / 4 else None
    return _between(last.box, following.box, (time - last.time) / gap if gap else 0.0)


def _between(one: Box, other: Box, share: float) -> Box:
    pairs = zip(_sides(one), _sides(other), strict=True)
    return Box(*(round(before + (after - before) * share) for before, after in pairs))


def _sides(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.width, box.height


def _mark(image: Image, plate: Plate, time: float, scale: float) -> None:
    box = place_at(plate.places, time)
    if box is None:
        return
    left, top, width, height = (round(side * scale) for side in _sides(box))
    cv2.rectangle(image, (left, top), (left + width, top + height), COLOUR, 2)
    base = top - 8 if top >= LINE else top + height + LINE - 6
    (across, up), _ = cv2.getTextSize(plate.text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 2)
    cv2.rectangle(image, (left - 2, base - up - 6), (left + across + 4, base + 6), INK, cv2.FILLED)
    cv2.putText(
        image, plate.text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.7, COLOUR, 2, cv2.LINE_AA
    )


def _cell(cell: Image, plate: Plate) -> None:
    shot = _shot(plate)
    if shot is not None:
        height, width = shot.shape[:2]
        cell[8 : 8 + height, 10 : 10 + width] = shot
    title = f"{plate.text}  {plate.confidence:.2f}"
    when = f"{plate.first_seen:.1f} - {plate.last_seen:.1f} s"
    cv2.putText(cell, title, (10, 112), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    cv2.putText(cell, when, (10, 131), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)


def _shot(plate: Plate) -> Image | None:
    picture = cv2.imdecode(np.frombuffer(plate.crop, np.uint8), 1) if plate.crop else None
    if picture is None:
        return None
    scale = min(SHOT[0] / picture.shape[1], SHOT[1] / picture.shape[0])
    size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _even(length: float) -> int:
    return max(16, round(length / 2) * 2)
