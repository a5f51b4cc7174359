from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from processing.gate import Gate, Glance, merged, overlap
from processing.result import Box

if TYPE_CHECKING:
    from processing.video import Image


SIZE = (1280, 720)


def road(*cars: Box) -> Image:
    """Return a grey picture with white cars."""
    image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    for car in cars:
        image[car.y : car.y + car.height, car.x : car.x + car.width] = 255
    return image


def glance(gate: Gate, image: Image, *expected: Box) -> Glance:
    gate.see(image)
    return gate.glance(expected)


def holds(box: Box, other: Box) -> bool:
    across = box.x <= other.x and other.x + other.width <= box.x + box.width
    return across and box.y <= other.y and other.y + other.height <= box.y + box.height


def test_without_keyframes_all_of_every_frame_is_looked_at() -> None:
    gate = Gate(0)
    assert all(glance(gate, road()).whole for _ in range(5))
    assert gate.changed(Box(0, 0, 10, 10))


def test_the_first_frame_and_one_of_another_size_are_looked_at_whole() -> None:
    gate = Gate(3)
    assert glance(gate, road()).whole
    assert glance(gate, np.zeros((120, 160, 3), np.uint8)).whole


def test_where_nothing_changes_nothing_is_looked_at_until_the_refresh() -> None:
    gate = Gate(3)
    seen = [glance(gate, road()) for _ in range(31)]
    assert [number for number, one in enumerate(seen) if one.whole] == [0, 30]
    assert all(one.boxes == () for one in seen)


def test_noise_is_no_change() -> None:
    gate = Gate(1)
    chance = np.random.default_rng(1)
    noisy = [
        np.clip(road() + chance.normal(0, 6, (SIZE[1], SIZE[0], 3)), 0, 255).astype(np.uint8)
        for _ in range(3)
    ]
    assert [bool(glance(gate, image).boxes) for image in noisy] == [False] * 3


def test_a_single_block_that_flickers_is_no_change() -> None:
    gate = Gate(1)
    glance(gate, road())
    assert glance(gate, road(Box(600, 304, 8, 8))).boxes == ()
    assert glance(gate, road(Box(600, 304, 32, 8))).boxes


@pytest.mark.parametrize("car", [Box(100, 300, 40, 30), Box(1200, 650, 80, 70), Box(0, 0, 30, 20)])
def test_a_car_that_appears_is_looked_at_whole_on_the_next_keyframe(car: Box) -> None:
    gate = Gate(2)
    glance(gate, road())
    assert glance(gate, road(car)).boxes == ()
    (box,) = glance(gate, road(car)).boxes
    assert holds(box, car)
    assert box.area < 0.5 * SIZE[0] * SIZE[1]


def test_between_keyframes_only_the_surroundings_of_plates_are_looked_at() -> None:
    gate = Gate(3)
    glance(gate, road())
    plate = Box(600, 400, 100, 25)
    (box,) = glance(gate, road(Box(100, 100, 60, 60)), plate).boxes
    assert holds(box, plate)
    assert box.width == 3 * plate.width


def test_a_place_is_unchanged_as_long_as_it_is_as_it_was_looked_at() -> None:
    gate = Gate(3)
    plate = Box(600, 400, 100, 25)
    glance(gate, road())
    gate.see(road())
    assert not gate.changed(plate)
    gate.see(road(plate))
    assert gate.changed(plate)
    gate.glance([plate])
    gate.see(road(plate))
    assert not gate.changed(plate)


def test_where_much_changes_all_is_looked_at() -> None:
    gate = Gate(1)
    glance(gate, road())
    assert glance(gate, road(Box(0, 0, 1280, 600))).whole


def test_a_plate_expected_beyond_the_border_is_not_looked_for() -> None:
    gate = Gate(3)
    glance(gate, road())
    assert glance(gate, road(), Box(1400, 800, 100, 25)).boxes == ()
    (box,) = glance(gate, road(), Box(1250, 700, 100, 25)).boxes
    assert (box.x + box.width, box.y + box.height) == SIZE


def test_boxes_that_overlap_become_one() -> None:
    chain = [Box(0, 0, 10, 10), Box(50, 0, 10, 10), Box(5, 0, 20, 10), Box(20, 0, 35, 10)]
    assert merged(chain) == [Box(0, 0, 60, 10)]
    assert not overlap(Box(0, 0, 10, 10), Box(10, 0, 10, 10))
