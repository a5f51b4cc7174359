from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from processing.engines import find_alpr
from processing.errors import ReaderUnavailable
from processing.read import AlprReader, EasyOcrOptions, EasyOcrReader, RapidOcrReader
from processing.text import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processing.read import PlateReader
    from processing.video import Image
    from tests.processing.doubles import SharedFolder

TEXTS = ("AB12CDE", "KX73LMN", "WTC249")


def crop(text: str, width: int = 180) -> Image:
    """Draw a plate as cut out of a frame."""
    image = np.full((112, 520, 3), 235, np.uint8)
    cv2.putText(image, text, (50, 90), (30, 30, 30), cv2.FontFace("sans"), 92, 560)
    small = cv2.resize(image, (width, round(width * 112 / 520)), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def texts(reader: PlateReader) -> list[str]:
    return [normalise(text.raw) for text in reader.read([crop(text) for text in TEXTS])]


def test_rapidocr_reads_a_batch_in_its_order() -> None:
    assert texts(RapidOcrReader(threads=2)) == list(TEXTS)


def test_rapidocr_tells_the_confidence_of_each_character() -> None:
    (text,) = RapidOcrReader(threads=2).read([crop("AB12CDE")])
    assert len(text.characters) == len(normalise(text.raw)) == 7
    assert all(0.5 < each <= 1 for each in (*text.characters, text.confidence))


def test_rapidocr_reads_nothing_from_nothing() -> None:
    reader = RapidOcrReader(threads=2)
    assert reader.read([]) == []
    (blank,) = reader.read([np.full((30, 120, 3), 128, np.uint8)])
    assert normalise(blank.raw) == ""


def test_alpr_reads_a_batch_in_its_order(shared: SharedFolder) -> None:
    pytest.importorskip("fast_plate_ocr")
    files = find_alpr(shared("models"))
    reader = AlprReader(files.reader, files.config, threads=2)
    assert texts(reader) == list(TEXTS)
    assert reader.read([]) == []
    (text,) = reader.read([crop("AB12CDE")])
    assert len(text.characters) == 7


def test_easyocr_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easyocr", None)
    with pytest.raises(ReaderUnavailable, match=r"pip install 'tusd-py\[easyocr\]'"):
        EasyOcrReader()


def faked(monkeypatch: pytest.MonkeyPatch, reader: Any) -> None:
    """Put a stand-in where easyocr would be imported from."""
    module = ModuleType("easyocr")
    module.Reader = reader  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easyocr", module)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Missing english_g2.pth and downloads disabled", "they are missing"),
        ("MD5 mismatch for english_g2.pth and downloads disabled", "wrong checksum"),
    ],
)
def test_easyocr_weights_that_do_not_serve_are_told(
    message: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(message)

    faked(monkeypatch, fail)
    with pytest.raises(ReaderUnavailable, match=sentence) as caught:
        EasyOcrReader(EasyOcrOptions(model_dir=tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_easyocr_with_an_unfit_torchvision_names_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    faked(monkeypatch, fail)
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.27.1"}
    monkeypatch.setattr("processing.read.metadata.version", versions.__getitem__)
    with pytest.raises(ReaderUnavailable, match=r"torch==2\.13\.0 and torchvision==0\.28\.0"):
        EasyOcrReader()


def test_easyocr_failing_otherwise_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    faked(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        EasyOcrReader()


def test_easyocr_is_asked_never_to_download_and_reads_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    class Reader:
        def __init__(self, languages: Sequence[str], **options: Any) -> None:
            told.update(options, languages=languages)

        def recognize(self, grey: Image, **options: Any) -> list[tuple[object, str, float]]:
            assert grey.ndim == 2
            assert options["horizontal_list"] == [[0, grey.shape[1], 0, grey.shape[0]]]
            return [([], "AB12 CDE", 0.5)]

    faked(monkeypatch, Reader)
    monkeypatch.setattr("processing.read.metadata.version", lambda _: "1.7.2")
    reader = EasyOcrReader(EasyOcrOptions(tmp_path, tmp_path, "plates"))
    assert [text.raw for text in reader.read([crop("AB12CDE")])] == ["AB12 CDE"]
    assert told["download_enabled"] is False
    assert told["detector"] is False
    assert told["recog_network"] == "plates"
    assert told["model_storage_directory"] == told["user_network_directory"] == str(tmp_path)


def test_easyocr_itself_tells_missing_weights(tmp_path: Path) -> None:
    pytest.importorskip("easyocr", reason="easyocr is not installed")
    with pytest.raises(ReaderUnavailable, match="they are missing"):
        EasyOcrReader(EasyOcrOptions(model_dir=tmp_path, network_dir=tmp_path))


def test_easyocr_itself_tells_a_bad_checksum(tmp_path: Path) -> None:
    pytest.importorskip("easyocr", reason="easyocr is not installed")
    (tmp_path / "english_g2.pth").write_bytes(b"not the official file")
    with pytest.raises(ReaderUnavailable, match="wrong checksum"):
        EasyOcrReader(EasyOcrOptions(model_dir=tmp_path, network_dir=tmp_path))


# A network that says AB12 whatever it sees: EasyOCR's way from crop to text is what is tested.
OWN_NETWORK = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, input_channel, output_channel, hidden_size, num_class):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(output_channel, num_class))

    def forward(self, image, text):
        return self.logits.unsqueeze(0).expand(image.shape[0], -1, -1)
"""
OWN_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.filterwarnings("ignore")  # torch's and easyocr's own
def test_easyocr_itself_reads_with_a_network_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("easyocr", reason="easyocr is not installed")
    torch: Any = pytest.importorskip("torch")
    (tmp_path / "plates.py").write_text(OWN_NETWORK)
    (tmp_path / "plates.yaml").write_text(
        "network_params: {input_channel: 1, output_channel: 12, hidden_size: 8}\n"
        f"imgH: 64\nlang_list: ['en']\ncharacter_list: '{OWN_CHARACTERS}'\n"
    )
    # Class 0 is the blank between characters (CTC).
    classes = [0] * 12
    classes[::3] = [OWN_CHARACTERS.index(character) + 1 for character in "AB12"]
    logits = 20.0 * torch.nn.functional.one_hot(torch.tensor(classes), len(OWN_CHARACTERS) + 1)
    torch.save({"module.logits": logits}, tmp_path / "plates.pth")
    options = EasyOcrOptions(model_dir=tmp_path, network_dir=tmp_path, network="plates")
    found = EasyOcrReader(options).read([crop("XY99ZZZ"), crop("KX73LMN")])
    assert [text.raw for text in found] == ["AB12", "AB12"]
    assert all(text.confidence > 0.99 for text in found)
