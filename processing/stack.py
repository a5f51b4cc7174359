"""Join two lines of text, one above the other, to the one plate that they may be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from processing.formats import fits, mended
from processing.result import Text
from processing.text import LENGTHS, normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processing.detect import Candidate

# Of one line of a plate that has two.
LINE_LENGTHS = range(2, 6)
LIKE_DIGITS = "0123456789IOQ"
# How far the middles of the lines are apart, as a share of the lower one's height: boxes of text
# are generous, those of two lines overlap.
STEPS = (0.4, 1.35)
# Heights together, of the lower height; the greater width, of the smaller.
LIKE = 2.7
# Of the wider line's width: how far their middles may be apart.
ASIDE = 0.25


def paired(candidates: Sequence[Candidate], texts: Sequence[Sequence[Text]]) -> set[int]:
    """Return the places of the lines that may be halves of a plate, by what was read first."""
    return {place for pair in _pairs(candidates, texts) for place in pair}


def with_stacks(
    candidates: Sequence[Candidate], texts: Sequence[Sequence[Text]]
) -> tuple[list[Candidate], list[Sequence[Text]]]:
    """Return candidates and their texts, and after them the plates of two lines among them.

    Two lines are one plate where they are alike, close, and together have the form of a plate that
    neither has alone. Signs above each other and a plate with its state's name have not.

    Args:
        candidates: the places that were looked at.
        texts: what was read of each, by view.
    """
    stacks = [
        (_both(candidates[upper], candidates[lower]), _by_view(texts[upper], texts[lower]))
        for upper, lower in _pairs(candidates, texts)
    ]
    whole = [
        (place, [_joined(*both) for both in views])
        for place, views in stacks
        if all(_is_plate(*both) for both in views)
    ]
    return (
        [*candidates, *(place for place, _ in whole)],
        [*texts, *(views for _, views in whole)],
    )


def _pairs(
    candidates: Sequence[Candidate], texts: Sequence[Sequence[Text]]
) -> Iterator[tuple[int, int]]:
    halves = [
        place
        for place, (first, *_) in enumerate(texts)
        if not candidates[place].joined and _is_half(normalise(first.raw))
    ]
    for upper in halves:
        for lower in halves:
            if upper != lower and _above(candidates[upper], candidates[lower]):
                yield upper, lower


def _is_half(text: str) -> bool:
    return len(text) in LINE_LENGTHS and not fits(text)


def _above(upper: Candidate, lower: Candidate) -> bool:
    one, other = upper.box, lower.box
    low, wide = min(one.height, other.height), max(one.width, other.width)
    alike = (
        upper.half == lower.half
        and one.height + other.height < LIKE * low
        and wide < LIKE * min(one.width, other.width)
    )
    aside = abs(one.centre[0] - other.centre[0]) < ASIDE * wide
    step = other.centre[1] - one.centre[1]
    return alike and aside and STEPS[0] * low < step < STEPS[1] * low


def _both(upper: Candidate, lower: Candidate) -> Candidate:
    corners = (upper.quad[0], upper.quad[1], lower.quad[2], lower.quad[3])
    return replace(
        upper, quad=corners, score=min(upper.score, lower.score), joined=True, half=False
    )


def _by_view(upper: Sequence[Text], lower: Sequence[Text]) -> list[tuple[Text, Text]]:
    # A line that was known was looked at once only.
    return list(zip(upper, lower, strict=False))


def _joined(upper: Text, lower: Text) -> Text:
    lengths = [max(1, len(normalise(one.raw))) for one in (upper, lower)]
    told = upper.characters and lower.characters
    confidence = upper.confidence * lengths[0] + lower.confidence * lengths[1]
    return Text(
        f"{upper.raw} {lower.raw}",
        confidence / sum(lengths),
        upper.characters + lower.characters if told else (),
    )


def _is_plate(upper: Text, lower: Text) -> bool:
    lines = normalise(upper.raw), normalise(lower.raw)
    # No number is broken in two, whatever its digits were taken for.
    if not all(lines) or (lines[0][-1] in LIKE_DIGITS and lines[1][0] in LIKE_DIGITS):
        return False
    joined = "".join(lines)
    return len(joined) in LENGTHS and fits(mended(joined))
