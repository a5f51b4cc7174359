from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from processing.crop import View
from processing.detect import Candidate
from processing.engines import choose
from processing.errors import EmptyVideo, NotAVideo
from processing.look import best_readings
from processing.pipeline import Progress, analyse
from processing.result import Box, Part, Text
from processing.video import Frame
from tests.processing.doubles import FixedDetector, FixedReader, quad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processing.engines import Engine
    from processing.result import Analysis
    from processing.video import Image, Source
    from tests.processing.doubles import SharedFolder
    from tests.scene import Shown


def ignore(_: Progress) -> None:
    """Take no interest in progress."""


@pytest.fixture(scope="module")
def rapidocr() -> Engine:
    """Return the default engine."""
    return choose("rapidocr", threads=2)


@pytest.fixture(scope="module")
def alpr(shared: SharedFolder) -> Engine:
    """Return the alpr engine where its files lie."""
    pytest.importorskip("open_image_models")
    pytest.importorskip("fast_plate_ocr")
    return choose("alpr", alpr_model_dir=shared("models"), threads=2)


def run(engine: Engine, source: Source, every: int | None = None) -> Analysis:
    return analyse(
        source, engine.detector, engine.reader, ignore, every=every, reason=engine.reason
    )


def texts(analysis: Analysis) -> list[str]:
    return [plate.text for plate in analysis.plates]


def test_default_engine_reads_a_drawn_scene_exactly(
    rapidocr: Engine, small_clip: Path, small_truth: list[Shown]
) -> None:
    analysis = run(rapidocr, small_clip)
    assert texts(analysis) == [shown.text for shown in small_truth]
    for plate, shown in zip(analysis.plates, small_truth, strict=True):
        assert shown.first_seen - 0.25 <= plate.first_seen < plate.last_seen
        assert plate.last_seen <= shown.last_seen + 0.25
        assert plate.confidence > 0.8
    assert (analysis.reader, analysis.detector) == ("rapidocr", "rapidocr-text")
    assert analysis.reader_reason == "rapidocr was chosen by name"
    assert {"rapidocr", "onnxruntime"} <= set(analysis.engines)
    assert {"decode", "detect", "read", "total"} <= set(analysis.timings)


def test_alpr_reads_a_drawn_scene_exactly(
    alpr: Engine, small_clip: Path, small_truth: list[Shown]
) -> None:
    assert texts(run(alpr, small_clip)) == [shown.text for shown in small_truth]


def test_default_engine_reads_the_shipped_clip_exactly(rapidocr: Engine, demo_clip: Path) -> None:
    truth = json.loads(demo_clip.with_suffix(".json").read_text(encoding="utf-8"))
    analysis = run(rapidocr, demo_clip, every=8)
    assert sorted(texts(analysis)) == sorted(plate["text"] for plate in truth["plates"])


def test_alpr_reads_the_shipped_clip_exactly(alpr: Engine, demo_clip: Path) -> None:
    truth = json.loads(demo_clip.with_suffix(".json").read_text(encoding="utf-8"))
    assert sorted(texts(run(alpr, demo_clip, every=8))) == sorted(
        plate["text"] for plate in truth["plates"]
    )


def test_alpr_reads_the_real_toll_booth_and_no_clock(alpr: Engine, shared: SharedFolder) -> None:
    analysis = run(alpr, shared("videos/parkpow_cars.mp4"), every=5)
    assert texts(analysis)[:2] == ["34A36837", "34A23126"]
    assert set(texts(analysis)) <= {"34A36837", "34A23126", "89C20339"}


def test_alpr_is_sure_of_nothing_where_plates_cannot_be_read(
    alpr: Engine, shared: SharedFolder
) -> None:
    analysis = run(alpr, shared("videos/intel_car-detection.mp4"), every=10)
    assert [plate for plate in analysis.plates if plate.confidence >= 0.5] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("br/AYO9034.jpg", "AYO9034"), ("us/wts-lg-000043.jpg", "FB8R4T"), ("eu/eu3.jpg", "FWE50")],
)
def test_alpr_reads_real_stills(alpr: Engine, shared: SharedFolder, name: str, text: str) -> None:
    analysis = run(alpr, shared(f"plates/{name}"))
    assert texts(analysis)[0] == text
    assert (analysis.frames, analysis.frames_analysed, analysis.duration) == (1, 1, 0.0)


