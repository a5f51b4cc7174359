"""The training itself; torch is only there where somebody trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnxruntime
import pytest

from processing.builtin import BuiltinReader
from processing.recognition import FILE, SHAPE, decode, shown
from processing.training.samples import Samples

if TYPE_CHECKING:
    from pathlib import Path

    from processing.training.strokes import Mask
    from processing.video import Image

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own

torch: Any = pytest.importorskip("torch", reason="torch is not installed: it is for training only")
pytest.importorskip("onnx", reason="onnx is not installed: it is for training only")

from processing.training.export import export  # noqa: E402
from processing.training.recogniser import Plan, Training, batch, loss, train  # noqa: E402


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.of([], seed=3)


def colourful(picture: Mask) -> Image:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), np.uint8)


def test_training_lowers_the_loss_on_what_it_never_saw(samples: Samples) -> None:
    training = Training(seed=3)
    held_out = batch(samples, 10_000, 32)
    before = loss(training.network, held_out).item()
    for number in range(40):
        training.step(batch(samples, 16 * number, 16), 1.0)
    assert loss(training.network, held_out).item() < 0.7 * before


def test_the_exported_network_tells_what_torch_tells(samples: Samples, tmp_path: Path) -> None:
    training = Training(seed=4)
    for number in range(3):
        training.step(batch(samples, 16 * number, 16), 1.0)
    export(training.average, tmp_path / FILE)
    pictures = batch(samples, 500, 5)[0].float()
    with torch.no_grad():
        expected = training.average(pictures).softmax(2).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / FILE))
    (told,) = session.run(None, {"pictures": pictures.numpy()})
    assert np.allclose(told, expected, atol=1e-5)
    assert (tmp_path / FILE).stat().st_size < 5_000_000


def test_the_reader_reads_with_an_exported_network(samples: Samples, tmp_path: Path) -> None:
    training = Training(seed=5)
    export(training.average, tmp_path / FILE)
    crops = [colourful(samples.sample(number)[0]) for number in range(40)]
    pictures = torch.from_numpy(np.stack([shown(crop) for crop in crops])[:, None]).float()
    assert pictures.shape == (40, 1, *SHAPE)
    with torch.no_grad():
        chances = training.average(pictures).softmax(2).numpy()
    found = BuiltinReader(tmp_path / FILE).read(crops)
    assert [text.raw for text in found] == [decode(one)[0] for one in chances]


def test_a_training_goes_on_from_its_checkpoint(samples: Samples, tmp_path: Path) -> None:
    whole, first, second = (Training(seed=6) for _ in range(3))
    for number in range(4):
        whole.step(batch(samples, 8 * number, 8), 1.0)
    for number in range(2):
        first.step(batch(samples, 8 * number, 8), 1.0)
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    for number in range(2, 4):
        second.step(batch(samples, 8 * number, 8), 1.0)
    assert second.steps == whole.steps == 4
    for one, other in zip(whole.average.parameters(), second.average.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_session_of_training_ends_with_a_checkpoint_and_an_onnx_file(tmp_path: Path) -> None:
    plan = Plan(fonts=[], seed=7, seconds=0.5, workers=0, held_out=64)
    exported = train(plan, tmp_path)
    assert BuiltinReader(exported).read([np.zeros((30, 90, 3), np.uint8)])
    assert (tmp_path / "recogniser.pt").is_file()
