"""Find the licence plates of a video: decode, detect, read, track, vote."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from processing.crop import cut, picture
from processing.result import Analysis, Reading
from processing.text import is_plate, normalise, plausibility
from processing.track import Tracker, plates, without_overlays
from processing.video import open_video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from processing.detect import Candidate, PlateDetector
    from processing.read import PlateReader, Text
    from processing.result import Plate, VideoInfo
    from processing.video import Frame, Source, Video

# Enough to read a car that passes in half a second several times.
FRAMES_PER_SECOND = 6
LIKELY_FPS = 30.0
# A character more is worth this much confidence, and joining two lines costs so much: the join
# must bring three characters more than its better part.
WORTH_OF_A_CHARACTER = 0.06
COST_OF_A_JOIN = 0.15


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell how far an analysis is.

    Args:
        done_frames: frames passed, skipped ones included.
        total_frames: the container's count, never below `done_frames`; 0 while it is unknown;
            the real count in the last report.
        unique_plates: different plates so far; an estimate until the last report.
        total_detections: readings of plates so far.
    """

    done_frames: int
    total_frames: int
    unique_plates: int
    total_detections: int

    @property
    def fraction(self) -> float:
        """Return what is done, 0 to 1; it never falls, and is 0 while the total is unknown."""
        return self.done_frames / self.total_frames if self.total_frames else 0.0


def analyse(
    source: Source,
    detector: PlateDetector,
    reader: PlateReader,
    on_progress: Callable[[Progress], None],
    *,
    every: int | None = None,
    min_confidence: float = 0.3,
    reason: str = "",
) -> Analysis:
    """Find and read the licence plates of a video or still image.

    Args:
        source: path or seekable binary reader; a reader is left open.
        detector: finds candidates in a frame.
        reader: reads them.
        on_progress: called after each analysed frame and once at the end; what it raises ends
            the analysis and goes through.
        every: analyse each so many frames; None for about six a second of video.
        min_confidence: plates below are left out, 0 to 1.
        reason: why this detector and reader run, for the result.

    Raises:
        EmptyVideo: the source holds no bytes.
        NotAVideo: nothing can be decoded.
        OSError: the source cannot be read.
        ValueError: `every` is below 1.
    """
    started = time.perf_counter()
    with open_video(source) as video:
        search = _Search(video, detector, reader)
        search.run(every or _stride(video.info), on_progress)
        found = search.plates(min_confidence)
        detections = sum(plate.detections for plate in found)
        on_progress(Progress(video.grabbed, video.grabbed, len(found), detections))
        search.seconds["total"] = time.perf_counter() - started
        return Analysis(
            plates=tuple(found),
            frames=video.grabbed,
            frames_analysed=search.analysed,
            detections=detections,
            duration=video.duration,
            video=video.info,
            reader=reader.name,
            detector=detector.name,
            reader_reason=reason,
            engines={**detector.versions, **reader.versions},
            timings=dict(search.seconds),
            warnings=tuple(_warnings(video)),
        )


class _Search:
    """Take one video's frames through detector, reader and tracker."""

    def __init__(self, video: Video, detector: PlateDetector, reader: PlateReader) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.analysed = 0
        self._video = video
        self._detector = detector
        self._reader = reader
        self._tracker = Tracker()
        self._readings = 0

    def run(self, every: int, on_progress: Callable[[Progress], None]) -> None:
        for frame in self._timed("decode", self._video.frames(every)):
            self._tracker.add(self._read(frame))
            self.analysed += 1
            on_progress(self._progress())

    def plates(self, min_confidence: float) -> list[Plate]:
        tracks = without_overlays(
            self._tracker.tracks, self._video.duration, self._video.info.height
        )
        found = plates(tracks, single_frame=self.analysed == 1)
        return [plate for plate in found if plate.confidence >= min_confidence]

    def _read(self, frame: Frame) -> list[Reading]:
        with self._clock("detect"):
            candidates = self._detector.detect(frame.image)
        with self._clock("read"):
            margin = self._reader.margin
            texts = self._reader.read([cut(frame.image, one.quad, margin) for one in candidates])
        readings = best_readings(frame, candidates, texts)
        self._readings += len(readings)
        return readings

    def _progress(self) -> Progress:
        # A track of one reading may be anything; voting waits for the end.
        seen = {track.last.text for track in self._tracker.tracks if len(track.readings) > 1}
        done, told = self._video.grabbed, self._video.info.frames
        return Progress(done, max(done, told) if told else 0, len(seen), self._readings)

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def _timed(self, stage: str, frames: Iterator[Frame]) -> Iterator[Frame]:
        while True:
            with self._clock(stage):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame


def best_readings(
    frame: Frame, candidates: Sequence[Candidate], texts: Sequence[Text]
) -> list[Reading]:
    """Return the plates read in a frame, one for each place."""
    likely = sorted(
        (
            (_worth(candidate, text), candidate, _reading(frame, candidate, text))
            for candidate, text in zip(candidates, texts, strict=True)
            if is_plate(text.raw)
        ),
        key=lambda one: -one[0],
    )
    kept: list[Reading] = []
    for _, candidate, reading in likely:
        if not any(_overlap(reading, other) for other in kept):
            kept.append(replace(reading, crop=picture(frame.image, candidate.quad)))
    return kept


def _worth(candidate: Candidate, text: Text) -> float:
    letters = normalise(text.raw)
    cost = COST_OF_A_JOIN if candidate.joined else 0.0
    return text.confidence * plausibility(letters) + WORTH_OF_A_CHARACTER * len(letters) - cost


def _reading(frame: Frame, candidate: Candidate, text: Text) -> Reading:
    return Reading(
        frame=frame.index,
        time=frame.time,
        box=candidate.box,
        text=normalise(text.raw),
        confidence=min(1.0, max(0.0, text.confidence)),
        characters=text.characters,
    )


def _overlap(one: Reading, other: Reading) -> bool:
    a, b = one.box, other.box
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return min(width, height) > 0 and width * height > 0.5 * min(a.area, b.area)


def _stride(info: VideoInfo) -> int:
    return max(1, round((info.fps or LIKELY_FPS) / FRAMES_PER_SECOND))


def _warnings(video: Video) -> Iterable[str]:
    if video.undecodable:
        yield f"{video.undecodable} frames gave no picture and were left out"
    told, fps = video.info.frames, video.info.fps
    # Of a variable frame rate the count is a guess: time must be missing as well.
    short = fps > 0 and video.duration < 0.9 * told / fps
    if short and video.grabbed < 0.9 * told:
        yield f"The video ends after {video.grabbed} of {told} frames: it may be cut off or damaged"
