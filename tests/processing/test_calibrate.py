from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.calibrate import Calibration
from processing.read import AlprReader, EasyOcrReader, RapidOcrReader

READERS = [RapidOcrReader, AlprReader, EasyOcrReader]


def test_a_calibration_of_nothing_leaves_the_certainty_as_it_is() -> None:
    as_read = Calibration(offset=0, certainty=1, form=0, video=0, rarity=0)
    assert as_read.chance(0.7, form=True, frames=None) == pytest.approx(0.7)
    assert as_read.chance(0.7, form=False, frames=3) == pytest.approx(0.7)


@given(st.floats(0, 1), st.none() | st.integers(1, 1000))
def test_no_chance_is_nothing_or_everything(certainty: float, frames: int | None) -> None:
    for form in (True, False):
        assert 0 < Calibration().chance(certainty, form=form, frames=frames) < 1


def test_the_figures_are_logarithms_of_odds() -> None:
    made = Calibration(offset=0.5, certainty=2, form=0.25, video=1, rarity=-4)
    odds = 0.5 + 2 * math.log(0.9 / 0.1) + 0.25 + 1 - 4 / 8
    chance = made.chance(0.9, form=True, frames=8)
    assert chance == pytest.approx(1 / (1 + math.exp(-odds)))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_surer_or_more_often_has_a_better_chance(
    reader: type[RapidOcrReader | AlprReader | EasyOcrReader],
) -> None:
    made = reader.calibration
    sure = made.chance(0.97, form=True, frames=8)
    assert sure > made.chance(0.7, form=True, frames=8)
    assert sure > made.chance(0.97, form=False, frames=8)
    assert sure > made.chance(0.97, form=True, frames=1)
    assert sure > made.chance(0.97, form=True, frames=2) > made.chance(0.98, form=True, frames=1)
    assert made.chance(0.6, form=True, frames=1) < 0.3
