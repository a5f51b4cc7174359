from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from processing.detect import (
    AlprDetector,
    Candidate,
    PlateGeometry,
    TextPlateDetector,
    shrink,
)
from processing.engines import find_alpr
from processing.result import Box
from tests.processing.doubles import quad
from tests.scene import Setting, still, truth

if TYPE_CHECKING:
    from processing.detect import PlateDetector
    from processing.video import Image
    from tests.processing.doubles import SharedFolder

SETTING = Setting(seed=3, fps=10, seconds=4.0, plates=1)


@pytest.fixture(scope="module")
def image() -> Image:
    """Return a frame in which one car is near."""
    return still(SETTING, truth(SETTING)[0].last_seen - 0.3)


def holds(box: Box, x: float, y: float) -> bool:
    return box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height


def near_plates(detector: PlateDetector, image: Image) -> list[Candidate]:
    return [one for one in detector.detect(image) if one.box.y > image.shape[0] // 2]


def test_text_detector_finds_the_plate_of_the_near_car(image: Image) -> None:
    (plate,) = near_plates(TextPlateDetector(threads=2), image)
    width, height = plate.size
    assert 3 < width / height < 6
    assert 80 < width < 200


def test_text_detector_finds_in_a_part_what_it_finds_in_the_whole(image: Image) -> None:
    detector = TextPlateDetector(threads=2)
    (plate,) = near_plates(detector, image)
    part = Box(plate.box.x - 150, plate.box.y - 80, 400, 200)
    (again,) = detector.detect(image, part)
    assert holds(again.box, *plate.box.centre)


def test_text_detector_finds_nothing_on_an_empty_picture() -> None:
    assert TextPlateDetector(threads=2).detect(np.full((200, 300, 3), 90, np.uint8)) == []


def test_alpr_detector_finds_the_plate_of_the_near_car(image: Image, shared: SharedFolder) -> None:
    pytest.importorskip("open_image_models")
    detector = AlprDetector(find_alpr(shared("models")).detector, threads=2)
    (plate,) = near_plates(detector, image)
    assert 80 < plate.box.width < 200
    assert 0.4 <= plate.score <= 1


def test_both_detectors_find_the_same_plate(image: Image, shared: SharedFolder) -> None:
    pytest.importorskip("open_image_models")
    (text,) = near_plates(TextPlateDetector(threads=2), image)
    (alpr,) = near_plates(AlprDetector(find_alpr(shared("models")).detector, threads=2), image)
    assert holds(text.box, *alpr.box.centre)


@pytest.mark.parametrize(
    ("width", "height", "admitted"),
    [(100, 25, True), (60, 40, True), (20, 60, False), (300, 20, False), (12, 4, False)],
)
def test_geometry_admits_the_shapes_of_plates(width: int, height: int, *, admitted: bool) -> None:
    candidate = Candidate(quad(5, 5, width, height), 0.9)
    assert PlateGeometry().admits(candidate, image_width=1000) is admitted


@pytest.mark.parametrize("part", [Box(0, 0, 1280, 1), Box(0, 0, 1, 720), Box(1279, 719, 1, 1)])
def test_text_detector_finds_nothing_in_a_strip(part: Box) -> None:
    picture = np.full((720, 1280, 3), 90, np.uint8)
    assert TextPlateDetector(threads=1).detect(picture, part) == []


def test_geometry_refuses_a_line_across_the_whole_picture() -> None:
    assert not PlateGeometry().admits(Candidate(quad(0, 5, 195, 40), 0.9), image_width=200)


def test_shrink_never_enlarges() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    assert shrink(image, 960) == (image, 1.0)
    assert shrink(np.zeros((1, 400, 3), np.uint8), 80)[0].shape == (1, 80, 3)
    small, scale = shrink(image, 80)
    assert (small.shape, scale) == ((45, 80, 3), 0.5)


def test_candidate_tells_the_upright_box_around_its_corners() -> None:
    box = Candidate(((10, 12), (50, 10), (52, 20), (12, 22)), 0.5).box
    assert (box.x, box.y, box.width, box.height) == (10, 10, 42, 12)
