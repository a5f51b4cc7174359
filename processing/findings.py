"""What one span of a video showed, and its JSON, in which nothing is rounded or left out."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processing.result import Box, Reading, Text
from processing.track import Event

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Findings:
    """Hold what one span of a video showed.

    Args:
        events: what its tracker was told, by time.
        frames: how many of the span there were, skipped ones included.
        analysed: how many of them were searched for plates.
        undecodable: frames that gave no picture.
        duration: seconds from the start of the stream to the end of the last frame passed.
        seconds: of wall clock by stage.
    """

    events: tuple[Event, ...]
    frames: int
    analysed: int
    undecodable: int
    duration: float
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the findings as a JSON object."""
        return {
            "events": [_of_event(event) for event in self.events],
            "frames": self.frames,
            "analysed": self.analysed,
            "undecodable": self.undecodable,
            "duration": self.duration,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Findings:
        """Build the findings that `to_json` described.

        Raises:
            ValueError, KeyError, TypeError: it is no such document.
        """
        return cls(
            events=tuple(_event(one) for one in document["events"]),
            frames=int(document["frames"]),
            analysed=int(document["analysed"]),
            undecodable=int(document["undecodable"]),
            duration=float(document["duration"]),
            seconds={str(name): float(value) for name, value in document["seconds"].items()},
        )


def _of_event(event: Event) -> dict[str, Any]:
    return {
        "time": event.time,
        "readings": [_of_reading(reading) for reading in event.readings],
        "held": event.held and _of_reading(event.held),
    }


def _event(document: Mapping[str, Any]) -> Event:
    held = document["held"]
    readings = tuple(_reading(one) for one in document["readings"])
    return Event(float(document["time"]), readings, held and _reading(held))


def _of_reading(reading: Reading) -> dict[str, Any]:
    return {
        **reading.to_json(),
        "views": [[view.raw, view.confidence, list(view.characters)] for view in reading.views],
        "score": reading.score,
        "crop": b64encode(reading.crop).decode(),
    }


def _reading(document: Mapping[str, Any]) -> Reading:
    return Reading(
        frame=int(document["frame"]),
        time=float(document["time"]),
        box=Box.from_json(document["box"]),
        text=str(document["text"]),
        confidence=float(document["confidence"]),
        characters=_floats(document["characters"]),
        crop=b64decode(document["crop"], validate=True),
        views=tuple(
            Text(str(raw), float(confidence), _floats(characters))
            for raw, confidence, characters in document["views"]
        ),
        score=float(document["score"]),
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
