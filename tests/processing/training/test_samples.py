from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pytest

from processing.recognition import CLASSES, SHAPE
from processing.training.dice import Dice
from processing.training.layouts import FORMS, layout
from processing.training.plate import run
from processing.training.samples import Samples
from processing.training.strokes import CHARACTERS, Pen
from processing.training.typeface import HEIGHT, Drawn

SEEN = range(300)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.of([], seed=5)


def test_a_seed_and_a_number_tell_a_sample_whatever_was_drawn_before(samples: Samples) -> None:
    first = [samples.sample(number) for number in range(20)]
    again = Samples.of([], seed=5)
    for number in reversed(range(20)):
        picture, text = again.sample(number)
        assert text == first[number][1]
        assert np.array_equal(picture, first[number][0])


def test_another_seed_gives_other_samples(samples: Samples) -> None:
    other = Samples.of([], seed=6)
    texts = {samples.sample(number)[1] for number in SEEN}
    assert len(texts) > 0.9 * len(SEEN)
    assert sum(other.sample(number)[1] in texts for number in SEEN) < 0.1 * len(SEEN)


def test_pictures_have_the_shape_that_the_network_sees(samples: Samples) -> None:
    for number in SEEN:
        picture, _ = samples.sample(number)
        assert picture.shape == SHAPE
        assert picture.dtype == np.uint8


def test_every_text_can_be_told_in_the_columns_there_are(samples: Samples) -> None:
    for number in SEEN:
        _, text = samples.sample(number)
        assert set(text) <= set(CLASSES)
        # Between two of the same there has to be a column of nothing.
        twice = sum(one == other for one, other in pairwise(text))
        assert len(text) + twice <= SHAPE[1] // 4


def test_what_is_to_be_read_is_what_stands_there_but_for_separators_of_plates() -> None:
    for number in SEEN:
        told = layout(Dice.of(number))
        left_out = " " if told.style == "sign" else " -"
        assert told.label == "".join(one for one in told.text if one not in left_out)


def test_every_kind_of_plate_comes_up() -> None:
    assert {layout(Dice.of(number)).style for number in SEEN} == set(FORMS)


def test_a_text_is_drawn_with_each_of_its_characters_apart() -> None:
    for number in range(60):
        dice = Dice.of(7, number)
        text = layout(dice).text or "X"
        inked = run(text, Drawn(Pen.of(dice)), dice).mask.max(axis=0) > 96
        groups = [ink for ink, _ in groupby(inked) if ink]
        assert len(groups) == len(text.replace(" ", "")), text


def test_characters_of_one_pen_differ_from_each_other() -> None:
    for number in range(20):
        pen = Pen.of(Dice.of(9, number))
        drawn = {
            (mask.shape, mask.tobytes())
            for mask in (pen.draw(character, HEIGHT) for character in CHARACTERS)
        }
        # Only 0 and O may be alike.
        assert len(drawn) >= len(CHARACTERS) - 1
