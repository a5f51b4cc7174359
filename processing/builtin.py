"""Read plates by the project's own recogniser, which `processing/training` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from processing.calibrate import Calibration
from processing.crop import View
from processing.detect import session_options, sha256
from processing.errors import ReaderUnavailable
from processing.recognition import CLASSES, SHAPE, decode, shown
from processing.result import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from processing.video import Image

BATCH = 32


class BuiltinReader:
    """Read by a network that was trained on drawn plates alone.

    Args:
        model: ONNX file of N x 1 x 32 x 128 to N x columns x classes.
        threads: cores to use.

    Raises:
        ReaderUnavailable: the file is no such network.
    """

    name = "builtin"
    views = (View(), View((0.04, 0.1)), View((0.02, -0.08)))
    calibration = Calibration(offset=-1.68, certainty=0.81, form=0.51, video=2.5, rarity=-4.0)

    def __init__(self, model: Path, threads: int = 2) -> None:
        self._session = _session(model, threads)
        self.versions = {
            "onnxruntime": onnxruntime.__version__,
            "reader_model": model.stem,
            "reader_model_sha256": sha256(model),
        }

    def read(self, crops: Sequence[Image]) -> list[Text]:
        """Read all crops, in batches of at most 32."""
        return [
            text
            for start in range(0, len(crops), BATCH)
            for text in self._batch(crops[start : start + BATCH])
        ]

    def _batch(self, crops: Sequence[Image]) -> list[Text]:
        pictures = np.stack([shown(crop) for crop in crops])[:, None].astype(np.float32)
        (told,) = self._session.run(None, {"pictures": pictures})
        return [_text(columns) for columns in told]


def _text(probabilities: NDArray[np.float32]) -> Text:
    raw, sure = decode(probabilities)
    kept = tuple(value for character, value in zip(raw, sure, strict=True) if character.isalnum())
    return Text(raw, sum(kept) / len(kept) if kept else 0.0, kept)


def _session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    try:
        session = onnxruntime.InferenceSession(
            str(model), session_options(threads), providers=["CPUExecutionProvider"]
        )
        shapes = [one.shape[1:] for one in (*session.get_inputs(), *session.get_outputs())]
    except Exception as error:
        # onnxruntime's errors have no common base that it exports.
        raise _unfit(model, str(error)) from error
    if len(shapes) != 2 or shapes[0] != [1, *SHAPE] or shapes[1][-1] != len(CLASSES) + 1:  # noqa: PLR2004
        raise _unfit(model, f"it takes and gives {shapes}")
    return session


def _unfit(model: Path, came: str) -> ReaderUnavailable:
    return ReaderUnavailable(
        "builtin",
        f"a network of {SHAPE[0]} x {SHAPE[1]} pixels to {len(CLASSES) + 1} classes in {model}",
        f"the file is none ({came})",
        "Train one by `python -m processing.training.recogniser`, or choose PLATE_READER=rapidocr",
    )