def test_default_engine_reads_a_still_from_a_reader(rapidocr: Engine, demo_clip: Path) -> None:
    capture = cv2.VideoCapture(str(demo_clip))
    capture.set(cv2.CAP_PROP_POS_MSEC, 2500)
    image = capture.read()[1]
    analysis = run(rapidocr, BytesIO(bytes(cv2.imencode(".png", image)[1])))
    truth = json.loads(demo_clip.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(texts(analysis)) & {plate["text"] for plate in truth["plates"]}


def test_progress_rises_to_the_true_end(tiny_clip: Path) -> None:
    told: list[Progress] = []
    analyse(tiny_clip, FixedDetector(), FixedReader(), told.append, every=4)
    assert [one.done_frames for one in told] == [1, 5, 9, 13, 17, 20]
    assert {one.total_frames for one in told} == {20}
    assert [one.fraction for one in told] == sorted(one.fraction for one in told)
    assert told[-1] == Progress(20, 20, 1, 5, ("AB12CDE",))
    assert told[-1].fraction == 1


def test_each_plate_has_a_picture_that_is_not_in_the_document(tiny_clip: Path) -> None:
    analysis = analyse(tiny_clip, FixedDetector(), FixedReader(), ignore)
    (shot,) = analysis.crops
    assert shot.startswith(b"\xff\xd8\xff")
    assert "crop" not in json.dumps(analysis.to_json())


def test_progress_of_an_unknown_total_is_nothing_rather_than_wrong() -> None:
    assert Progress(7, 0, 0, 0).fraction == 0


def test_what_progress_raises_ends_the_analysis(tiny_clip: Path) -> None:
    detector = FixedDetector()

    def cancel(progress: Progress) -> None:
        if progress.done_frames > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(tiny_clip, detector, FixedReader(), cancel, every=4)
    assert detector.seen == 3


def test_about_six_frames_a_second_are_analysed_where_nothing_is_asked(tiny_clip: Path) -> None:
    analysis = analyse(tiny_clip, FixedDetector(), FixedReader(), ignore)
    assert (analysis.frames, analysis.frames_analysed) == (20, 10)


def test_a_video_without_plates_gives_an_empty_list(tiny_clip: Path) -> None:
    nothing = FixedDetector(candidates=())
    analysis = analyse(tiny_clip, nothing, FixedReader(texts=()), ignore)
    assert (analysis.plates, analysis.detections, analysis.frames) == ((), 0, 20)
    assert analysis.duration == pytest.approx(2.0)


def test_plates_below_the_least_confidence_are_left_out(tiny_clip: Path) -> None:
    unsure = FixedReader(texts=(Text("AB12CDE", 0.15),))
    assert analyse(tiny_clip, FixedDetector(), unsure, ignore).plates == ()
    (plate,) = analyse(tiny_clip, FixedDetector(), unsure, ignore, min_confidence=0.2).plates
    assert plate.text == "AB12CDE"


def test_a_cut_video_gives_what_it_holds_and_a_warning(tiny_clip: Path) -> None:
    whole = tiny_clip.read_bytes()
    source = BytesIO(whole[: len(whole) // 2])
    analysis = analyse(source, FixedDetector(), FixedReader(), ignore, every=1)
    assert texts(analysis) == ["AB12CDE"]
    assert any("may be cut off or damaged" in warning for warning in analysis.warnings)


def test_an_empty_and_a_text_file_are_refused() -> None:
    for content, error in ((b"", EmptyVideo), (b"no video\n", NotAVideo)):
        with pytest.raises(error):
            analyse(BytesIO(content), FixedDetector(), FixedReader(), ignore)


def test_a_part_of_a_plate_gives_way_to_the_whole() -> None:
    candidates = [
        Candidate(quad(10, 10, 40, 20), 0.9),
        Candidate(quad(55, 10, 60, 20), 0.9),
        Candidate(quad(10, 10, 105, 20), 0.9, joined=True),
    ]
    read = [[Text("34A", 1.0)], [Text("36837", 1.0)], [Text("34A 36837", 0.95)]]
    assert [one.text for one in best_readings(blank(), candidates, read)] == ["34A36837"]


def test_a_plate_joined_with_a_sticker_gives_way_to_the_plate() -> None:
    candidates = [
        Candidate(quad(10, 10, 80, 20), 0.9),
        Candidate(quad(10, 10, 105, 20), 0.9, joined=True),
    ]
    read = [[Text("CDK575", 0.99)], [Text("CDK575 13", 0.99)]]
    assert [one.text for one in best_readings(blank(), candidates, read)] == ["CDK575"]


def test_views_of_a_place_are_voted_on() -> None:
    candidates = [Candidate(quad(10, 10, 80, 20), 0.9)]
    read = [[Text("AB12CDF", 0.8), Text("AB12 CDE", 0.9), Text("AB12CDE", 0.9)]]
    (one,) = best_readings(blank(), candidates, read)
    assert one.text == "AB12CDE"


def test_only_what_may_be_a_plate_is_looked_at_again(tiny_clip: Path) -> None:
    asked: list[int] = []

    class Reader(FixedReader):
        def read(self, crops: Sequence[Image]) -> list[Text]:
            asked.append(len(crops))
            return [Text("AB12CDE", 0.9), Text("CAR PARK EXIT ONLY", 0.9)][: len(crops)]

    places = (Candidate(quad(10, 10, 80, 20), 0.9), Candidate(quad(10, 60, 80, 20), 0.9))
    reader = Reader(views=(View(), View(tone="grey")))
    analyse(tiny_clip, FixedDetector(places), reader, ignore, every=20)
    assert asked == [2, 1]


def test_a_plate_whose_readings_agree_is_looked_at_once_a_frame(tiny_clip: Path) -> None:
    asked: list[int] = []

    class Reader(FixedReader):
        def read(self, crops: Sequence[Image]) -> list[Text]:
            asked.append(len(crops))
            return [Text("AB12CDE", 0.9)] * len(crops)

    reader = Reader(views=(View(), View(tone="grey")))
    (plate,) = analyse(tiny_clip, FixedDetector(), reader, ignore, every=2).plates
    assert plate.detections == 10
    # Four frames in two views, six in one.
    assert len(asked) == 14


def test_only_the_part_that_is_asked_for_is_looked_at(tiny_clip: Path) -> None:
    def part(asked: Part) -> tuple[int, float, float]:
        found = analyse(tiny_clip, FixedDetector(), FixedReader(), ignore, every=1, part=asked)
        assert found.warnings == ()
        (plate,) = found.plates
        return found.frames_analysed, plate.first_seen, round(plate.last_seen, 3)

    assert part(Part(start=0.5, end=1.0)) == (6, 0.5, 1.0)
    assert part(Part(start=1.5)) == (5, 1.5, 1.9)
    assert part(Part(most_frames=3)) == (3, 0.0, 0.2)


def test_boxes_within_a_region_are_in_pixels_of_the_frame(tiny_clip: Path) -> None:
    sizes = set()

    class Detector(FixedDetector):
        def detect(
            self, image: Image, within: Box | None = None, *, thorough: bool = False
        ) -> list[Candidate]:
            sizes.add(image.shape)
            return super().detect(image, within)

    region = Part(within=Box(200, 90, 1000, 60))
    (plate,) = analyse(tiny_clip, Detector(), FixedReader(), ignore, part=region).plates
    assert sizes == {(60, 120, 3)}
    assert plate.box == plate.places[0].box == Box(210, 100, 80, 20)


def test_a_region_beyond_the_frame_is_refused(tiny_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"within 320 x 192 pixels, got 10 x 10 at 320,0"):
        analyse(
            tiny_clip,
            FixedDetector(),
            FixedReader(),
            ignore,
            part=Part(within=Box(320, 0, 10, 10)),
        )


def test_a_plate_that_stands_still_is_seen_to_the_end_but_not_read_each_time(
    tmp_path: Path,
) -> None:
    clip = still_clip(tmp_path, seconds=8, plate_until=8)
    gated = FixedDetector(keyframes=3)
    (plate,) = analyse(clip, gated, FixedReader(), ignore, every=2).plates
    assert (plate.first_seen, plate.detections) == (0.0, 40)
    assert plate.last_seen == pytest.approx(7.8)
    assert gated.seen < 20


def test_a_plate_that_has_gone_is_not_held(tmp_path: Path) -> None:
    clip = still_clip(tmp_path, seconds=6, plate_until=3)

    class Detector(FixedDetector):
        def detect(
            self, image: Image, within: Box | None = None, *, thorough: bool = False
        ) -> list[Candidate]:
            return super().detect(image, within) if image[20, 50].mean() > 150 else []

    detector = Detector(keyframes=3)
    (plate,) = analyse(clip, detector, FixedReader(), ignore, every=2).plates
    assert plate.last_seen == pytest.approx(2.8)


def still_clip(folder: Path, seconds: int, plate_until: int) -> Path:
    """Write a grey video of 10 frames a second with a white plate at one place for some time."""
    path = folder / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 192))
    for number in range(seconds * 10):
        image = np.full((192, 320, 3), 90, np.uint8)
        if number < plate_until * 10:
            image[10:30, 10:90] = 240
        writer.write(image)
    writer.release()
    return path


class FromAfar(FixedDetector):
    """Find a plate in small pictures only."""

    def detect(
        self, image: Image, within: Box | None = None, *, thorough: bool = False
    ) -> list[Candidate]:
        found = super().detect(image, within)
        return found if image.shape[1] < 1000 else []


def test_a_still_in_which_nothing_was_read_is_looked_at_from_further_away(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    cv2.imwrite(str(path), np.full((1056, 1408, 3), 90, np.uint8))
    detector = FromAfar()
    (plate,) = analyse(path, detector, FixedReader(), ignore).plates
    assert plate.box == Box(20, 20, 160, 40)
    assert detector.seen == 2


def test_a_still_in_which_a_plate_was_read_is_looked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    cv2.imwrite(str(path), np.full((1056, 1408, 3), 90, np.uint8))
    detector = FixedDetector()
    analyse(path, detector, FixedReader(), ignore)
    assert detector.seen == 1


def blank() -> Frame:
    """Return a frame whose picture does not matter."""
    return Frame(0, 0.0, np.zeros((2, 2, 3), np.uint8))
