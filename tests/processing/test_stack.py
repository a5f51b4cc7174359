from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from processing.detect import Candidate
from processing.engines import choose
from processing.pipeline import analyse
from processing.result import Text
from processing.stack import paired, with_stacks
from tests.processing.doubles import quad
from tests.scene import paste
from tests.snapshot import SIZE, plate, snapshot, street

if TYPE_CHECKING:
    from pathlib import Path

    from processing.engines import Engine
    from tests.processing.doubles import SharedFolder

UPPER = Candidate(quad(100, 100, 80, 40), 0.9)
LOWER = Candidate(quad(96, 128, 90, 44), 0.8)


@pytest.fixture(scope="module", params=["rapidocr", "alpr"])
def engine(request: pytest.FixtureRequest, shared: SharedFolder) -> Engine:
    """Return each engine whose files lie here."""
    if request.param == "rapidocr":
        return choose("rapidocr")
    pytest.importorskip("open_image_models")
    pytest.importorskip("fast_plate_ocr")
    return choose("alpr", alpr_model_dir=shared("models"))


def joined(
    upper: str, lower: str, places: tuple[Candidate, Candidate] = (UPPER, LOWER)
) -> list[str]:
    """Return the plates of two lines that two lines give."""
    texts = [[Text(upper, 0.9)], [Text(lower, 0.7)]]
    _, read = with_stacks(places, texts)
    return [views[0].raw for views in read[2:]]


def test_two_lines_above_each_other_are_one_plate() -> None:
    candidates, texts = with_stacks(
        [UPPER, LOWER],
        [
            [Text("ABC", 0.9, (0.8, 0.9, 1.0)), Text("ABG", 0.8)],
            [Text("12-34", 0.7, (0.7,) * 4), Text("1234", 0.6)],
        ],
    )
    whole = candidates[2]
    assert whole.quad == ((100, 100), (180, 100), (186, 172), (96, 172))
    assert (whole.score, whole.joined) == (0.8, True)
    assert [text.raw for text in texts[2]] == ["ABC 12-34", "ABG 1234"]
    assert texts[2][0].confidence == pytest.approx((3 * 0.9 + 4 * 0.7) / 7)
    assert texts[2][0].characters == (0.8, 0.9, 1.0, 0.7, 0.7, 0.7, 0.7)
    assert texts[2][1].characters == ()


def test_lines_that_may_be_halves_are_looked_at_again() -> None:
    beside = Candidate(quad(500, 100, 80, 40), 0.9)
    texts = [[Text("AB", 0.9)], [Text("1234", 0.9)], [Text("CD", 0.9)]]
    assert paired([UPPER, LOWER, beside], texts) == {0, 1}


@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        ("EXIT", "12B4"),
        ("AB12CDE", "CD34"),
        ("ABC12", "1234"),
        ("12:3", "4:56"),
        ("A", "123456"),
        ("17I7", "7114"),
        ("17I", "77114"),
        ("171.7k", "(71.14"),
        ("CALIFORNIA", "1234"),
    ],
    ids=[
        "no form",
        "a plate",
        "a short plate",
        "a clock",
        "a letter",
        "a broken number",
        "digits taken for letters",
        "one line cut in two",
        "a state",
    ],
)
def test_lines_that_do_not_make_a_plate_together_stay_two(upper: str, lower: str) -> None:
    assert joined(upper, lower) == []


@pytest.mark.parametrize(
    "lower",
    [
        quad(100, 190, 80, 40),
        quad(160, 128, 80, 40),
        quad(60, 128, 220, 40),
        quad(80, 130, 100, 90),
        quad(102, 104, 80, 40),
    ],
    ids=["far below", "aside", "much wider", "much higher", "the same line"],
)
def test_lines_that_do_not_stand_like_those_of_a_plate_stay_two(
    lower: tuple[tuple[float, float], ...],
) -> None:
    first, second, third, fourth = lower
    place = Candidate((first, second, third, fourth), 0.9)
    assert joined("ABC", "1234") == ["ABC 1234"]
    assert joined("ABC", "1234", (UPPER, place)) == []


def test_halves_of_one_place_join_with_each_other_only() -> None:
    half = Candidate(LOWER.quad, 0.9, half=True)
    assert joined("ABC", "1234", (UPPER, half)) == []
    assert joined("ABC", "1234", (Candidate(UPPER.quad, 0.9, half=True), half)) == ["ABC 1234"]


@pytest.mark.parametrize("seed", [402, 406, 400])
def test_a_square_plate_is_read_as_one(engine: Engine, seed: int, tmp_path: Path) -> None:
    drawn = snapshot(seed, lines=2, hard=False)
    path = tmp_path / "square.png"
    cv2.imwrite(str(path), drawn.image)
    (found,) = analyse(path, engine.detector, engine.reader, lambda _: None).plates
    assert found.text == drawn.text


def test_two_plates_above_each_other_stay_two(tmp_path: Path) -> None:
    engine = choose("rapidocr")
    random = np.random.default_rng(5)
    image = street(random, SIZE)
    for y, text in ((170.0, "AB12CDE"), (290.0, "XYZ4567")):
        corners = np.array(quad(400, y, 160, 36), np.float32)
        cv2.rectangle(image, (330, round(y) - 40), (630, round(y) + 60), (90, 70, 60), -1)
        paste(image, plate([text], random), corners)
    path = tmp_path / "two.png"
    cv2.imwrite(str(path), image)
    found = analyse(path, engine.detector, engine.reader, lambda _: None).plates
    assert {one.text for one in found} == {"AB12CDE", "XYZ4567"}
