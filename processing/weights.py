"""The model files that are known: what they are, how to tell them, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# One commit, so that what lies there cannot change. Its reader is the release asset of
# fast-plate-ocr byte for byte; open-image-models' own detector is another, larger file.
_FROM = (
    "https://raw.githubusercontent.com/agusibrahim/fast-alpr-rs/"
    "9a4e03d2f2f26a041e05752bed5668ee7ebc1e64/models/"
)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Name one file, its size in bytes, its SHA-256 in hexadecimal and its address."""

    name: str
    size: int
    sha256: str
    url: str


@dataclass(frozen=True, slots=True)
class Model:
    """Hold what is known of a model; it is usable when all its files lie in one folder.

    Args:
        name: what `tusd-py models` calls it.
        task: what it does in a plate reader.
        licence: SPDX identifier.
        origin: whose work it is.
        files: what it consists of, under the names that `ALPR_MODEL_DIR` wants.
    """

    name: str
    task: Literal["detector", "reader"]
    licence: str
    origin: str
    files: tuple[WeightFile, ...]


MODELS = (
    Model(
        name="yolo-v9-t-416-int8",
        task="detector",
        licence="MIT",
        origin="open-image-models' yolo-v9-t-416, re-quantised to int8 by fast-alpr-rs",
        files=(
            WeightFile(
                name="yolo-v9-t-416-license-plates-end2end1.onnx",
                size=2_493_847,
                sha256="5a5eac89c5736f6e0d94ef2422defc8a1eed828b6ad1124d0128df4d47fc2b65",
                url=f"{_FROM}yolo-v9-t-416-license-plates-end2end1.onnx",
            ),
        ),
    ),
    Model(
        name="cct-xs-v2-global",
        task="reader",
        licence="MIT",
        origin="fast-plate-ocr's cct-xs-v2-global-model",
        files=(
            WeightFile(
                name="cct_xs_v2_global.onnx",
                size=3_344_292,
                sha256="8031afb5fdc6b4d80462c9d542f1284ebd2cfddf5dbacd62609848d7e2855f44",
                url=f"{_FROM}cct_xs_v2_global.onnx",
            ),
            WeightFile(
                name="cct_xs_v2_global_plate_config.yaml",
                size=1_725,
                sha256="0335c74a305173bb6f393efed0fde03cadeaa0b649ed8e19f431016d8232d0a6",
                url=f"{_FROM}cct_xs_v2_global_plate_config.yaml",
            ),
        ),
    ),
)
