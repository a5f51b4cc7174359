from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from processing.builtin import BuiltinReader
from processing.engines import choose
from processing.errors import ReaderUnavailable
from processing.recognition import CLASSES, FILE, SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = 32


class Network:
    """Read off each picture one character, the one of the class that its brightness names."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.batches: list[int] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(shape=["many", 1, *SHAPE])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(shape=["many", COLUMNS, len(CLASSES) + 1])]

    def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        pictures = given["pictures"]
        self.batches.append(len(pictures))
        told = np.zeros((len(pictures), COLUMNS, len(CLASSES) + 1), np.float32)
        for one, picture in zip(told, pictures, strict=True):
            one[4, round(float(picture.mean()))] = 0.75
        return [told]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BuiltinReader:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Network)
    (tmp_path / FILE).touch()
    return BuiltinReader(tmp_path / FILE)


def crops(*classes: int) -> Sequence[np.ndarray]:
    return [np.full((20, 90, 3), one, np.uint8) for one in classes]


def test_each_crop_is_read_in_its_order(reader: BuiltinReader) -> None:
    found = reader.read(crops(1, 11, 10))
    assert [(text.raw, text.confidence, text.characters) for text in found] == [
        ("0", 0.75, (0.75,)),
        ("A", 0.75, (0.75,)),
        ("9", 0.75, (0.75,)),
    ]


def test_many_crops_are_read_in_batches(reader: BuiltinReader) -> None:
    assert len(reader.read(crops(*[1] * 70))) == 70
    assert reader._session.batches == [32, 32, 6]


def test_separators_are_told_but_are_no_characters_of_a_plate(reader: BuiltinReader) -> None:
    [text] = reader.read(crops(CLASSES.index(":") + 1))
    assert (text.raw, text.confidence, text.characters) == (":", 0.0, ())


def test_nothing_is_read_of_no_crops(reader: BuiltinReader) -> None:
    assert reader.read([]) == []


def test_a_file_that_is_no_network_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no network")
    with pytest.raises(ReaderUnavailable, match=rf"{FILE}.*the file is none"):
        BuiltinReader(tmp_path / FILE)


def test_a_network_of_another_shape_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Other(Network):
        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(shape=["many", 3, 64, 128])]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Other)
    with pytest.raises(ReaderUnavailable, match=r"it takes and gives \[\[3, 64, 128\]"):
        BuiltinReader(tmp_path / FILE)


@pytest.mark.parametrize("there", [True, False])
def test_builtin_without_its_file_says_which_and_where(there: bool, tmp_path: Path) -> None:  # noqa: FBT001
    folder = tmp_path if there else None
    with pytest.raises(ReaderUnavailable, match=rf"{FILE} in PLATE_MODEL_DIR \("):
        choose("builtin", plate_model_dir=folder)
