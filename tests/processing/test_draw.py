from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from processing.draw import CannotWrite, annotate, place_at, sheet
from processing.pipeline import analyse
from processing.result import Box, Place, Plate
from tests.processing.doubles import FixedDetector, FixedReader

if TYPE_CHECKING:
    from pathlib import Path

    from processing.result import Analysis

PLACES = (
    Place(0, 0.0, Box(100, 100, 50, 20)),
    Place(5, 0.5, Box(200, 150, 60, 30)),
    Place(90, 9.0, Box(0, 0, 50, 20)),
)


@pytest.fixture
def analysis(tiny_clip: Path) -> Analysis:
    """Return an analysis of the tiny clip that has one plate."""
    return analyse(tiny_clip, FixedDetector(), FixedReader(), lambda _: None)


def test_between_two_places_a_box_is_on_the_way() -> None:
    assert place_at(PLACES, 0.25) == Box(150, 125, 55, 25)
    assert place_at(PLACES, 0.5) == PLACES[1].box


def test_a_plate_out_of_sight_has_no_box() -> None:
    assert [place_at(PLACES, time) for time in (-1.0, 4.0, 10.0)] == [None] * 3
    assert place_at((), 0.0) is None


def test_an_annotated_video_has_every_frame_with_the_box(
    tiny_clip: Path, analysis: Analysis, tmp_path: Path
) -> None:
    out = tmp_path / "out.webm"
    assert annotate(tiny_clip, analysis, out) == 20
    capture = cv2.VideoCapture(str(out))
    image = capture.read()[1]
    assert image.shape == (192, 320, 3)
    blue, green, red = (int(value) for value in image[10:30, 9:12].mean(axis=(0, 1)))
    assert green > max(blue, red) + 40


def test_where_no_video_can_be_written_is_told(
    tiny_clip: Path, analysis: Analysis, tmp_path: Path
) -> None:
    with pytest.raises(CannotWrite, match=r"nowhere/out\.webm: no video can be written there"):
        annotate(tiny_clip, analysis, tmp_path / "nowhere/out.webm")


def test_a_sheet_has_a_cell_for_each_plate(analysis: Analysis) -> None:
    (plate,) = analysis.plates
    paper = cv2.imdecode(np.frombuffer(sheet([plate] * 5), np.uint8), 1)
    assert paper is not None
    assert paper.shape == (280, 1200, 3)
    # The plate, its text, and nothing in the cells that are left.
    assert paper[:90, :290].std() > 10
    assert paper[95:135, :290].min() < 100
    assert paper[140:, 300:].min() > 200


def test_a_plate_without_a_picture_has_its_text() -> None:
    paper = sheet([Plate("AB12CDE", 0.9, 0.0, 1.0, 3)])
    assert paper.startswith(b"\x89PNG")
    assert sheet([]) == b""
