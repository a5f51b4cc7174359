"""Read the text of licence plates cut out of frames."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import onnxruntime

from processing.calibrate import Calibration
from processing.crop import View
from processing.detect import rapidocr_engine, rapidocr_model, session_options, sha256, unspun
from processing.errors import ReaderUnavailable
from processing.result import Text
from processing.text import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from processing.video import Image


class PlateReader(Protocol):
    """Read plates cut out of frames."""

    @property
    def name(self) -> str:
        """Name the reader in results."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Tell the version of each library or model used, by name."""

    @property
    def views(self) -> Sequence[View]:
        """Tell how it wants to see a plate, the best view first; what it reads is voted on."""

    @property
    def calibration(self) -> Calibration:
        """Tell how sure it is when it is right."""

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read each BGR uint8 crop of height x width x 3; the answer has the same order."""


class RapidOcrReader:
    """Read by PP-OCR's recogniser, whose model comes inside rapidocr's wheel.

    Args:
        threads: cores to use.
    """

    name = "rapidocr"
    # Measured: text lines are found too high for it, and colours distract it.
    views = (View((0.02, -0.1)), View(tone="grey"), View((-0.03, -0.12), "stretched"))
    calibration = Calibration(offset=-2.1, certainty=1.02, form=0.51, video=2.74, rarity=-3.19)

    def __init__(self, threads: int = 2) -> None:
        # Measured: of the 320 pixels of width that it pads to, plates need 224, for all it reads.
        shape = {"Rec.rec_img_shape": [3, 48, 224]}
        self._engine = rapidocr_engine(threads, {"Global.return_word_box": True, **shape})
        self.read([np.zeros((48, 96, 3), np.uint8)])
        unspun(self._engine.text_rec, rapidocr_model("rec"), threads)
        self.versions = {
            "rapidocr": metadata.version("rapidocr"),
            "onnxruntime": onnxruntime.__version__,
            "reader_model_sha256": sha256(rapidocr_model("rec")),
        }

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read all crops, in batches of the engine's own size."""
        if not crops:
            return []
        found = self._engine.recognize_txt(list(crops))
        return [
            _with_characters(text, float(score), getattr(words, "confs", None) or ())
            for text, score, words in zip(found.txts, found.scores, found.word_results, strict=True)
        ]


class AlprReader:
    """Read by a CCT model of the fast-plate-ocr family.

    Args:
        model: ONNX file of the model.
        config: its `*_plate_config.yaml`.
        threads: cores to use.
    """

    name = "alpr"
    # Measured: without a margin the outer characters of tight boxes suffer, and none fits all.
    views = (View((0.04, 0.06)), View((0.02, 0.03)), View((0.06, 0.09)), View((0.1, 0.1)))
    calibration = Calibration(offset=-2.9, certainty=1.39, form=0.5, video=2.56, rarity=-4.15)

    def __init__(self, model: Path, config: Path, threads: int = 2) -> None:
        library = import_module("fast_plate_ocr.inference.plate_recognizer")
        self._model = library.LicensePlateRecognizer(
            onnx_model_path=model,
            plate_config_path=config,
            providers=["CPUExecutionProvider"],
            sess_options=session_options(threads),
        )
        self._grey = self._model.config.num_channels == 1
        self.versions = {
            "fast-plate-ocr": metadata.version("fast-plate-ocr"),
            "onnxruntime": onnxruntime.__version__,
            "reader_model": model.stem,
            "reader_model_sha256": sha256(model),
        }

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read all crops as one batch."""
        if not crops:
            return []
        code = cv2.COLOR_BGR2GRAY if self._grey else cv2.COLOR_BGR2RGB
        converted = [cv2.cvtColor(crop, code) for crop in crops]
        found = self._model.run(converted, return_confidence=True)
        return [_of_slots(one.plate, one.char_probs) for one in found]


@dataclass(frozen=True, slots=True)
class EasyOcrOptions:
    """Say where EasyOCR finds its weights.

    Args:
        model_dir: folder of the `.pth` files, or None for EasyOCR's own (`~/.EasyOCR/model`).
        network_dir: folder of a custom network's `.py` and `.yaml`, or None for EasyOCR's own.
        network: `recog_network`; `standard` or the custom network's name.
        gpu: use CUDA.
    """

    model_dir: Path | None = None
    network_dir: Path | None = None
    network: str = "standard"
    gpu: bool = False


class EasyOcrReader:
    """Read by EasyOCR's recogniser alone; its weights are never downloaded.

    Args:
        options: where the weights lie.

    Raises:
        ReaderUnavailable: easyocr, a fitting torchvision or the weights are missing, or a weights
            file has another checksum than EasyOCR expects.
    """

    name = "easyocr"
    views = (View((0.04, 0.06)),)
    calibration = Calibration()

    def __init__(self, options: EasyOcrOptions | None = None) -> None:
        self._engine = _easyocr(options or EasyOcrOptions())
        self.versions = {"easyocr": metadata.version("easyocr")}

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read each crop as one line."""
        return [self._line(crop) for crop in crops]

    def _line(self, crop: Image) -> Text:
        grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
        height, width = grey.shape
        # Without boxes EasyOCR takes the whole crop as one line.
        found = self._engine.recognize(
            grey, horizontal_list=[[0, width, 0, height]], free_list=[], detail=1
        )
        if not found:
            return Text("", 0.0)
        _, raw, confidence = max(found, key=lambda line: line[2])
        return Text(str(raw), float(confidence))


