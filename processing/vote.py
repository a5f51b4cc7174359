"""Make one text of many readings of one plate."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

from processing.formats import fits, mended, regions
from processing.result import Text
from processing.text import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from processing.formats import Region
    from processing.result import Reading

# A weight of nothing at all would make a lone unsure reading vanish.
LEAST_WEIGHT = 1e-3
MOST_PIVOTS = 32
# What a text must have of the weight to win by its form: more than one view of four has.
LEAST_SHARE = 0.3
ALIKE = str.maketrans("OI", "01")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what readings agree on.

    Args:
        text: the text voted for.
        confidence: share of the weight behind its characters times the readers' own confidence,
            0 to 1.
        characters: the same for each character.
        rivals: the other texts that were read, with their share of the weight, the largest first.
        certainty: geometric mean of how sure the readers were of each character, where they read
            another of not at all, 0 to 1.
    """

    text: str
    confidence: float
    characters: tuple[float, ...] = ()
    rivals: tuple[tuple[str, float], ...] = ()
    certainty: float = 0.0


@dataclass(frozen=True, slots=True)
class _Vote:
    """Hold one text with what it weighs: confidence times the width of the plate."""

    text: str
    confidence: float
    characters: tuple[float, ...]
    size: float

    @property
    def weight(self) -> float:
        return max(LEAST_WEIGHT, self.confidence) * self.size

    def sure_of(self, place: int) -> float:
        return self.characters[place] if place < len(self.characters) else self.confidence

    def weight_of(self, places: range) -> float:
        told = [self.characters[place] for place in places if place < len(self.characters)]
        return max(LEAST_WEIGHT, sum(told) / len(told)) * self.size if told else self.weight


@dataclass(frozen=True, slots=True)
class _Ballot:
    """Hold the weights given at the columns of a pivot and in the gaps before each of them."""

    columns: list[defaultdict[str, float]]
    gaps: defaultdict[int, defaultdict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )


def vote(readings: Sequence[Reading]) -> Verdict:
    """Vote per character, each text aligned to the one most like all others.

    A vote weighs the reader's confidence in the character times the width of the plate. The views
    of one reading share its vote.

    Raises:
        ValueError: there are no readings.
    """
    if not readings:
        raise ValueError("Expected at least one reading, got none")
    votes = [one for reading in readings for one in _votes(reading)]
    weights: defaultdict[str, float] = defaultdict(float)
    for one in votes:
        weights[one.text] += one.weight
    pivot = _pivot(weights)
    ballot = _Ballot([defaultdict(float) for _ in pivot])
    for one in votes:
        _cast(ballot, pivot, one)
    total = sum(weights.values())
    text, shares = _count(ballot, total)
    own = _own_confidence(votes, text)
    return Verdict(
        text,
        min(1.0, own * sum(shares) / max(1, len(shares))),
        tuple(min(1.0, own * share) for share in shares) if len(shares) == len(text) else (),
        tuple(sorted(_shares(weights, text, total), key=lambda rival: (-rival[1], rival[0]))),
        _certainty(votes, text),
    )


def settled(verdict: Verdict, region: Region = "any") -> str:
    """Return the text of a verdict, or one near it that has the form of a plate where it has not.

    Another text that was read often enough comes before a change of look-alike characters.
    """
    text = _commonest(verdict) if region == "any" else verdict.text
    if fits(text, region):
        return text
    for rival, share in verdict.rivals:
        near = Levenshtein.distance(rival, verdict.text) == 1
        if near and share >= LEAST_SHARE and fits(rival, region):
            return rival
    return mended(verdict.text, verdict.characters, region)


def _commonest(verdict: Verdict) -> str:
    """Return the text or what differs from it by look-alikes, whichever has the commoner form."""
    alike = [
        rival
        for rival, share in verdict.rivals
        if share >= LEAST_SHARE and rival.translate(ALIKE) == verdict.text.translate(ALIKE)
    ]
    return max([verdict.text, *alike], key=lambda text: len(regions(text)))


def _votes(reading: Reading) -> Iterator[_Vote]:
    own = Text(reading.text, reading.confidence, reading.characters)
    views = [view for view in reading.views if normalise(view.raw)] or [own]
    size = max(1, reading.box.width) / len(views)
    for view in views:
        yield _Vote(normalise(view.raw), view.confidence, view.characters, size)


def _shares(weights: Mapping[str, float], chosen: str, total: float) -> Iterator[tuple[str, float]]:
    return ((text, weight / total) for text, weight in weights.items() if text != chosen)


def _pivot(weights: Mapping[str, float]) -> str:
    def cost(text: str) -> tuple[float, str]:
        # The text itself is the tie-break, so that the order of readings does not matter.
        far = sum(w * Levenshtein.distance(text, other) for other, w in weights.items())
        return far - weights[text], text

    # Of a long track's many texts the rarest cannot win, and comparing all with all takes long.
    likely = sorted(weights, key=lambda text: (-weights[text], text))[:MOST_PIVOTS]
    return min(likely, key=cost)


def _cast(ballot: _Ballot, pivot: str, vote: _Vote) -> None:
    for block in Levenshtein.opcodes(pivot, vote.text):
        if block.tag == "insert":
            inserted = vote.text[block.dest_start : block.dest_end]
            weight = vote.weight_of(range(block.dest_start, block.dest_end))
            ballot.gaps[block.src_start][inserted] += weight
            continue
        for offset, column in enumerate(range(block.src_start, block.src_end)):
            if block.tag == "delete":
                ballot.columns[column][""] += vote.weight
            else:
                place = block.dest_start + offset
                ballot.columns[column][vote.text[place]] += vote.weight_of(range(place, place + 1))


def _count(ballot: _Ballot, total: float) -> tuple[str, list[float]]:
    chosen: list[tuple[str, float]] = []
    for column, votes in enumerate(ballot.columns):
        chosen.extend(_insertion(ballot.gaps.get(column), total))
        chosen.append(_winner(votes))
    chosen.extend(_insertion(ballot.gaps.get(len(ballot.columns)), total))
    return "".join(text for text, _ in chosen), [share for text, share in chosen if text]


def _winner(votes: Mapping[str, float]) -> tuple[str, float]:
    best = max(votes, key=lambda character: (votes[character], character))
    return best, votes[best] / sum(votes.values())


def _insertion(votes: Mapping[str, float] | None, total: float) -> list[tuple[str, float]]:
    if not votes:
        return []
    inserted, _ = _winner(votes)
    share = min(1.0, votes[inserted] / total)
    return [(inserted, share)] if share > 0.5 else []  # noqa: PLR2004 - the majority


def _own_confidence(votes: Sequence[_Vote], text: str) -> float:
    agreeing = [one for one in votes if one.text == text] or votes
    return sum(one.confidence for one in agreeing) / len(agreeing)


def _certainty(votes: Sequence[_Vote], text: str) -> float:
    sums = [0.0] * len(text)
    for one in votes:
        for block in Levenshtein.opcodes(text, one.text):
            if block.tag == "equal":
                for column in range(block.src_start, block.src_end):
                    place = column - block.src_start + block.dest_start
                    sums[column] += one.sure_of(place) * one.size
    total = sum(one.size for one in votes)
    logarithms = [math.log(max(LEAST_WEIGHT, value / total)) for value in sums]
    return math.exp(sum(logarithms) / max(1, len(logarithms)))
