from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from processing import engines
from processing.engines import choose, find_alpr
from processing.errors import ReaderUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processing.doubles import SharedFolder

DETECTOR = "yolo-v9-t-640-license-plates-end2end.onnx"
READER = "cct_s_v2_global.onnx"
CONFIG = "cct_s_v2_global_plate_config.yaml"


@pytest.fixture(autouse=True)
def _libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    # Found by name only: whether the extra is installed must not matter here.
    monkeypatch.setattr(engines, "find_spec", lambda name: name)


def laid(folder: Path, *names: str) -> Path:
    """Return the folder with empty files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_files_are_found_in_the_model_folder(tmp_path: Path) -> None:
    folder = laid(tmp_path / "models", DETECTOR, READER, CONFIG)
    files = find_alpr(folder, home=tmp_path)
    assert (files.detector.name, files.reader.name, files.config.name) == (DETECTOR, READER, CONFIG)


def test_files_are_found_in_the_libraries_caches(tmp_path: Path) -> None:
    laid(tmp_path / ".cache/open-image-models/yolo-v9-t-640-license-plate-end2end", DETECTOR)
    laid(tmp_path / ".cache/fast-plate-ocr/cct-s-v2-global-model", READER, CONFIG)
    files = find_alpr(None, home=tmp_path)
    assert (files.detector.name, files.reader.name) == (DETECTOR, READER)


def test_the_newer_generation_of_readers_is_preferred(tmp_path: Path) -> None:
    older = ("cct_xs_v1_global.onnx", "cct_xs_v1_global_plate_config.yaml")
    folder = laid(tmp_path / "models", DETECTOR, *older, READER, CONFIG)
    assert find_alpr(folder, home=tmp_path).reader.name == READER


def test_of_several_detectors_the_one_known_as_the_best_is_taken(tmp_path: Path) -> None:
    names = [
        "yolo-v9-s-608-license-plates-end2end.onnx",
        DETECTOR,
        "yolo-v9-t-416-license-plates-end2end.onnx",
        "yolo-v9-t-416-license-plates-end2end1.onnx",
        "yolo-v9-mine-license-plates-end2end.onnx",
    ]
    folder = laid(tmp_path / "models", *names, READER, CONFIG)
    for name in names:
        assert find_alpr(folder, home=tmp_path).detector.name == name
        (folder / name).unlink()


def test_a_detector_in_the_model_folder_comes_before_a_better_one_in_a_cache(
    tmp_path: Path,
) -> None:
    better = "yolo-v9-s-608-license-plates-end2end.onnx"
    laid(tmp_path / ".cache/open-image-models/yolo-v9-s-608-license-plate-end2end", better)
    folder = laid(tmp_path / "models", DETECTOR, READER, CONFIG)
    assert find_alpr(folder, home=tmp_path).detector.name == DETECTOR


def test_a_model_that_is_no_detector_is_refused_with_what_it_takes_and_gives(
    tmp_path: Path,
) -> None:
    pytest.importorskip("open_image_models")
    folder = laid(tmp_path / "models", READER, CONFIG)
    (folder / DETECTOR).write_bytes(identity(1, 3, 64, 64))
    said = "rows of 7 numbers, got a model that takes 1 x 3 x 64 x 64 and gives 1 x 3 x 64 x 64"
    with pytest.raises(ReaderUnavailable, match=said):
        choose("alpr", alpr_model_dir=folder, home=tmp_path)


def identity(*shape: int) -> bytes:
    """Return an ONNX model that gives what it takes: the few fields of it that have to be there."""
    sides = b"".join(_field(1, _number(1, side)) for side in shape)
    kind = _field(2, _field(1, _number(1, 1) + _field(2, sides)))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    ends = _field(11, _field(1, b"x") + kind) + _field(12, _field(1, b"y") + kind)
    graph = _field(1, node) + _field(2, b"graph") + ends
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 17))


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag << 3 | 2, len(content)]) + content


def _number(tag: int, value: int) -> bytes:
    return bytes([tag << 3, value])


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ((), "no yolo-v9-.* and no cct_"),
        ((READER, CONFIG), "but there is no yolo-v9-"),
        ((DETECTOR,), "but there is no cct_"),
        ((DETECTOR, READER), "but there is no cct_.* with its"),
    ],
    ids=["nothing", "no detector", "no reader", "no config"],
)
def test_alpr_by_name_without_its_files_says_which_and_where(
    there: tuple[str, ...], missing: str, tmp_path: Path
) -> None:
    folder = laid(tmp_path / "models", *there)
    with pytest.raises(ReaderUnavailable, match=missing) as caught:
        choose("alpr", alpr_model_dir=folder, home=tmp_path)
    assert str(folder) in str(caught.value)


def test_alpr_by_name_without_its_libraries_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(ReaderUnavailable, match=r"pip install 'tusd-py\[alpr\]'"):
        choose("alpr", alpr_model_dir=tmp_path, home=tmp_path)


def test_damaged_alpr_files_are_told_by_name_and_passed_over_by_auto(tmp_path: Path) -> None:
    pytest.importorskip("open_image_models")
    folder = laid(tmp_path / "models", DETECTOR, READER, CONFIG)
    with pytest.raises(ReaderUnavailable, match="cannot be loaded"):
        choose("alpr", alpr_model_dir=folder, home=tmp_path)
    engine = choose("auto", alpr_model_dir=folder, home=tmp_path, threads=1)
    assert engine.name == "rapidocr"
    assert "cannot be loaded" in engine.reason


def test_auto_without_alpr_takes_rapidocr_and_says_why(tmp_path: Path) -> None:
    engine = choose("auto", home=tmp_path, threads=1)
    assert (engine.name, engine.reader.name) == ("rapidocr", "rapidocr")
    assert "auto chose rapidocr" in engine.reason
    assert "no yolo-v9-" in engine.reason


def test_rapidocr_by_name_is_taken_where_alpr_lies_too(tmp_path: Path) -> None:
    folder = laid(tmp_path / "models", DETECTOR, READER, CONFIG)
    engine = choose("rapidocr", alpr_model_dir=folder, home=tmp_path, threads=1)
    assert (engine.name, engine.reason) == ("rapidocr", "rapidocr was chosen by name")


def test_auto_takes_alpr_where_its_files_lie(shared: SharedFolder, tmp_path: Path) -> None:
    pytest.importorskip("open_image_models")
    pytest.importorskip("fast_plate_ocr")
    engine = choose("auto", alpr_model_dir=shared("models"), home=tmp_path, threads=1)
    assert (engine.name, engine.reader.name) == ("alpr", "alpr")
    assert "auto chose alpr" in engine.reason


def test_the_runtime_of_the_models_reports_to_nobody(tmp_path: Path) -> None:
    code = "import processing.read, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORT")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**environment, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout == "1\n"
    # Where it is about to report, it keeps its session in a file.
    assert list(tmp_path.iterdir()) == []
