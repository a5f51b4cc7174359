"""The values an analysis is made of, and their JSON; pure, so that anybody may import it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Box:
    """Hold an upright rectangle in pixels of the full frame, origin at the top left."""

    x: int
    y: int
    width: int
    height: int

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def area(self) -> int:
        return self.width * self.height

    def to_json(self) -> dict[str, Any]:
        """Return the box as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Box:
        """Build the box that `to_json` described."""
        return cls(**{name: int(document[name]) for name in ("x", "y", "width", "height")})


@dataclass(frozen=True, slots=True)
class Part:
    """Say which part of a video is analysed.

    Args:
        start: seconds from the start of the stream; what comes before is not looked at.
        end: likewise, what comes after is not; None for the end of the stream.
        within: the part of each frame that is looked at; None for all of it.
        most_frames: the analysis ends after so many analysed frames; None for no limit.
    """

    start: float = 0.0
    end: float | None = None
    within: Box | None = None
    most_frames: int | None = None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Hold what the container says of its video stream.

    Args:
        width: pixels, after rotation.
        height: pixels, after rotation.
        fps: frames per second, 0.0 where the container does not say.
        frames: the container's own count, 0 where it does not say; it may be wrong.
    """

    width: int
    height: int
    fps: float
    frames: int

    def to_json(self) -> dict[str, Any]:
        """Return the video's description as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> VideoInfo:
        """Build the description that `to_json` wrote."""
        return cls(
            width=int(document["width"]),
            height=int(document["height"]),
            fps=float(document["fps"]),
            frames=int(document["frames"]),
        )


