from __future__ import annotations

import random  # noqa: TC003 - Hypothesis reads the annotation
from dataclasses import replace
from string import ascii_uppercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.result import Box, Reading, Text
from processing.vote import settled, vote
from tests.processing.doubles import reading

TEXTS = st.text(ascii_uppercase + digits, min_size=1, max_size=10)
READINGS = st.builds(reading, TEXTS, st.integers(0, 99), st.floats(0, 1))


@pytest.mark.parametrize(
    ("texts", "winner"),
    [
        (["AB12CDE"], "AB12CDE"),
        (["AB12CDE", "AB12CDE", "A812CDE"], "AB12CDE"),
        (["8B12CDE", "AB12CDF", "AB12ODE", "AB1ZCDE"], "AB12CDE"),
        (["34A36837", "34A36837", "34A369", "34A36822"], "34A36837"),
        (["9C20339", "89C20339", "89C20339"], "89C20339"),
        (["AB12CDE", "AB12CDE", "IAB12CDE"], "AB12CDE"),
        (["AB12CDE", "AB2CDE", "AB12CE"], "AB12CDE"),
    ],
)
def test_vote_finds_the_text_most_agree_on(texts: list[str], winner: str) -> None:
    assert vote([reading(text) for text in texts]).text == winner


def test_one_sure_reading_outweighs_two_unsure_ones() -> None:
    unsure = [reading("AB12CDF", confidence=0.3), reading("AB12CDF", confidence=0.3)]
    assert vote([reading("AB12CDE", confidence=0.99), *unsure]).text == "AB12CDE"


def test_a_character_the_reader_doubts_loses_to_one_it_is_sure_of() -> None:
    box = Box(0, 0, 100, 25)
    doubtful = Reading(0, 0.0, box, "AB12", 0.9, (0.99, 0.2, 0.99, 0.99))
    sure = Reading(1, 0.1, box, "A812", 0.9, (0.6, 0.9, 0.6, 0.6))
    assert vote([doubtful, sure]).text == "A812"


def test_disagreement_lowers_the_confidence() -> None:
    agreed = vote([reading("AB12CDE")] * 3)
    disputed = vote([reading("AB12CDE"), reading("AB12CDE"), reading("XB12CDE")])
    assert disputed.text == agreed.text
    assert disputed.confidence < agreed.confidence


def test_certainty_is_that_of_the_weakest_characters_more_than_of_the_others() -> None:
    box = Box(0, 0, 100, 25)
    sure = Reading(0, 0.0, box, "AB12", 0.9, (0.9, 0.9, 0.9, 0.9))
    weak = Reading(0, 0.0, box, "AB12", 0.9, (1.0, 1.0, 1.0, 0.6))
    assert vote([sure]).certainty == pytest.approx(0.9)
    assert vote([weak]).certainty == pytest.approx(0.6**0.25)
    assert vote([weak]).certainty < vote([sure]).certainty
    # Who read another character was not sure of this one at all.
    half = vote([sure, Reading(1, 0.1, box, "AB17", 0.5, (0.9, 0.9, 0.9, 0.1))])
    assert half.text == "AB12"
    assert half.certainty == pytest.approx((0.9**3 * 0.45) ** 0.25)


def test_views_of_one_reading_share_its_vote() -> None:
    views = (Text("AB12CDF", 0.9), Text("AB12-CDF", 0.9), Text("AB12CDF", 0.9))
    thrice = replace(reading("AB12CDF"), views=views)
    assert vote([thrice, reading("AB12CDE"), reading("AB12CDE")]).text == "AB12CDE"
    assert vote([thrice]).text == "AB12CDF"


def test_what_else_was_read_is_told_with_its_share() -> None:
    verdict = vote([reading("AB12CDE")] * 3 + [reading("A812CDE")])
    ((rival, share),) = verdict.rivals
    assert (rival, round(share, 3)) == ("A812CDE", 0.25)


def test_a_text_of_no_form_gives_way_to_one_near_it_that_has_one() -> None:
    seen = [reading("MHGV4L")] * 2 + [reading("MH6V4L")]
    assert vote(seen).text == "MHGV4L"
    assert settled(vote(seen)) == "MH6V4L"
    assert settled(vote([reading("HLOKTY1")] * 3 + [reading("HL8KTY1")])) == "HLOKTY1"


def test_one_view_of_four_does_not_win_by_its_form() -> None:
    seen = [reading("YF2U68")] * 3 + [reading("YF2U6B")]
    assert settled(vote(seen)) == "YF2U68"


def test_of_look_alikes_that_were_both_read_the_commoner_form_wins() -> None:
    seen = [reading("0ZR2224")] * 2 + [reading("OZR2224")]
    assert vote(seen).text == "0ZR2224"
    assert settled(vote(seen)) == "OZR2224"
    assert settled(vote([reading("0ZR2224")])) == "0ZR2224"


def test_vote_without_readings_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one reading"):
        vote([])


@given(TEXTS, st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_identical_readings_give_their_text(text: str, confidences: list[float]) -> None:
    assert vote([reading(text, confidence=each) for each in confidences]).text == text


@given(st.lists(READINGS, min_size=1, max_size=8))
def test_confidence_lies_between_nothing_and_certainty(readings: list[Reading]) -> None:
    assert 0 <= vote(readings).confidence <= 1


@given(st.lists(READINGS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_of_readings_does_not_matter(readings: list[Reading], chance: random.Random) -> None:
    shuffled = list(readings)
    chance.shuffle(shuffled)
    assert vote(shuffled).text == vote(readings).text


@given(TEXTS, st.lists(READINGS, max_size=3))
def test_a_clear_majority_wins_over_any_minority(text: str, others: list[Reading]) -> None:
    majority = [reading(text, confidence=1.0)] * (2 * len(others) + 1)
    assert vote([*others, *majority]).text == text
