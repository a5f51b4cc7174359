"""Make one text of many readings of one plate."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processing.result import Reading

# A weight of nothing at all would make a lone unsure reading vanish.
LEAST_WEIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what readings agree on.

    Args:
        text: the text voted for.
        confidence: share of the weight behind its characters times the readers' own confidence,
            0 to 1.
    """

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class _Ballot:
    """Hold the weights given at the columns of a pivot and in the gaps before each of them."""

    columns: list[defaultdict[str, float]]
    gaps: defaultdict[int, defaultdict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )


def vote(readings: Sequence[Reading]) -> Verdict:
    """Vote per character, each reading aligned to the one most like all others.

    A vote weighs the reader's confidence in the character times the width of the plate.

    Raises:
        ValueError: there are no readings.
    """
    if not readings:
        raise ValueError("Expected at least one reading, got none")
    pivot = _pivot(readings)
    ballot = _Ballot([defaultdict(float) for _ in pivot])
    for reading in readings:
        _cast(ballot, pivot, reading)
    text, share = _count(ballot, sum(_weight(reading) for reading in readings))
    return Verdict(text, min(1.0, share * _own_confidence(readings, text)))


def _pivot(readings: Sequence[Reading]) -> str:
    weights: defaultdict[str, float] = defaultdict(float)
    for reading in readings:
        weights[reading.text] += _weight(reading)

    def cost(text: str) -> tuple[float, str]:
        # The text itself is the tie-break, so that the order of readings does not matter.
        far = sum(w * Levenshtein.distance(text, other) for other, w in weights.items())
        return far - weights[text], text

    return min(weights, key=cost)


def _cast(ballot: _Ballot, pivot: str, reading: Reading) -> None:
    for block in Levenshtein.opcodes(pivot, reading.text):
        target = range(block.dest_start, block.dest_end)
        if block.tag == "insert":
            inserted = reading.text[block.dest_start : block.dest_end]
            ballot.gaps[block.src_start][inserted] += _mean_weight(reading, target)
            continue
        for offset, column in enumerate(range(block.src_start, block.src_end)):
            if block.tag == "delete":
                ballot.columns[column][""] += _weight(reading)
            else:
                place = block.dest_start + offset
                weight = _mean_weight(reading, range(place, place + 1))
                ballot.columns[column][reading.text[place]] += weight


def _count(ballot: _Ballot, total: float) -> tuple[str, float]:
    chosen: list[tuple[str, float]] = []
    for column, votes in enumerate(ballot.columns):
        chosen.extend(_insertion(ballot.gaps.get(column), total))
        chosen.append(_winner(votes))
    chosen.extend(_insertion(ballot.gaps.get(len(ballot.columns)), total))
    text = "".join(characters for characters, _ in chosen)
    return text, sum(share for _, share in chosen) / max(1, len(chosen))


def _winner(votes: Mapping[str, float]) -> tuple[str, float]:
    best = max(votes, key=lambda character: (votes[character], character))
    return best, votes[best] / sum(votes.values())


def _insertion(votes: Mapping[str, float] | None, total: float) -> list[tuple[str, float]]:
    if not votes:
        return []
    inserted, _ = _winner(votes)
    share = min(1.0, votes[inserted] / total)
    return [(inserted, share)] if share > 0.5 else []  # noqa: PLR2004 - the majority


def _weight(reading: Reading) -> float:
    return max(LEAST_WEIGHT, reading.confidence) * max(1, reading.box.width)


def _mean_weight(reading: Reading, places: range) -> float:
    told = [reading.characters[place] for place in places if place < len(reading.characters)]
    if not told:
        return _weight(reading)
    return max(LEAST_WEIGHT, sum(told) / len(told)) * max(1, reading.box.width)


def _own_confidence(readings: Sequence[Reading], text: str) -> float:
    agreeing = [reading.confidence for reading in readings if reading.text == text]
    told = agreeing or [reading.confidence for reading in readings]
    return sum(told) / len(told)