@dataclass(frozen=True, slots=True)
class Text:
    """Hold what a reader made of one view of a plate.

    Args:
        raw: as it was read, punctuation included.
        confidence: the reader's own, 0 to 1.
        characters: confidence of each A to Z and 0 to 9 of `raw`, 0 to 1; empty where the reader
            does not tell.
    """

    raw: str
    confidence: float
    characters: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Hold one text read once in one frame.

    Args:
        frame: index of the frame in the stream, from 0.
        time: seconds from the start of the stream.
        box: where the text stands.
        text: A to Z and 0 to 9 only.
        confidence: the reader's own, 0 to 1.
        characters: the reader's confidence of each character of `text`, 0 to 1.
        crop: JPEG of the plate with its surroundings, empty where none was kept; not in the JSON.
        views: what was read of each view of the plate, where there were several; likewise.
        score: the detector's confidence in the place, 0 to 1; likewise.
    """

    frame: int
    time: float
    box: Box
    text: str
    confidence: float
    characters: tuple[float, ...] = ()
    crop: bytes = field(default=b"", repr=False, compare=False)
    views: tuple[Text, ...] = field(default=(), repr=False, compare=False)
    score: float = field(default=1.0, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the reading as a JSON object."""
        return {
            "frame": self.frame,
            "time": self.time,
            "box": self.box.to_json(),
            "text": self.text,
            "confidence": self.confidence,
            "characters": list(self.characters),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Reading:
        """Build the reading that `to_json` described."""
        return cls(
            frame=int(document["frame"]),
            time=float(document["time"]),
            box=Box.from_json(document["box"]),
            text=str(document["text"]),
            confidence=float(document["confidence"]),
            characters=tuple(float(value) for value in document.get("characters", ())),
        )


@dataclass(frozen=True, slots=True)
class Alternative:
    """Hold another text that was read of a plate.

    Args:
        text: A to Z and 0 to 9 only.
        weight: its share of what was read, 0 to 1.
    """

    text: str
    weight: float

    def to_json(self) -> dict[str, Any]:
        """Return the alternative as a JSON object."""
        return {"text": self.text, "weight": round(self.weight, 4)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Alternative:
        """Build the alternative that `to_json` described."""
        return cls(str(document["text"]), float(document["weight"]))


@dataclass(frozen=True, slots=True)
class Sighting:
    """Hold one stay of a plate in view.

    Args:
        first_seen: seconds from the start of the stream.
        last_seen: seconds from the start of the stream.
        detections: in how many frames it was found.
    """

    first_seen: float
    last_seen: float
    detections: int

    def to_json(self) -> dict[str, Any]:
        """Return the sighting as a JSON object."""
        return {
            "first_seen": round(self.first_seen, 3),
            "last_seen": round(self.last_seen, 3),
            "detections": self.detections,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Sighting:
        """Build the sighting that `to_json` described."""
        return cls(
            float(document["first_seen"]), float(document["last_seen"]), int(document["detections"])
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Hold where a plate was in one frame.

    Args:
        frame: index of the frame in the stream, from 0.
        time: seconds from the start of the stream.
        box: where it was.
    """

    frame: int
    time: float
    box: Box

    def to_json(self) -> dict[str, Any]:
        """Return the place as a JSON object."""
        return {"frame": self.frame, "time": round(self.time, 3), "box": self.box.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Place:
        """Build the place that `to_json` described."""
        return cls(int(document["frame"]), float(document["time"]), Box.from_json(document["box"]))


@dataclass(frozen=True, slots=True)
class Plate:
    """Hold one licence plate, however often the video shows it.

    Args:
        text: A to Z and 0 to 9 only.
        confidence: 0 to 1, from the readers' confidences and from how well they agree.
        first_seen: seconds from the start of the stream.
        last_seen: seconds from the start of the stream.
        detections: how many frames it was found in.
        box: where it stands in its best shot, or None where that is unknown.
        crop: JPEG of its best shot, empty where there is none; not in the JSON.
        alternatives: what else was read, the likeliest first.
        regions: those whose plates have its form, such as us; a guess, none for none.
        sightings: its stays in view, by time.
        places: where it was, by time; in a long video not in each frame.
    """

    text: str
    confidence: float
    first_seen: float
    last_seen: float
    detections: int
    box: Box | None = None
    crop: bytes = field(default=b"", repr=False, compare=False)
    alternatives: tuple[Alternative, ...] = ()
    regions: tuple[str, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    places: tuple[Place, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the plate as a JSON object."""
        return {
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "first_seen": round(self.first_seen, 3),
            "last_seen": round(self.last_seen, 3),
            "detections": self.detections,
            "box": None if self.box is None else self.box.to_json(),
            "alternatives": [one.to_json() for one in self.alternatives],
            "regions": list(self.regions),
            "sightings": [one.to_json() for one in self.sightings],
            "places": [one.to_json() for one in self.places],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plate:
        """Build the plate that `to_json` described."""
        box = document.get("box")
        return cls(
            text=str(document["text"]),
            confidence=float(document["confidence"]),
            first_seen=float(document["first_seen"]),
            last_seen=float(document["last_seen"]),
            detections=int(document["detections"]),
            box=None if box is None else Box.from_json(box),
            # Results of earlier versions have none of these.
            alternatives=tuple(map(Alternative.from_json, document.get("alternatives", ()))),
            regions=tuple(map(str, document.get("regions", ()))),
            sightings=tuple(map(Sighting.from_json, document.get("sightings", ()))),
            places=tuple(map(Place.from_json, document.get("places", ()))),
        )


@dataclass(frozen=True, slots=True)
class Analysis:
    """Hold what one video showed, and how that was found.

    Args:
        plates: by first appearance; of those that appear together, the surest first.
        frames: how many frames the stream really had.
        frames_analysed: how many of them were searched for plates.
        detections: readings of plates in all frames together.
        duration: seconds from the start of the stream to the end of its last frame.
        video: what the container said.
        reader: name of the plate reader that ran.
        detector: name of the plate detector that ran.
        reader_reason: one sentence on why these ran.
        engines: version of each library or model by its name.
        timings: seconds of wall clock by stage.
        warnings: sentences on what may be incomplete.
        version: of this document's schema.
    """

    plates: tuple[Plate, ...]
    frames: int
    frames_analysed: int
    detections: int
    duration: float
    video: VideoInfo
    reader: str
    detector: str
    reader_reason: str = ""
    engines: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    version: int = SCHEMA_VERSION

    @property
    def crops(self) -> tuple[bytes, ...]:
        """Return the JPEG of each plate's best shot, in the order of `plates`; empty for none."""
        return tuple(plate.crop for plate in self.plates)

    def to_json(self) -> dict[str, Any]:
        """Return the analysis as a JSON object."""
        return {
            "version": self.version,
            "plates": [plate.to_json() for plate in self.plates],
            "frames": self.frames,
            "frames_analysed": self.frames_analysed,
            "detections": self.detections,
            "duration": round(self.duration, 3),
            "video": self.video.to_json(),
            "reader": self.reader,
            "detector": self.detector,
            "reader_reason": self.reader_reason,
            "engines": dict(self.engines),
            "timings": {stage: round(value, 3) for stage, value in self.timings.items()},
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Analysis:
        """Build the analysis that `to_json` described.

        Raises:
            ValueError: the document is of a schema this code does not know.
            KeyError: a field is missing.
        """
        version = int(document["version"])
        if version != SCHEMA_VERSION:
            raise ValueError(f"Expected an analysis of schema {SCHEMA_VERSION}, got {version}")
        return cls(
            plates=tuple(Plate.from_json(plate) for plate in document["plates"]),
            frames=int(document["frames"]),
            frames_analysed=int(document["frames_analysed"]),
            detections=int(document["detections"]),
            duration=float(document["duration"]),
            video=VideoInfo.from_json(document["video"]),
            reader=str(document["reader"]),
            detector=str(document["detector"]),
            reader_reason=str(document["reader_reason"]),
            engines={str(name): str(value) for name, value in document["engines"].items()},
            timings={str(name): float(value) for name, value in document["timings"].items()},
            warnings=tuple(str(warning) for warning in document["warnings"]),
        )
