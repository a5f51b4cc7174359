"""`python -m processing.training.recogniser`: train the recogniser on drawn plates, export it.

It goes on from the last checkpoint in `--out`, so several sessions can share one training.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from processing.recognition import CLASSES, FILE, decode
from processing.training.export import export
from processing.training.network import Recogniser
from processing.training.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

BATCH = 64
# Samples of this seed are never trained on.
HELD_OUT_SEED = 1_000_003
RATE = 1.5e-3
WARM_UP = 300
# The rate falls to nothing over the last part of a session.
FALLING = 0.3
AVERAGED_OVER = 1000
SAVE_SECONDS = 180.0

Batch = tuple["Tensor", "Tensor", "Tensor"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Say how one session of training goes.

    Args:
        fonts: files of fonts.
        seed: of the samples and of the first weights.
        seconds: how long it goes on.
        workers: processes that draw; 0 draws between the steps.
        held_out: samples that are read at the end to tell how many are right.
    """

    fonts: Sequence[Path]
    seed: int
    seconds: float
    workers: int = 1
    held_out: int = 2048


class Drawn(Dataset[Batch]):
    """Draw batches by their number."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> Batch:
        return batch(self._samples, number * BATCH, BATCH)


def encode(text: str) -> list[int]:
    """Return the class of each character."""
    return [CLASSES.index(character) + 1 for character in text]


def batch(samples: Samples, start: int, many: int) -> Batch:
    """Return many samples: pictures, classes one after the other, and how many each has."""
    drawn = [samples.sample(number) for number in range(start, start + many)]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn])[:, None])
    lengths = torch.tensor([len(text) for _, text in drawn])
    classes = torch.tensor([one for _, text in drawn for one in encode(text)], dtype=torch.long)
    return pictures, classes, lengths


class Training:
    """Hold the network, the average of its weights, and how far it is."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.network = Recogniser().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), RATE, weight_decay=0.02)
        self.steps = 0

    def step(self, some: Batch, share: float) -> float:
        """Learn from a batch at a share of the full rate, and return the loss before."""
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * share * min(1.0, (self.steps + 1) / WARM_UP)
        self.network.train()
        lost = loss(self.network, some)
        self.optimiser.zero_grad()
        lost.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        self.steps += 1
        self._follow()
        return float(lost.item())

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(1 - 1 / AVERAGED_OVER, self.steps / (self.steps + 10))
        states = self.network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(states[name], 1 - keep)
            else:
                value.copy_(states[name])

    def save(self, path: Path) -> None:
        """Write a checkpoint; a crash leaves the one before."""
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
        }
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


def loss(network: Recogniser, some: Batch) -> Tensor:
    """Return the CTC loss of a batch, per character."""
    pictures, classes, lengths = some
    shown = pictures.float().contiguous(memory_format=torch.channels_last)
    # Several times as fast where the processor multiplies tiles of bfloat16.
    with torch.autocast("cpu", torch.bfloat16):
        told = network(shown)
    scores = told.float().log_softmax(2).transpose(0, 1)
    columns = torch.full((len(pictures),), scores.shape[0])
    return functional.ctc_loss(scores, classes, columns, lengths, zero_infinity=True)


@torch.no_grad()
def accuracy(network: Recogniser, samples: Samples, many: int) -> float:
    """Return the share of held-out samples that are read right, letter by letter."""
    network.eval()
    right = 0
    for start in range(0, many, BATCH):
        told = [samples.sample(number) for number in range(start, start + BATCH)]
        pictures = torch.from_numpy(np.stack([picture for picture, _ in told])[:, None]).float()
        chances = network(pictures).softmax(2).numpy()
        right += sum(decode(one)[0] == text for one, (_, text) in zip(chances, told, strict=True))
    return right / many


def train(plan: Plan, out: Path) -> Path:
    """Train for a time, and return the exported network."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, exported = out / "recogniser.pt", out / FILE
    training = Training(plan.seed)
    if checkpoint.exists():
        training.load(checkpoint)
    started = saved = time.monotonic()
    recent = 0.0
    for some in _batches(plan, training.steps):
        passed = (time.monotonic() - started) / plan.seconds
        if passed >= 1:
            break
        told = training.step(some, min(1.0, (1 - passed) / FALLING))
        recent = told if not recent else 0.98 * recent + 0.02 * told
        if time.monotonic() - saved >= SAVE_SECONDS:
            training.save(checkpoint)
            _tell(training.steps, recent, time.monotonic() - started)
            saved = time.monotonic()
    training.save(checkpoint)
    export(training.average, exported)
    held_out = Samples.of(plan.fonts, HELD_OUT_SEED)
    right = accuracy(training.average, held_out, plan.held_out)
    _tell(training.steps, recent, time.monotonic() - started, f"held out {right:.4f}")
    return exported


def _batches(plan: Plan, start: int) -> Iterator[Batch]:
    drawn = Drawn(Samples.of(plan.fonts, plan.seed))
    loader = DataLoader(
        drawn,
        batch_size=None,
        sampler=range(start, start + (1 << 30)),
        num_workers=plan.workers,
        prefetch_factor=8 if plan.workers else None,
    )
    yield from loader


def _tell(steps: int, recent: float, seconds: float, more: str = "") -> None:
    line = (
        f"{time.strftime('%H:%M:%S')} step {steps} loss {recent:.4f} after {seconds:.0f} s {more}"
    )
    print(line, flush=True)  # noqa: T201  talks to people


def main(words: Sequence[str]) -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m processing.training.recogniser",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--fonts", type=Path, help="folder of fonts; without it own pens only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--threads", type=int, default=1, help="that compute")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    fonts = sorted(options.fonts.iterdir()) if options.fonts else []
    train(Plan(fonts, options.seed, options.minutes * 60, options.workers), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
