from __future__ import annotations

import pytest

from processing.evaluate import (
    InvalidLabels,
    Label,
    Outcome,
    calibration_error,
    read_labels,
    score,
)
from processing.result import Box, Plate


def plate(text: str, confidence: float = 0.9, box: Box | None = None) -> Plate:
    return Plate(text, confidence, 0.0, 0.0, 1, box)


def image(label: Label, *plates: Plate) -> Outcome:
    return Outcome((label,), plates, 0.0, 0.5)


def test_labels_are_read_by_file_with_their_places() -> None:
    lines = ["file,x,y,width,height,text", "a.jpg,1,2,30,10,ab-12", "v.mp4,,,,,CD34", "v.mp4,,,,,"]
    assert read_labels(lines) == {
        "a.jpg": (Label("AB12", Box(1, 2, 30, 10)),),
        "v.mp4": (Label("CD34"),),
    }
    assert read_labels(["text,file", ",empty.mp4"]) == {"empty.mp4": ()}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["name,text", "a.jpg,AB12"], "Expected the columns file, text, got name, text"),
        ([], "Expected the columns file, text, got $"),
        (["file,text", "../a.jpg,AB12"], "Line 2: expected a path below the folder"),
        (["file,text", "/a.jpg,AB12"], "Line 2: expected a path below the folder"),
        (["file,text,x,y,width,height", "a,AB12,1,2,3,wide"], "Line 2: expected numbers as x, y"),
        (["file,text,x,y,width,height", "a,AB12,1,2,3,"], "Line 2: expected numbers as x, y"),
        (["file,text,x,y,width,height", "a,AB12,1,2,3,inf"], "Line 2: expected numbers as x, y"),
    ],
)
def test_labels_of_another_form_are_refused(lines: list[str], sentence: str) -> None:
    with pytest.raises(InvalidLabels, match=sentence):
        read_labels(lines)


def test_the_first_plate_of_an_image_counts() -> None:
    right = image(Label("AB12CDE"), plate("AB12CDE"), plate("XY99ZZZ"))
    second = image(Label("AB12CDE"), plate("XY99ZZZ"), plate("AB12CDE"))
    nothing = image(Label("AB12CDE"))
    found = score([right, second, nothing, nothing])
    assert (found.labels, found.exact) == (4, 0.25)
    assert found.seconds_per_image == 0.5
    assert (found.speed, found.false_per_minute) == (None, None)


def test_the_error_rate_counts_characters() -> None:
    one_wrong = image(Label("AB12CDE"), plate("A812CDE"))
    nothing = image(Label("XYZ"))
    assert score([one_wrong, nothing]).error_rate == pytest.approx(4 / 10)


def test_recall_is_by_place_whatever_was_read() -> None:
    label = Label("AB12CDE", Box(100, 100, 100, 25))
    found = score(
        [
            image(label, plate("WRONG1", box=Box(105, 98, 95, 30))),
            image(label, plate("AB12CDE", box=Box(400, 100, 100, 25))),
        ]
    )
    assert (found.recall, found.false_plates) == (0.5, 0)
    assert score([image(Label("AB12CDE"), plate("AB12CDE"))]).recall is None


def test_a_video_is_right_by_its_set_of_plates_and_wrong_by_each_other() -> None:
    labels = (Label("AA11AAA"), Label("BB22BBB"))
    video = Outcome(labels, (plate("BB22BBB"), plate("CC33CCC"), plate("AA11AAA")), 2.0, 60.0)
    found = score([video, Outcome((), (plate("DD44DDD"),), 2.0, 20.0)])
    assert (found.exact, found.false_plates, found.false_per_minute) == (1.0, 2, 0.5)
    assert found.speed == 3.0


def test_calibration_is_the_distance_of_confidence_from_truth() -> None:
    assert calibration_error([]) is None
    assert calibration_error([(0.9, True)] * 9 + [(0.9, False)]) == pytest.approx(0)
    assert calibration_error([(1.0, False)] * 3) == 1
    assert calibration_error([(0.95, True), (0.15, True)]) == pytest.approx((0.05 + 0.85) / 2)


def test_nothing_to_measure_gives_no_figures() -> None:
    assert set(score([]).to_json().values()) == {0, None}
