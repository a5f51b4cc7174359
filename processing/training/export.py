"""Write the trained recogniser as ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from processing.recognition import SHAPE

if TYPE_CHECKING:
    from pathlib import Path

    from processing.training.network import Recogniser


def export(network: Recogniser, path: Path) -> None:
    """Write a network that takes N x 1 x 32 x 128 float, 0 to 255, and gives probabilities."""
    network.eval()
    told = torch.nn.Sequential(network, torch.nn.Softmax(dim=2)).eval()
    torch.onnx.export(
        told,
        (torch.zeros(1, 1, *SHAPE),),
        str(path),
        input_names=["pictures"],
        output_names=["probabilities"],
        dynamic_axes={"pictures": {0: "many"}, "probabilities": {0: "many"}},
        dynamo=False,
    )
