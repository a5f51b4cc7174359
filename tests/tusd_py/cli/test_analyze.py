from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.tusd_py.cli.command import run

if TYPE_CHECKING:
    from pathlib import Path

PLATE = "AB12CDE"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """Lay out a still image, garbage, nothing, and a video, in the order of their names."""
    image = np.full((360, 640, 3), 60, np.uint8)
    cv2.rectangle(image, (200, 160), (440, 215), (255, 255, 255), -1)
    cv2.putText(image, PLATE, (215, 202), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (0, 0, 0), 3)
    cv2.imwrite(str(tmp_path / "3 image.png"), image)
    (tmp_path / "1 garbage.mp4").write_bytes(b"this is no video")
    (tmp_path / "2 empty.mp4").write_bytes(b"")
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "5 video.avi"), codec, 6, (640, 360))
    for _ in range(3):
        writer.write(image)
    writer.release()
    return ("1 garbage.mp4", "2 empty.mp4", "3 image.png", "4 missing.mp4", "5 video.avi")


def test_each_file_gets_an_object_in_the_order_given(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(tmp_path, "analyze", "--json", "--plate-reader", "rapidocr", *files)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["file"] for document in documents] == list(files)
    garbage, empty, image, missing, video = documents
    assert garbage["error"] == "File must be a video (mp4, avi, mov, mkv, webm, flv)"
    assert empty["error"] == "Uploaded file is empty"
    assert missing["error"] == "No such file or directory"
    assert [one["plates"] for one in (garbage, empty, missing)] == [[], [], []]
    for found in (image, video):
        assert "error" not in found
        assert found["reader"] == "rapidocr"
        (plate,) = found["plates"]
        assert plate["text"] == PLATE
        assert {"confidence", "first_seen", "last_seen", "detections"} <= set(plate)
    assert video["frames"] == 3
    assert "Analysis 5 video.avi: Processed 1/3 frames (" in done.stderr


def test_people_get_a_table_and_the_reader_and_why(files: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, "analyze", files[2], "--plate-reader", "rapidocr")
    assert done.returncode == 0, done.stderr
    assert PLATE in done.stdout
    assert "Plate reader: rapidocr (rapidocr was chosen by name)." in done.stdout


def test_a_reader_that_cannot_run_exits_with_3_and_says_what_it_needs(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "ALPR_MODEL_DIR": str(tmp_path)}
    done = run(tmp_path, "analyze", "x.mp4", "--plate-reader", "alpr", env=env)
    assert done.returncode == 3
    assert done.stderr.startswith("tusd-py: Plate reader 'alpr' needs ")
    assert "Traceback" not in done.stderr


def test_an_unknown_reader_exits_with_2_and_names_the_known_ones(tmp_path: Path) -> None:
    done = run(tmp_path, "analyze", "x.mp4", "--plate-reader", "tesseract")
    assert done.returncode == 2
    assert "expected one of auto, rapidocr, easyocr, alpr, builtin, got 'tesseract'" in done.stderr


def test_the_plates_are_printed_as_a_table_for_spreadsheets(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(tmp_path, "analyze", files[2], "--csv", "--plate-reader", "rapidocr")
    assert done.returncode == 0, done.stderr
    names, row = done.stdout.splitlines()
    assert names.startswith("number,text,confidence,")
    assert row.startswith(f"0,{PLATE},")


def test_a_part_of_a_video_is_analysed_and_drawn(files: tuple[str, ...], tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("analyze", files[4], "--json", "--plate-reader", "rapidocr", "--frame-skip", "1"),
        *("--region", "150,100,350,160", "--max-frames", "2"),
        *("--annotate", "out.webm", "--sheet", "out.png"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["frames_analysed"] == 2
    (plate,) = document["plates"]
    assert plate["text"] == PLATE
    # In pixels of the whole frame.
    assert 180 < plate["box"]["x"] < 240
    assert plate["places"][0]["box"]["y"] > 140
    sheet = cv2.imread(str(tmp_path / "out.png"))
    assert sheet is not None
    capture = cv2.VideoCapture(str(tmp_path / "out.webm"))
    assert capture.read()[1].shape == (360, 640, 3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--start", "soon"], "--start: expected seconds, 0 or more, got 'soon'"),
        (["--end", "-1"], "--end: expected seconds, 0 or more, got '-1'"),
        (["--region", "1,2,3"], "--region: expected X,Y,W,H in pixels"),
        (["--max-frames", "0"], "--max-frames: expected an integer from 1, got '0'"),
        (["--frame-skip", "0"], "frame_skip: expected an integer from 1 to 1000, got '0'"),
        (["--min-confidence", "2"], "min_confidence: expected a number from 0 to 1, got '2'"),
        (["y.mp4", "--sheet", "out.png"], "--annotate and --sheet: expected one FILE"),
    ],
)
def test_choices_of_another_form_exit_with_2(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "analyze", "x.mp4", *words)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_region_beyond_the_frame_is_told(files: tuple[str, ...], tmp_path: Path) -> None:
    words = ("--region", "700,0,10,10", "--json", "--plate-reader", "rapidocr")
    done = run(tmp_path, "analyze", files[2], *words)
    assert done.returncode == 1
    assert "Expected a region within 640 x 360 pixels" in json.loads(done.stdout)["error"]
