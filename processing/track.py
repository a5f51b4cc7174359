"""Join readings over frames to tracks, and tracks to plates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from processing.calibrate import Calibration
from processing.formats import fits, regions
from processing.result import Alternative, Box, Place, Plate, Sighting
from processing.text import plausibility
from processing.vote import Verdict, settled, vote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from processing.formats import Region
    from processing.result import Reading

CONFUSABLE = str.maketrans("OQDIBSZG", "00018526")
# Texts of one track whose best picture is kept.
MOST_SHOTS = 8
UNUSUAL = 0.85
# What is told of each plate, at most.
MOST_ALTERNATIVES = 5
MOST_PLACES = 200
LEAST_WEIGHT = 0.02
# Seconds out of sight after which a plate counts as seen again.
LONGEST_GAP = 3.0
SOLID_READINGS = 3
SOLID_CONFIDENCE = 0.8


class Track:
    """Collect the readings of one plate while it stays in view.

    Only the best shot of each text keeps its picture: memory must not grow with the video.

    Attributes:
        readings: by time.
        until: seconds at which it was last in view.
        held: frames in which it was in view, unchanged, without being read again.
    """

    def __init__(self, first: Reading) -> None:
        self.readings: list[Reading] = []
        self.until = first.time
        self.held = 0
        self._shots: dict[str, int] = {}
        self.add(first)

    def add(self, reading: Reading) -> None:
        """Continue the track."""
        rival = self._rival(reading.text)
        if rival is None or _quality(reading) > _quality(self.readings[self._shots[rival]]):
            if rival is not None:
                place = self._shots.pop(rival)
                self.readings[place] = replace(self.readings[place], crop=b"")
            self._shots[reading.text] = len(self.readings)
        else:
            reading = replace(reading, crop=b"")
        self.readings.append(reading)
        self.until = reading.time

    def hold(self, time: float) -> None:
        """Continue the track over a frame in which its place has not changed."""
        self.until = time
        self.held += 1

    def forget_shots(self) -> None:
        """Keep pictures of what is read from here on, whatever was read before."""
        self._shots.clear()

    def expected(self, time: float) -> Box:
        """Return where its plate is thought to be."""
        x, y = self._expected(time)
        box = self.last.box
        return Box(round(x - box.width / 2), round(y - box.height / 2), box.width, box.height)

    def _rival(self, text: str) -> str | None:
        """Return the text whose picture a picture of `text` would replace."""
        if text in self._shots or len(self._shots) < MOST_SHOTS:
            return text if text in self._shots else None
        return min(self._shots, key=lambda one: _quality(self.readings[self._shots[one]]))

    @property
    def last(self) -> Reading:
        return self.readings[-1]

    def affinity(self, reading: Reading) -> float:
        """Tell how well a reading continues the track: 0 for not at all, up to 2."""
        alike = max(_alike(reading.text, past.text) for past in self.readings[-5:])
        near = self._nearness(reading)
        # The same text may have moved far; another text must lie where the plate is expected.
        fits = alike > 0.75 or (alike > 0.4 and near > 0.5)  # noqa: PLR2004
        return alike + near if fits else 0.0

    def _nearness(self, reading: Reading) -> float:
        # Distance between centres over the width of the plate: boxes this small rarely overlap.
        x, y = self._expected(reading.time)
        centre = reading.box.centre
        distance = hypot(centre[0] - x, centre[1] - y)
        return max(0.0, 1 - distance / (2 * max(reading.box.width, self.last.box.width, 1)))

    def _expected(self, time: float) -> tuple[float, float]:
        x, y = self.last.box.centre
        if len(self.readings) == 1:
            return x, y
        before = self.readings[-2]
        passed = self.last.time - before.time
        factor = (time - self.last.time) / passed if passed > 0 else 0.0
        past_x, past_y = before.box.centre
        return x + (x - past_x) * factor, y + (y - past_y) * factor


@dataclass(frozen=True, slots=True)
class Event:
    """Hold what a tracker was told at one time.

    Args:
        time: seconds from the start of the stream.
        readings: all of one frame.
        held: what was last read of a plate that rests; of each there is an event of its own.
    """

    time: float
    readings: tuple[Reading, ...] = ()
    held: Reading | None = None


class Tracker:
    """Join readings frame by frame.

    Args:
        patience: seconds a plate may be out of sight within one track.
        note: is told each event before it takes effect.

    Attributes:
        open: the tracks that may go on.
        tracks: all of them.
    """

    def __init__(self, patience: float = 1.0, note: Callable[[Event], None] | None = None) -> None:
        self._patience = patience
        self._note = note or _ignore
        self.open: list[Track] = []
        self.tracks: list[Track] = []

    def add(self, readings: Sequence[Reading]) -> None:
        """Join all readings of one frame; frames come in the order of their times."""
        if not readings:
            return
        self._note(Event(readings[0].time, tuple(readings)))
        self.open_at(readings[0].time)
        pairs = sorted(
            (
                (track.affinity(reading), -number, -place)
                for number, track in enumerate(self.open)
                for place, reading in enumerate(readings)
            ),
            reverse=True,
        )
        self._assign(readings, [(-number, -place) for score, number, place in pairs if score])

    def hold(self, track: Track, time: float) -> None:
        """Continue one of the tracks over a frame in which its place has not changed."""
        self._note(Event(time, held=track.last))
        track.hold(time)

    def replay(self, event: Event) -> None:
        """Take what another tracker was told of the same video."""
        self.add(event.readings)
        if event.held is not None:
            self.open_at(event.time)
            self.hold(self._track_of(event.held), event.time)

    def _track_of(self, reading: Reading) -> Track:
        """Return the open track that a reading belongs to; a new one where there is none."""
        for track in self.open:
            if track.last == reading:
                return track
        best = max(self.open, key=lambda track: track.affinity(reading), default=None)
        if best is None or not best.affinity(reading):
            best = self._begin(reading)
        return best

    def _begin(self, reading: Reading) -> Track:
        track = Track(reading)
        self.open.append(track)
        self.tracks.append(track)
        return track

    def open_at(self, time: float) -> list[Track]:
        """Return the tracks that may go on at a time not before those already seen."""
        self.open = [track for track in self.open if time - track.until <= self._patience]
        return list(self.open)

    def _assign(self, readings: Sequence[Reading], pairs: Iterable[tuple[int, int]]) -> None:
        taken: set[int] = set()
        joined: set[int] = set()
        for number, place in pairs:
            if number not in taken and place not in joined:
                taken.add(number)
                joined.add(place)
                self.open[number].add(readings[place])
        for place, reading in enumerate(readings):
            if place not in joined:
                self._begin(reading)


def _ignore(_: Event) -> None:
    """Take no interest in events."""


@dataclass(frozen=True, slots=True)
class _Vehicle:
    """Hold the tracks that are of one plate."""

    readings: tuple[Reading, ...]
    verdict: Verdict
    stays: tuple[Sighting, ...]

    @classmethod
    def of(cls, readings: Iterable[Reading], stays: Iterable[Sighting]) -> _Vehicle:
        ordered = tuple(sorted(readings, key=lambda reading: reading.frame))
        by_time = tuple(sorted(stays, key=lambda stay: stay.first_seen))
        return cls(ordered, vote(ordered), by_time)

    @classmethod
    def on(cls, track: Track) -> _Vehicle:
        frames = len({reading.frame for reading in track.readings}) + track.held
        return cls.of(track.readings, [Sighting(track.readings[0].time, track.until, frames)])

    def with_(self, other: _Vehicle) -> _Vehicle:
        return _Vehicle.of(self.readings + other.readings, self.stays + other.stays)

    @property
    def until(self) -> float:
        return max(stay.last_seen for stay in self.stays)

    @property
    def text(self) -> str:
        return self.verdict.text

    @property
    def weight(self) -> float:
        return len(self.readings) * self.verdict.confidence

    @property
    def solid(self) -> bool:
        return len(self.readings) >= SOLID_READINGS and self.verdict.confidence >= SOLID_CONFIDENCE


def plates(
    tracks: Iterable[Track],
    *,
    single_frame: bool = False,
    region: Region = "any",
    calibration: Calibration | None = None,
) -> list[Plate]:
    """Vote on each track, join those of one plate, and return the plates by first appearance.

    Args:
        tracks: what a `Tracker` collected.
        single_frame: there was but one frame, so that no plate could be read twice.
        region: whose forms decide between characters that look alike.
        calibration: how sure the reader is when it is right; None for what is likely of any.
    """
    told = calibration or Calibration()
    joined: list[_Vehicle] = []
    # The strongest first, so that partial readings find the whole to join.
    vehicles = [_Vehicle.on(track) for track in tracks]
    for vehicle in sorted(vehicles, key=lambda one: (-one.weight, one.text)):
        for place, other in enumerate(joined):
            if _same_plate(other, vehicle):
                joined[place] = other.with_(vehicle)
                break
        else:
            joined.append(vehicle)
    found = [_plate(vehicle, region, told, single_frame=single_frame) for vehicle in joined]
    places = sorted(range(len(found)), key=lambda place: _rank(found[place], joined[place]))
    return [found[place] for place in places]


def without_overlays(tracks: Sequence[Track], duration: float, height: int) -> list[Track]:
    """Drop texts burnt into the picture: at its upper or lower edge, still while others move.

    Args:
        tracks: what a `Tracker` collected.
        duration: seconds that were analysed.
        height: of the frames, in pixels.
    """
    if not any(_travel(track) > track.last.box.width for track in tracks):
        return list(tracks)
    return [track for track in tracks if not _is_overlay(track, duration, height)]


def _is_overlay(track: Track, duration: float, height: int) -> bool:
    first, last = track.readings[0], track.last
    _, y = last.box.centre
    at_edge = min(y, height - y) < 0.1 * height
    always = track.until - first.time > max(3.0, 0.7 * duration)
    return at_edge and always and _travel(track) < 0.2 * last.box.width


def _travel(track: Track) -> float:
    xs, ys = zip(*(reading.box.centre for reading in track.readings), strict=True)
    return float(max(max(xs) - min(xs), max(ys) - min(ys)))


def _same_plate(strong: _Vehicle, weak: _Vehicle) -> bool:
    if strong.text.translate(CONFUSABLE) == weak.text.translate(CONFUSABLE):
        return True
    if weak.text in strong.text:
        return True
    if weak.solid or _apart_at_once(strong, weak):
        return False
    distance = Levenshtein.distance(strong.text, weak.text)
    close = _gap(strong, weak) < 1.5  # noqa: PLR2004 - seconds: hardly another vehicle
    allowed = len(strong.text) // 2 - 1 if close else 1
    return distance <= min(3, allowed)


def _apart_at_once(one: _Vehicle, other: _Vehicle) -> bool:
    places = {reading.frame: reading.box for reading in one.readings}
    return any(reading.frame in places for reading in other.readings)


def _gap(one: _Vehicle, other: _Vehicle) -> float:
    return max(
        one.readings[0].time - other.until,
        other.readings[0].time - one.until,
    )


def _plate(
    vehicle: _Vehicle, region: Region, calibration: Calibration, *, single_frame: bool
) -> Plate:
    text = settled(vehicle.verdict, region)
    frames = None if single_frame else len({reading.frame for reading in vehicle.readings})
    chance = calibration.chance(vehicle.verdict.certainty, form=fits(text), frames=frames)
    shot = max(_agreeing(vehicle), key=_quality)
    stays = _stays(vehicle.stays)
    return Plate(
        text=text,
        confidence=chance * plausibility(text),
        first_seen=vehicle.readings[0].time,
        last_seen=vehicle.until,
        detections=sum(stay.detections for stay in stays),
        box=shot.box,
        crop=shot.crop or max(vehicle.readings, key=_pictured).crop,
        alternatives=_alternatives(vehicle.verdict, text),
        regions=regions(text),
        sightings=stays,
        places=_places(vehicle.readings),
    )


def _alternatives(verdict: Verdict, text: str) -> tuple[Alternative, ...]:
    told = [Alternative(other, weight) for other, weight in verdict.rivals if other != text]
    return tuple(one for one in told if one.weight >= LEAST_WEIGHT)[:MOST_ALTERNATIVES]


def _stays(stays: Sequence[Sighting]) -> tuple[Sighting, ...]:
    """Join the stays between which the plate was hardly out of sight."""
    joined: list[Sighting] = []
    for stay in stays:
        if joined and stay.first_seen - joined[-1].last_seen <= LONGEST_GAP:
            last = joined.pop()
            until = max(last.last_seen, stay.last_seen)
            stay = Sighting(last.first_seen, until, last.detections + stay.detections)  # noqa: PLW2901
        joined.append(stay)
    return tuple(joined)


def _places(readings: Sequence[Reading]) -> tuple[Place, ...]:
    step = -(-len(readings) // MOST_PLACES)
    return tuple(Place(one.frame, one.time, one.box) for one in readings[:: max(1, step)])


def _rank(plate: Plate, vehicle: _Vehicle) -> tuple[float, float, str]:
    # Of plates seen together those of the nearer vehicles come first, unless they are less sure.
    shot = max(_agreeing(vehicle), key=_quality)
    usual = 1.0 if fits(plate.text) or plate.text.isdigit() else UNUSUAL
    sure = vehicle.verdict.confidence * plausibility(plate.text) * usual
    prominence = sure * shot.score**0.3 * shot.box.area**0.2
    return plate.first_seen, -prominence, plate.text


def _agreeing(vehicle: _Vehicle) -> Iterator[Reading]:
    exact = [reading for reading in vehicle.readings if reading.text == vehicle.text]
    yield from exact or vehicle.readings


def _quality(reading: Reading) -> float:
    return reading.confidence * reading.box.area


def _pictured(reading: Reading) -> tuple[bool, float]:
    return bool(reading.crop), _quality(reading)


def _alike(one: str, other: str) -> float:
    return fuzz.ratio(one, other) / 100