def _easyocr(options: EasyOcrOptions) -> Any:
    try:
        library = import_module("easyocr")
        return library.Reader(
            ["en"],
            gpu=options.gpu,
            model_storage_directory=_path(options.model_dir),
            user_network_directory=_path(options.network_dir),
            recog_network=options.network,
            detector=False,
            download_enabled=False,
            verbose=False,
        )
    except ImportError as error:
        raise ReaderUnavailable(
            "easyocr",
            "the package easyocr",
            f"importing it failed ({error})",
            "Install the extra: pip install 'tusd-py[easyocr]'",
        ) from error
    except FileNotFoundError as error:
        raise _weights_unavailable(options, error) from error
    except RuntimeError as error:
        raise _torch_unfit(error) from error


def _weights_unavailable(options: EasyOcrOptions, error: FileNotFoundError) -> ReaderUnavailable:
    folder = options.model_dir or "EasyOCR's own model folder (~/.EasyOCR/model)"
    damaged = "md5" in str(error).lower()
    return ReaderUnavailable(
        "easyocr",
        f"the weights of its network {options.network!r} in {folder}",
        "a file there has a wrong checksum" if damaged else f"they are missing ({error})",
        "Put the official files there; tusd-py never downloads weights",
    )


def _torch_unfit(error: RuntimeError) -> Exception:
    if "torchvision::" not in str(error):
        return error
    torch = metadata.version("torch").partition("+")[0]
    return ReaderUnavailable(
        "easyocr",
        "torch and torchvision built as a pair",
        f"torchvision {metadata.version('torchvision')} does not fit torch"
        f" {metadata.version('torch')} ({error})",
        f"Install torch=={torch} and torchvision=={_pair_of(torch)} together, both from PyTorch's"
        " CPU index or both from its CUDA index",
    )


def _pair_of(torch: str) -> str:
    # Since torch 2.0 / torchvision 0.15 the two are released in step.
    major, minor, patch = (*torch.split("."), "0")[:3]
    return f"0.{int(minor) + 15}.{patch}" if major == "2" else "of the same release"


def _with_characters(raw: str, score: float, confidences: Iterable[float]) -> Text:
    told = list(confidences)
    if len(told) != len(raw):
        return Text(raw, score)
    kept = tuple(
        float(value) for character, value in zip(raw, told, strict=True) if normalise(character)
    )
    return Text(raw, sum(kept) / len(kept) if kept else score, kept)


def _of_slots(plate: str, slots: Any) -> Text:
    # One slot per character, padding at the end; the plate is as sure as its characters.
    probabilities = np.asarray(slots, np.float64).ravel()[: len(plate)]
    if not plate:
        return Text("", 0.0)
    return _with_characters(plate, float(probabilities.mean()), probabilities.tolist())


def _path(folder: Path | None) -> str | None:
    return None if folder is None else str(folder)
