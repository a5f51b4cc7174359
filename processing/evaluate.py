"""Compare what was found with what is true: exact match, error rate, recall, calibration; pure."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import Levenshtein

from processing.result import Box
from processing.text import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from processing.result import Plate

COLUMNS = ("file", "text")
PLACE = ("x", "y", "width", "height")
BINS = 10
# Boxes of which so much is common are of the same plate.
SAME_PLACE = 0.4


class InvalidLabels(ValueError):
    """The labels are not what they have to be; the message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Label:
    """Hold one plate that a file shows.

    Args:
        text: normalised.
        box: where it is, None where that is not known.
    """

    text: str
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what was found in one file.

    Args:
        labels: the plates it shows; none where there is nothing to be found.
        plates: those reported, as the analysis orders them.
        minutes: of video; 0.0 for a still image.
        seconds: of wall clock that it took.
    """

    labels: tuple[Label, ...]
    plates: tuple[Plate, ...]
    minutes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """Hold how good the outcomes are; None where there is nothing to measure it by.

    Args:
        files: how many there were.
        labels: how many plates there were to be found.
        exact: share of them that were read right: of a still image by its first plate.
        error_rate: wrong characters of the text that comes nearest, as a share of all characters.
        recall: share of the plates whose place is known where something was found.
        false_plates: reported, and not there.
        false_per_minute: the same for each minute of video.
        calibration_error: how far confidence is from truth (ECE), 0 to 1.
        speed: seconds of video analysed in a second.
        seconds_per_image: of wall clock.
    """

    files: int
    labels: int
    exact: float | None
    error_rate: float | None
    recall: float | None
    false_plates: int
    false_per_minute: float | None
    calibration_error: float | None
    speed: float | None
    seconds_per_image: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the score as a JSON object."""
        return asdict(self)


def read_labels(lines: Iterable[str]) -> dict[str, tuple[Label, ...]]:
    """Read the labels of each file from CSV lines with a header.

    The columns `file` and `text` have to be there, `x`, `y`, `width` and `height` in pixels may be.
    A file has a line for each of its plates, one with an empty text where it shows none.

    Raises:
        InvalidLabels: a column is missing, or a line has another form.
    """
    table = csv.DictReader(lines)
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise InvalidLabels(
            f"Expected the columns {', '.join(COLUMNS)}, got {', '.join(table.fieldnames or ())}"
        )
    found: defaultdict[str, list[Label]] = defaultdict(list)
    for number, row in enumerate(table, 2):
        labels = found[_file(row, number)]
        if normalise(row["text"] or ""):
            labels.append(Label(normalise(row["text"]), _box(row, number)))
    return {file: tuple(labels) for file, labels in found.items()}


def score(outcomes: Sequence[Outcome]) -> Score:
    """Measure outcomes together."""
    labels = sum(len(outcome.labels) for outcome in outcomes)
    characters = sum(len(label.text) for outcome in outcomes for label in outcome.labels)
    placed = [found for outcome in outcomes for found in _placed(outcome)]
    minutes = sum(outcome.minutes for outcome in outcomes)
    films = [outcome for outcome in outcomes if outcome.minutes]
    stills = [outcome for outcome in outcomes if not outcome.minutes]
    false = sum(_false(outcome) for outcome in films)
    return Score(
        files=len(outcomes),
        labels=labels,
        exact=_share(sum(_exact(outcome) for outcome in outcomes), labels),
        error_rate=_share(sum(_errors(outcome) for outcome in outcomes), characters),
        recall=_share(sum(placed), len(placed)),
        false_plates=false + sum(_false(outcome) for outcome in stills),
        false_per_minute=_share(false, minutes),
        calibration_error=calibration_error(
            [told for outcome in outcomes for told in _claims(outcome)]
        ),
        speed=_share(minutes * 60, sum(outcome.seconds for outcome in films)),
        seconds_per_image=_share(sum(outcome.seconds for outcome in stills), len(stills)),
    )


def calibration_error(claims: Sequence[tuple[float, bool]]) -> float | None:
    """Return the expected calibration error of confidences that were right or not.

    It is the distance of mean confidence and share of right ones in each of ten equal ranges,
    weighted by how many fall there (Naeini et al. 2015).
    """
    bins: defaultdict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in claims:
        bins[min(BINS - 1, int(confidence * BINS))].append((confidence, right))
    far = sum(abs(sum(told for told, _ in one) - sum(right for _, right in one))
              for one in bins.values())  # fmt: skip
    return _share(far, len(claims))


def _file(row: dict[str, Any], number: int) -> str:
    file = row["file"]
    if not file or file.startswith("/") or ".." in file.split("/"):
        raise InvalidLabels(f"Line {number}: expected a path below the folder, got {file!r}")
    return str(file)


def _box(row: dict[str, Any], number: int) -> Box | None:
    told = [row.get(name) or "" for name in PLACE]
    if not any(told):
        return None
    try:
        return Box(*(round(float(value)) for value in told))
    except (ValueError, OverflowError) as error:
        raise InvalidLabels(
            f"Line {number}: expected numbers as {', '.join(PLACE)}, got {', '.join(told)}"
        ) from error


def _reported(outcome: Outcome) -> tuple[Plate, ...]:
    # Of a still image the first plate counts: others on it may be there without being labelled.
    single = not outcome.minutes and len(outcome.labels) == 1
    return outcome.plates[:1] if single else outcome.plates


def _exact(outcome: Outcome) -> int:
    texts = {plate.text for plate in _reported(outcome)}
    return sum(label.text in texts for label in outcome.labels)


def _errors(outcome: Outcome) -> int:
    texts = [plate.text for plate in _reported(outcome)]
    return sum(
        min((Levenshtein.distance(label.text, text) for text in texts), default=len(label.text))
        for label in outcome.labels
    )


def _false(outcome: Outcome) -> int:
    """Count the plates that are none of the labelled, neither by text nor by place."""
    texts = {label.text for label in outcome.labels}
    places = [label.box for label in outcome.labels if label.box and not outcome.minutes]
    return sum(
        plate.text not in texts
        and not any(plate.box and _same_place(plate.box, place) for place in places)
        for plate in outcome.plates
    )


def _placed(outcome: Outcome) -> Iterator[bool]:
    for label in outcome.labels:
        if label.box is not None and not outcome.minutes:
            place = label.box
            yield any(plate.box and _same_place(plate.box, place) for plate in outcome.plates)


def _same_place(found: Box, label: Box) -> bool:
    x, y = found.centre
    if label.x <= x <= label.x + label.width and label.y <= y <= label.y + label.height:
        return True
    across = min(found.x + found.width, label.x + label.width) - max(found.x, label.x)
    down = min(found.y + found.height, label.y + label.height) - max(found.y, label.y)
    common = max(0, across) * max(0, down)
    return common >= SAME_PLACE * (found.area + label.area - common)


def _claims(outcome: Outcome) -> Iterator[tuple[float, bool]]:
    texts = {label.text for label in outcome.labels}
    for plate in _reported(outcome):
        yield plate.confidence, plate.text in texts


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
