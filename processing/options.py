"""What a client may choose for the analysis of its video; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The names by which they are given.
OPTIONS = ("frame_skip", "min_confidence")
MOST_SKIPPED = 1000

_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
# As JSON and JavaScript write numbers too: 1e-7, -0.
_DECIMAL = re.compile(
    r"-?(\d{1,9}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE
)


class InvalidOption(ValueError):
    """An option is not what it has to be; the message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Options:
    """Hold the options of one analysis.

    `frame_skip` N analyses every N-th frame, 1 to 1000; None leaves it to the pipeline. Plates of a
    lower confidence than `min_confidence`, 0 to 1, are left out.
    """

    frame_skip: int | None = None
    min_confidence: float = 0.3

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Options:
        """Read the options among what a client sent; other names are left alone.

        An empty value is as good as none.

        Raises:
            InvalidOption: one of them is out of range, or no number.
        """
        skip, confidence = given.get("frame_skip", ""), given.get("min_confidence", "")
        return cls(
            frame_skip=_frame_skip(skip.strip()) if skip.strip() else None,
            min_confidence=_min_confidence(confidence.strip()) if confidence.strip() else 0.3,
        )


def _frame_skip(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not 1 <= int(text) <= MOST_SKIPPED:
        raise InvalidOption(
            f"frame_skip: expected an integer from 1 to {MOST_SKIPPED}, got {text[:40]!r}"
        )
    return int(text)


def _min_confidence(text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not 0 <= float(text) <= 1:
        raise InvalidOption(f"min_confidence: expected a number from 0 to 1, got {text[:40]!r}")
    return float(text)
