from __future__ import annotations

import cv2
import numpy as np

from processing.crop import View, cut, picture
from tests.processing.doubles import quad


def test_a_slanted_plate_is_seen_from_the_front() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    corners = ((60.0, 60.0), (220.0, 90.0), (210.0, 130.0), (50.0, 100.0))
    cv2.fillConvexPoly(image, np.array(corners, np.int32), (255, 255, 255))
    plate = cut(image, corners)
    assert plate.shape[1] > 3 * plate.shape[0]
    assert float(plate[3:-3, 3:-3].mean()) > 250


def test_margin_widens_each_side_by_a_share() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    assert cut(image, quad(50, 50, 100, 50)).shape == (50, 100, 3)
    assert cut(image, quad(50, 50, 100, 50), (0.1, 0.2)).shape == (70, 120, 3)


def test_nothing_is_made_up_beyond_the_border() -> None:
    image = np.full((40, 60, 3), 7, np.uint8)
    assert cut(image, quad(-10, -5, 40, 20), (0.1, 0.1)).shape == (17, 34, 3)
    assert cut(image, quad(40, 30, 40, 20)).shape == (10, 20, 3)


def test_a_slanted_plate_at_the_border_is_cut_all_the_same() -> None:
    image = np.full((40, 60, 3), 7, np.uint8)
    plate = cut(image, ((-10, -5), (30, -4), (30, 16), (-10, 15)), (0.1, 0.1))
    assert plate.shape[1] > plate.shape[0]
    assert set(plate.ravel().tolist()) == {7}


def test_a_picture_shows_the_plate_with_some_of_its_surroundings() -> None:
    image = np.full((400, 2000, 3), 90, np.uint8)
    shown = cv2.imdecode(np.frombuffer(picture(image, quad(200, 100, 100, 50)), np.uint8), 1)
    assert shown is not None
    assert shown.shape == (80, 124, 3)


def test_a_picture_of_a_large_plate_is_made_smaller() -> None:
    image = np.full((400, 2000, 3), 90, np.uint8)
    shown = cv2.imdecode(np.frombuffer(picture(image, quad(200, 100, 1600, 200)), np.uint8), 1)
    assert shown is not None
    assert shown.shape[1] == 480


def test_a_view_adds_or_takes_away_at_the_sides() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    assert View((0.1, -0.1)).of(image, quad(50, 50, 100, 50)).shape == (40, 120, 3)


def test_a_stretched_view_uses_the_full_range_without_colour() -> None:
    image = np.full((60, 120, 3), (90, 100, 110), np.uint8)
    image[:, 60:] = (120, 130, 140)
    seen = View(tone="stretched").of(image, quad(0, 0, 120, 60))
    assert (int(seen.min()), int(seen.max())) == (0, 255)
    assert (seen[..., 0] == seen[..., 2]).all()
    grey = View(tone="grey").of(image, quad(0, 0, 120, 60))
    assert int(grey.max()) < 150
