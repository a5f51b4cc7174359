"""What clients may choose, and how they are told of what they may not."""

from __future__ import annotations

import pytest

from processing.options import InvalidOption, Options


def test_nothing_chosen_leaves_it_to_the_pipeline() -> None:
    assert Options.parse({}) == Options(frame_skip=None, min_confidence=0.3)


def test_an_empty_field_of_a_form_chooses_nothing() -> None:
    assert Options.parse({"frame_skip": "", "min_confidence": " "}) == Options()


def test_other_names_are_left_alone() -> None:
    assert Options.parse({"filename": "a.mp4", "frame_skip": "2"}) == Options(frame_skip=2)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"frame_skip": "1"}, Options(frame_skip=1)),
        ({"frame_skip": "1000"}, Options(frame_skip=1000)),
        ({"min_confidence": "0"}, Options(min_confidence=0.0)),
        ({"min_confidence": "1.0"}, Options(min_confidence=1.0)),
        ({"min_confidence": ".25"}, Options(min_confidence=0.25)),
        ({"min_confidence": "1E-7"}, Options(min_confidence=1e-7)),
        ({"min_confidence": "-0.0"}, Options(min_confidence=0.0)),
    ],
)
def test_the_ends_of_the_ranges_are_in_them(given: dict[str, str], options: Options) -> None:
    assert Options.parse(given) == options


@pytest.mark.parametrize("value", ["0", "1001", "-1", "2.5", "two", "1e2", "٣", "9" * 5000])
def test_a_frame_skip_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(InvalidOption, match="frame_skip: expected an integer from 1 to 1000, got"):
        Options.parse({"frame_skip": value})


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "inf", "1e3", "1e", "high", "0x1", "٣"])
def test_a_min_confidence_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(InvalidOption, match="min_confidence: expected a number from 0 to 1, got"):
        Options.parse({"min_confidence": value})
