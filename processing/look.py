"""Choose among what was read at overlapping places of a frame."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from processing.crop import picture
from processing.result import Reading
from processing.text import is_plate, normalise, plausibility
from processing.vote import vote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processing.detect import Candidate
    from processing.result import Text
    from processing.video import Frame

# A character more is worth this much confidence, and joining two lines costs so much: the join
# must bring three characters more than its better part.
WORTH_OF_A_CHARACTER = 0.06
COST_OF_A_JOIN = 0.15


def best_readings(
    frame: Frame, candidates: Sequence[Candidate], texts: Sequence[Sequence[Text]]
) -> list[Reading]:
    """Return the plates read in a frame, one for each place.

    Args:
        frame: where they were read.
        candidates: the places that were looked at.
        texts: what was read of each place, by view.
    """
    likely = sorted(
        (
            (_worth(candidate, reading), candidate, reading)
            for candidate, views in zip(candidates, texts, strict=True)
            if not candidate.half
            and any(is_plate(view.raw, worded=candidate.worded) for view in views)
            for reading in [_reading(frame, candidate, views)]
            if is_plate(reading.text, worded=candidate.worded)
        ),
        key=lambda one: -one[0],
    )
    kept: list[Reading] = []
    for _, candidate, reading in likely:
        if not any(_overlap(reading, other) for other in kept):
            kept.append(replace(reading, crop=picture(frame.image, candidate.quad)))
    return kept


def _worth(candidate: Candidate, reading: Reading) -> float:
    cost = COST_OF_A_JOIN if candidate.joined else 0.0
    sure = reading.confidence * plausibility(reading.text)
    return sure + WORTH_OF_A_CHARACTER * len(reading.text) - cost


def _reading(frame: Frame, candidate: Candidate, views: Sequence[Text]) -> Reading:
    first = views[0]
    reading = Reading(
        frame=frame.index,
        time=frame.time,
        box=candidate.box,
        text=normalise(first.raw),
        confidence=min(1.0, max(0.0, first.confidence)),
        characters=first.characters,
        views=tuple(views) if len(views) > 1 else (),
        score=candidate.score,
    )
    if len(views) == 1:
        return reading
    verdict = vote([reading])
    return replace(
        reading,
        text=verdict.text,
        confidence=verdict.confidence,
        characters=verdict.characters,
    )


def _overlap(one: Reading, other: Reading) -> bool:
    a, b = one.box, other.box
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return min(width, height) > 0 and width * height > 0.5 * min(a.area, b.area)
