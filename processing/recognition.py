"""What the project's own recogniser takes and gives: a grey picture, and classes by column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from processing.video import Image

FILE = "plate-recogniser.onnx"
# What the network sees: rows and columns.
SHAPE = (32, 128)
# Class 0 is nothing; separators are told apart because clocks and dates are no plates.
CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-.:/"


def shown(crop: Image) -> NDArray[np.uint8]:
    """Return a BGR crop of any size as the network sees it: grey, uint8 of `SHAPE`."""
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    shrunk = grey.shape[0] > SHAPE[0] and grey.shape[1] > SHAPE[1]
    how = cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, SHAPE[::-1], interpolation=how), np.uint8)


def decode(probabilities: NDArray[np.float32]) -> tuple[str, tuple[float, ...]]:
    """Return the text of columns x classes and how sure each of its characters is, 0 to 1.

    Neighbouring columns of one class are one character, as sure as its surest column
    (connectionist temporal classification, Graves et al. 2006).
    """
    text: list[str] = []
    sure: list[float] = []
    before = 0
    for column in probabilities:
        best = int(column.argmax())
        if best and best == before:
            sure[-1] = max(sure[-1], float(column[best]))
        elif best:
            text.append(CLASSES[best - 1])
            sure.append(float(column[best]))
        before = best
    return "".join(text), tuple(sure)
