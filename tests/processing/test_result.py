from __future__ import annotations

import json
import subprocess
import sys

import pytest

from processing.result import Alternative, Analysis, Box, Place, Plate, Reading, Sighting, VideoInfo

ANALYSIS = Analysis(
    plates=(
        Plate(
            "AB12CDE",
            0.9,
            0.5,
            2.25,
            7,
            Box(1, 2, 3, 4),
            alternatives=(Alternative("A812CDE", 0.25),),
            regions=("eu",),
            sightings=(Sighting(0.5, 1.0, 4), Sighting(2.0, 2.25, 3)),
            places=(Place(12, 0.5, Box(1, 2, 3, 4)),),
        ),
        Plate("XY99ZZZ", 0.5, 1.0, 1.0, 1),
    ),
    frames=100,
    frames_analysed=20,
    detections=8,
    duration=4.0,
    video=VideoInfo(640, 480, 25.0, 101),
    reader="rapidocr",
    detector="rapidocr-text",
    reader_reason="by name",
    engines={"rapidocr": "3.10.0"},
    timings={"decode": 0.5},
    warnings=("cut off",),
)


def test_analysis_survives_json_and_back() -> None:
    assert Analysis.from_json(json.loads(json.dumps(ANALYSIS.to_json()))) == ANALYSIS


def test_a_result_of_an_earlier_version_is_understood() -> None:
    document = ANALYSIS.to_json()
    for plate in document["plates"]:
        for name in ("alternatives", "regions", "sightings", "places"):
            del plate[name]
    assert Analysis.from_json(document).plates[0].text == "AB12CDE"


def test_reading_survives_json_and_back() -> None:
    one = Reading(3, 0.12, Box(1, 2, 3, 4), "AB12", 0.75, (0.5, 1.0, 0.75, 0.75))
    assert Reading.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_analysis_of_an_unknown_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 1, got 2"):
        Analysis.from_json({**ANALYSIS.to_json(), "version": 2})


def test_result_imports_no_heavy_library() -> None:
    code = (
        "import sys, processing.result, processing.errors;"
        "print({'cv2', 'numpy', 'onnxruntime', 'rapidocr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
