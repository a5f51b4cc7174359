from __future__ import annotations

import numpy as np
import pytest

from processing.recognition import CLASSES, SHAPE, decode, shown


def columns(*told: tuple[str, float]) -> np.ndarray:
    """Return probabilities of columns that tell these characters, a blank for nothing."""
    found = np.zeros((len(told), len(CLASSES) + 1), np.float32)
    for column, (character, sure) in zip(found, told, strict=True):
        column[CLASSES.index(character) + 1 if character.strip() else 0] = sure
    return found


def test_neighbouring_columns_of_one_class_are_one_character_as_sure_as_the_surest() -> None:
    text, sure = decode(columns(("A", 0.5), ("A", 0.75), (" ", 1), ("7", 0.5)))
    assert (text, sure) == ("A7", (0.75, 0.5))


def test_a_character_that_stands_twice_is_told_apart_by_nothing_between() -> None:
    assert decode(columns(("8", 1), (" ", 1), ("8", 1)))[0] == "88"


def test_no_columns_of_characters_are_no_text() -> None:
    assert decode(columns((" ", 1), (" ", 1))) == ("", ())


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (200, 30), (64, 256)])
def test_a_crop_of_any_size_is_shown_grey_in_the_networks_own(size: tuple[int, int]) -> None:
    crop = np.full((*size, 3), 90, np.uint8)
    assert shown(crop).shape == SHAPE
    assert set(shown(crop).ravel()) == {90}
