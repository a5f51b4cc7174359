from __future__ import annotations

from fnmatch import fnmatch
from hashlib import sha256
from typing import TYPE_CHECKING

from processing.engines import CONFIG_SUFFIX, DETECTOR_FILES, READER_FILES
from processing.weights import MODELS

if TYPE_CHECKING:
    from tests.processing.doubles import SharedFolder

FILES = [file for model in MODELS for file in model.files]


def test_what_is_known_makes_a_whole_plate_reader() -> None:
    assert {model.task for model in MODELS} == {"detector", "reader"}
    for model in MODELS:
        pattern = DETECTOR_FILES if model.task == "detector" else READER_FILES
        first, *more = model.files
        assert fnmatch(first.name, pattern)
        config = first.name.removesuffix(".onnx") + CONFIG_SUFFIX
        assert [file.name for file in more] == [config] * (model.task == "reader")


def test_each_file_has_one_name_and_an_address_that_ends_with_it() -> None:
    assert len({file.name for file in FILES}) == len(FILES)
    assert all(file.url.startswith("https://") for file in FILES)
    assert all(file.url.endswith(f"/{file.name}") for file in FILES)


def test_sizes_and_hashes_are_those_of_the_files_that_were_evaluated(
    shared: SharedFolder,
) -> None:
    for file in FILES:
        content = (shared("models") / file.name).read_bytes()
        assert (len(content), sha256(content).hexdigest()) == (file.size, file.sha256)
