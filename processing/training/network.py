"""The recogniser's network: a small residual one that tells a character for each column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from processing.recognition import CLASSES

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = (16, 32, 64, 128, 160)
HEADS = 4
COLUMNS = 32


class Recogniser(nn.Module):
    """Read a picture of 32 x 128 pixels into 32 columns of classes; the first class is nothing.

    Connectionist temporal classification (Graves et al. 2006) over a residual network.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth, width = CHANNELS
        self.look = nn.Sequential(
            _convolution(1, first, 3, stride=2),
            _convolution(first, second, 3),
            _convolution(second, third, 3, stride=2),
            Residual(third),
            _convolution(third, fourth, 3, stride=(2, 1)),
            Residual(fourth),
            _convolution(fourth, width, (4, 3), padding=(0, 1)),
        )
        self.place = nn.Parameter(torch.zeros(1, COLUMNS, width))
        self.context = Context(width)
        self.tell = nn.Linear(width, len(CLASSES) + 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the scores of batch x columns x classes for a batch of 1 x 32 x 128, 0 to 255."""
        middle = pictures.mean(dim=(2, 3), keepdim=True)
        away = pictures - middle
        spread = away.square().mean(dim=(2, 3), keepdim=True).sqrt()
        seen = self.look(away / (spread + 2.0)).squeeze(2).transpose(1, 2)
        told: Tensor = self.tell(self.context(seen + self.place))
        return told


class Residual(nn.Module):
    """Add what two convolutions find to what they are given (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, seen: Tensor) -> Tensor:
        """Return the same shape."""
        return torch.relu(seen + self.second(self.first(seen)))


class Context(nn.Module):
    """Let each column look at all others: one layer of attention (Vaswani et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.think = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, seen: Tensor) -> Tensor:
        """Return the same shape."""
        many, columns, width = seen.shape
        parts = self.ask(self.before(seen)).view(many, columns, 3, HEADS, width // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(2, 3) * (width // HEADS) ** -0.5).softmax(dim=3)
        heard = (weights @ value).transpose(1, 2).reshape(many, columns, width)
        seen = seen + self.answer(heard)
        return seen + self.think(self.between(seen))


def _convolution(
    before: int,
    after: int,
    size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, padding, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
