"""A video that is analysed in spans has the plates of one pass."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from processing.calibrate import Calibration
from processing.crop import View
from processing.detect import Candidate
from processing.engines import Engine, choose
from processing.errors import Unseekable
from processing.findings import Findings
from processing.gate import overlap
from processing.options import Options
from processing.pipeline import analyse
from processing.result import Text
from processing.spans import Plan, analyse_span, identity, merged, plan, split
from processing.video import frames, open_video, times
from tests.processing.doubles import quad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processing.pipeline import Progress
    from processing.result import Analysis, Box
    from processing.video import Image
    from tests.processing.doubles import SharedFolder

RATE = 10
COUNT = 120


def ignore(_: Progress) -> None:
    """Take no interest in progress."""


def write_frames(path: Path, codec: str, count: int = COUNT, fps: float = RATE) -> Path:
    """Write a video each of whose frames is another one."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (96, 64)
    )
    noise = np.random.default_rng(1)
    for index in range(count):
        writer.write(noise.integers(0, 60, (64, 96, 3), np.uint8) + np.uint8(index))
    writer.release()
    return path


def write_uneven(path: Path) -> Path:
    """Write a video in which each second frame is shown for longer and longer."""
    whole = write_frames(path.with_name("even.mkv"), "mp4v")
    packets = cv2.VideoCapture(str(whole), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    raw = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1, cv2.VIDEOWRITER_PROP_KEY_INTERVAL, 2**30]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 100.0, (96, 64), raw
    )
    index = 0
    while packets.grab():
        writer.set(cv2.VIDEOWRITER_PROP_PTS, index * 8 + index % 2 * (index // 20))
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, packets.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        writer.write(packets.retrieve()[1])
        index += 1
    writer.release()
    return path


@pytest.fixture(scope="module", params=["mkv mp4v", "mp4 mp4v", "avi MJPG", "ts mpg2", "uneven"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of each kind of container."""
    folder = tmp_path_factory.mktemp("spans")
    if request.param == "uneven":
        return write_uneven(folder / "uneven.mkv")
    ending, codec = request.param.split()
    rate = 25 if codec == "mpg2" else RATE
    return write_frames(folder / f"clip.{ending}", codec, fps=rate)


def test_the_times_of_all_frames_are_known_without_decoding_one(clip: Path) -> None:
    assert times(clip) == [frame.time for frame in frames(clip)]
    with clip.open("rb") as reader:
        assert len(times(reader)) == COUNT


def test_an_uneven_video_is_uneven(tmp_path: Path) -> None:
    shown = times(write_uneven(tmp_path / "uneven.mkv"))
    steps = {round(later - one, 3) for one, later in pairwise(shown)}
    assert len(steps) > 3


def test_a_frame_that_is_gone_to_is_the_same_as_one_that_is_come_to(clip: Path) -> None:
    come_to = list(frames(clip))
    for index in (1, 31, 60, COUNT - 1):
        with clip.open("rb") as reader, open_video(reader) as video:
            video.go_to(index, come_to[index].time)
            rest = list(video.frames())
        assert [frame.index for frame in rest] == list(range(index, COUNT))
        assert [frame.time for frame in rest] == [frame.time for frame in come_to[index:]]
        assert np.array_equal(rest[0].image, come_to[index].image)


def test_a_moment_at_which_no_frame_is_shown_is_not_gone_to(clip: Path) -> None:
    with open_video(clip) as video, pytest.raises(Unseekable):
        video.go_to(30, times(clip)[30] + 0.007)


def test_a_container_that_tells_no_times_cannot_be_searched(tmp_path: Path) -> None:
    with pytest.raises(Unseekable):
        times(write_frames(tmp_path / "clip.mpg", "mpg1", fps=25))


def test_spans_are_whole_and_begin_where_everything_is_looked_at() -> None:
    shown = [index / 10 for index in range(400)]
    found = list(split(shown, step=30, seconds=8.0))
    begins = [(span.first.index, span.begin.index, span.end and span.end.index) for span in found]
    assert begins == [(0, 0, 90), (60, 90, 180), (150, 180, 270), (240, 270, None)]


def test_what_comes_before_a_span_is_seen_for_some_seconds() -> None:
    shown = [index / 100 for index in range(4000)]
    for span in list(split(shown, step=30, seconds=8.0))[1:]:
        assert span.begin.time - span.first.time >= 3.0
        assert span.first.index % 30 == 0


@pytest.mark.parametrize("count", [0, 1, 150])
def test_a_video_that_is_too_short_is_one_span_at_most(count: int) -> None:
    shown = [index / 10 for index in range(count)]
    assert len(list(split(shown, step=30, seconds=8.0))) <= 1


class PassingDetector:
    """Find a plate wherever the picture is bright, as a car that comes and goes."""

    name = "passing"
    keyframes = 0
    versions: dict[str, str] = {}  # noqa: RUF012  as the protocol has it

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        level = int(image.mean())
        # Two cars at once, of which one passes and the other one stands for long.
        passing = [Candidate(quad(level % 40, 10, 40, 12), 0.9)] if level % 50 < 35 else []
        return [*passing, Candidate(quad(40, 40, 40, 12), 0.8)] if level > 70 else passing


class LevelReader:
    """Read what the brightness tells, now and then wrongly."""

    name = "level"
    views = (View(), View(tone="grey"), View(tone="stretched"))
    calibration = Calibration()
    versions: dict[str, str] = {}  # noqa: RUF012

    def read(self, crops: Sequence[Image]) -> list[Text]:
        return [self._text(crop) for crop in crops]

    def _text(self, crop: Image) -> Text:
        level = int(crop.mean())
        if level > 240:
            return Text("XKZ9876", 0.9)
        text = f"AB{level // 50}2CDE"
        return Text(text if level % 7 else text.replace("C", "G"), 0.6 + level % 3 / 10)


@pytest.fixture
def passing() -> Engine:
    return Engine(PassingDetector(), LevelReader(), "passing", "a test asked for it")


def in_one_pass(source: Path, engine: Engine, options: Options) -> Analysis:
    return analyse(
        source,
        engine.detector,
        engine.reader,
        ignore,
        every=options.frame_skip,
        min_confidence=options.min_confidence,
        reason=engine.reason,
    )


def in_spans(source: Path, engine: Engine, options: Options, seconds: float) -> Analysis:
    """Analyse each span as if another process did, the last one first."""
    found = plan(source, engine, options, seconds)
    assert found is not None
    found = Plan.from_json(json.loads(json.dumps(found.to_json())))
    assert len(found.spans) > 1
    brought = {}
    for number in reversed(range(len(found.spans))):
        with source.open("rb") as reader:
            findings = analyse_span(reader, engine, found.every, found.spans[number], ignore)
        brought[number] = Findings.from_json(json.loads(json.dumps(findings.to_json())))
    ordered = [brought[number] for number in range(len(found.spans))]
    return merged(ordered, found, engine, options, seconds=1.0)


def assert_same(one: Analysis, other: Analysis) -> None:
    assert other.crops == one.crops
    assert replace(other, timings={}) == replace(one, timings={})
    assert set(other.timings) == set(one.timings)


@pytest.mark.parametrize(
    "chosen", [{"frame_skip": "1"}, {"frame_skip": "2", "min_confidence": "0.5"}]
)
def test_spans_have_the_plates_of_one_pass_and_all_else(
    clip: Path, passing: Engine, chosen: dict[str, str]
) -> None:
    options = Options.parse(chosen)
    whole = in_one_pass(clip, passing, options)
    assert whole.plates
    assert_same(whole, in_spans(clip, passing, options, 1.5))


def test_the_real_toll_booth_in_spans_has_the_plates_of_one_pass(shared: SharedFolder) -> None:
    pytest.importorskip("open_image_models")
    pytest.importorskip("fast_plate_ocr")
    path = shared("videos/parkpow_cars.mp4")
    engine, options = choose("alpr", alpr_model_dir=shared("models")), Options(frame_skip=6)
    whole, parts = in_one_pass(path, engine, options), in_spans(path, engine, options, 7.0)
    assert len(whole.plates) == 3
    assert_same(whole, parts)


class WatchfulDetector(PassingDetector):
    """Take long, so that it is shown what changes."""

    keyframes = 3

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        found = [Candidate(quad(60, 40, 30, 12), 0.8)]
        level = int(image[:, :40].mean())
        if level % 60 < 40:
            found.append(Candidate(quad(5, 10, 30, 12), 0.9))
        return [one for one in found if within is None or overlap(one.box, within)]


def test_a_plate_that_stands_for_long_is_held_over_the_borders_of_spans(
    tmp_path: Path, passing: Engine
) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), RATE, (96, 64)
    )
    for index in range(COUNT):
        picture = np.full((64, 96, 3), 252, np.uint8)
        picture[:, :40] = 2 * index
        writer.write(picture)
    writer.release()
    watchful, options = replace(passing, detector=WatchfulDetector()), Options(frame_skip=1)
    whole = in_one_pass(path, watchful, options)
    parts = in_spans(path, watchful, options, 2.5)
    stood = next(plate for plate in whole.plates if plate.last_seen - plate.first_seen > 11)
    # It was read but now and then, and held in between.
    assert stood.detections - len(stood.places) > COUNT // 3
    assert [plate.sightings for plate in parts.plates if plate.text == stood.text] == [
        stood.sightings
    ]
    for one, other in zip(whole.plates, parts.plates, strict=True):
        assert (other.text, other.last_seen) == (one.text, one.last_seen)
        # What changes slowly is looked at again when a span begins.
        assert other.detections == pytest.approx(one.detections, rel=0.1)
        assert other.confidence == pytest.approx(one.confidence, abs=0.1)
    assert (parts.frames, parts.frames_analysed) == (whole.frames, whole.frames_analysed)


def test_progress_counts_the_frames_of_the_span_alone(clip: Path, passing: Engine) -> None:
    found = plan(clip, passing, Options(frame_skip=1), 1.5)
    assert found is not None
    told: list[Progress] = []
    analyse_span(clip, passing, found.every, found.spans[1], told.append)
    counts = [progress.done_frames for progress in told]
    assert counts[-1] == found.length(1)
    assert counts == sorted(counts)
    # Before its own frames there is a sign of life for each one.
    assert counts.count(0) == found.spans[1].begin.index - found.spans[1].first.index
    assert sum(found.length(number) for number in range(len(found.spans))) == COUNT


def test_a_short_video_and_a_still_image_are_not_split(
    clip: Path, passing: Engine, tmp_path: Path
) -> None:
    assert plan(clip, passing, Options(), 60.0) is None
    still = tmp_path / "still.png"
    still.write_bytes(bytes(cv2.imencode(".png", np.zeros((64, 96, 3), np.uint8))[1]))
    assert plan(still, passing, Options(), 0.1) is None


def test_damage_in_one_span_is_told_of_the_whole(tmp_path: Path, passing: Engine) -> None:
    path = write_frames(tmp_path / "clip.mp4", "mp4v")
    damaged = bytearray(path.read_bytes())
    start, end = len(damaged) * 61 // 100, len(damaged) * 64 // 100
    damaged[start:end] = bytes(end - start)
    path.write_bytes(damaged)
    options = Options(frame_skip=1)
    whole, found = in_one_pass(path, passing, options), in_spans(path, passing, options, 1.5)
    assert [plate.text for plate in found.plates] == [plate.text for plate in whole.plates]
    assert any("gave no picture" in warning for warning in found.warnings)


def test_a_span_whose_first_frame_is_damaged_cannot_be_begun(
    tmp_path: Path, passing: Engine
) -> None:
    path = write_frames(tmp_path / "clip.mp4", "mp4v")
    damaged = bytearray(path.read_bytes())
    start, end = len(damaged) // 2, len(damaged) * 6 // 10
    damaged[start:end] = bytes(end - start)
    path.write_bytes(damaged)
    with pytest.raises(Unseekable):
        in_spans(path, passing, Options(frame_skip=1), 1.5)


def test_another_engine_is_told_from_this_one(passing: Engine) -> None:
    other = replace(passing, reader=FasterReader())
    assert identity(other) != identity(passing)


class FasterReader(LevelReader):
    """Be another version."""

    versions: dict[str, str] = {"level": "2"}  # noqa: RUF012
