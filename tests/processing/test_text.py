from __future__ import annotations

import pytest

from processing.text import is_plate, normalise, plausibility


@pytest.mark.parametrize(
    "raw", ["AB12 CDE", "34A-368.37", "1Z7:5233", "M-AB 1234", "8clv343", "12345", "3B9:7236"]
)
def test_plates_are_plates(raw: str) -> None:
    assert is_plate(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "A1",
        "PARKING",
        "ABCDEFGH12",
        "12:34:56",
        "08:15",
        "2026-03-14",
        "2014-05-13 07:41:21",
        "14/03/2026",
        "20260314",
        "14.03.26",
    ],
)
def test_words_clocks_and_dates_are_no_plates(raw: str) -> None:
    assert not is_plate(raw)


def test_a_word_is_a_plate_where_only_plates_stand() -> None:
    assert is_plate("BIMMIAN", worded=True)
    assert not is_plate("12:34", worded=True)


def test_normalised_text_keeps_letters_and_digits_only() -> None:
    assert normalise("ab-12 ·cde联") == "AB12CDE"


def test_numbers_are_less_plausible_than_mixed_texts() -> None:
    assert plausibility("17174") < plausibility("205014")
    assert plausibility("205014") < plausibility("AB12") < plausibility("AB12CDE") == 1
