"""What is found of cars that come, stop, cross and go; none is lost by looking at parts only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from processing.engines import choose
from processing.pipeline import analyse
from tests.traffic import Route, Stop, Weather, film

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from processing.detect import Candidate, PlateDetector
    from processing.engines import Engine
    from processing.result import Box
    from processing.video import Image
    from tests.processing.doubles import SharedFolder


@dataclass(frozen=True, slots=True)
class Ungated:
    """Look at all of every frame with another's eyes."""

    eyes: PlateDetector
    keyframes: int = 0

    @property
    def name(self) -> str:
        return self.eyes.name

    @property
    def versions(self) -> Mapping[str, str]:
        return self.eyes.versions

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        return self.eyes.detect(image, within, thorough=thorough)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return the engine whose detector is gated."""
    return choose("rapidocr")


@pytest.fixture(scope="module")
def alpr(shared: SharedFolder) -> Engine:
    """Return the alpr engine where its files lie."""
    pytest.importorskip("open_image_models")
    pytest.importorskip("fast_plate_ocr")
    return choose("alpr", alpr_model_dir=shared("models"))


def found(engine: Engine, clip: Path, detector: PlateDetector) -> set[str]:
    """Return the plates of a clip."""
    return {one.text for one in analyse(clip, detector, engine.reader, lambda _: None).plates}


def route(text: str, *stops: tuple[float, float, float, float]) -> Route:
    return Route((text,), tuple(Stop(*stop) for stop in stops))


# Seconds, x, y and width of the plate. What comes first here is covered by what comes later.
COMES_STOPS_AND_GOES = route(
    "AB23CDE", (0, -50, 230, 90), (1.2, 300, 230, 90), (4, 300, 230, 90), (5.5, 690, 230, 90)
)
CROSSES_BEFORE_IT = route("XYZ4567", (1.8, 720, 290, 100), (3.8, -80, 290, 100))
PARKED = route("DEF456", (0, 560, 70, 80), (8, 560, 70, 80))
FROM_AFAR = route("KL89MNP", (2, 140, 60, 30), (4.5, 110, 110, 100))
FROM_AFAR_AGAIN = route("KL89MNP", (6, 60, 110, 100), (7.4, 260, 120, 80))
SHORTLY = route("TU67VWX", (6, 690, 300, 90), (6.9, 250, 310, 110))


def test_what_enters_stops_crosses_comes_back_and_parks_is_found_with_the_gate(
    engine: Engine, tmp_path: Path
) -> None:
    routes = [
        PARKED,
        FROM_AFAR,
        FROM_AFAR_AGAIN,
        COMES_STOPS_AND_GOES,
        CROSSES_BEFORE_IT,
        SHORTLY,
    ]
    clip = tmp_path / "traffic.avi"
    film(clip, routes, 7.5, Weather(clock="14:25:"))
    all_of_them = {one.text for one in routes}
    assert found(engine, clip, Ungated(engine.detector)) == all_of_them
    assert found(engine, clip, engine.detector) == all_of_them


def test_a_plate_of_two_lines_is_found_with_the_gate_and_no_part_of_it(
    engine: Engine, tmp_path: Path
) -> None:
    square = Route(
        ("ABC", "2345"),
        (Stop(0.5, -60, 180, 90), Stop(2, 320, 190, 90), Stop(4, 330, 190, 100)),
    )
    clip = tmp_path / "square.avi"
    film(clip, [square], 4.5)
    assert found(engine, clip, engine.detector) == {"ABC2345"}


def test_a_camera_s_name_and_clock_burnt_into_the_picture_are_no_plates(
    engine: Engine, tmp_path: Path
) -> None:
    clip = tmp_path / "named.avi"
    passing = route("TU67VWX", (0.5, 690, 200, 90), (3.5, -60, 230, 110))
    film(clip, [passing], 5, Weather(clock="CAM12B4   14:25:"))
    assert found(engine, clip, engine.detector) == {"TU67VWX"}


def test_alpr_finds_no_camera_s_name_and_no_part_of_a_plate_that_is_half_covered(
    alpr: Engine, tmp_path: Path
) -> None:
    clip = tmp_path / "traffic.avi"
    routes = [COMES_STOPS_AND_GOES, CROSSES_BEFORE_IT]
    film(clip, routes, 5.5, Weather(clock="CAM12B4   14:25:"))
    assert found(alpr, clip, alpr.detector) == {one.text for one in routes}


@pytest.mark.soak
def test_the_gate_loses_nothing_of_the_real_toll_booth(
    engine: Engine, shared: SharedFolder
) -> None:
    clip = shared("videos/parkpow_cars.mp4")
    shown = {"34A36837", "34A23126", "89C20339"}
    assert shown <= found(engine, clip, Ungated(engine.detector))
    assert found(engine, clip, engine.detector) == shown
