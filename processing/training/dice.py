"""Throw dice: all that chance decides in a sample comes from here, and from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Dice:
    """Choose by chance.

    Args:
        generator: where chance comes from.
    """

    generator: np.random.Generator

    @classmethod
    def of(cls, *seeds: int) -> Dice:
        """Return dice that fall alike whenever the seeds are the same."""
        return cls(np.random.default_rng(seeds))

    def odds(self, share: float) -> bool:
        """Tell yes in a share of all cases."""
        return bool(self.generator.random() < share)

    def between(self, least: float, most: float) -> float:
        """Return a number from a range, each alike."""
        return float(self.generator.uniform(least, most))

    def about(self, spread: float) -> float:
        """Return a number around 0 of a normal distribution."""
        return float(self.generator.normal(0, spread))

    def whole(self, least: int, below: int) -> int:
        """Return a whole number from a range without its end."""
        return int(self.generator.integers(least, below))

    def among(self, many: Sequence[One]) -> One:
        """Return one of many, each alike."""
        return many[self.whole(0, len(many))]

    def weighted(self, shares: Mapping[One, float]) -> One:
        """Return one of many by its share; the shares sum up to 1."""
        left = float(self.generator.random())
        for one, share in shares.items():
            left -= share
            if left < 0:
                return one
        return next(iter(shares))

    def field(self, rows: int, columns: int, least: float, most: float) -> NDArray[np.float32]:
        """Return rows x columns of numbers from a range."""
        return self.generator.uniform(least, most, (rows, columns)).astype(np.float32)

    def noise(self, shape: tuple[int, ...], spread: float = 1.0) -> NDArray[np.float32]:
        """Return numbers around 0 of a normal distribution."""
        return self.generator.standard_normal(shape, np.float32) * np.float32(spread)
