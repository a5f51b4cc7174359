"""Analyse a long video in spans, each by itself, and make one result of them.

A span begins before its readings count: by then the tracks and the gate are as if all that comes
before had been seen. What each one found is taken through one tracker, in the order of time, so the
plates are those of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from processing.conclusion import Passage, concluded, judged
from processing.findings import Findings
from processing.gate import REFRESH
from processing.pipeline import Search, stride
from processing.result import Part, VideoInfo
from processing.track import Tracker
from processing.video import AT_ONCE, open_video, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from processing.engines import Engine
    from processing.options import Options
    from processing.pipeline import Progress
    from processing.result import Analysis, Box, Reading
    from processing.track import Event
    from processing.video import Source

# Of a plan and of what its spans bring; what another version found is of no use.
VERSION = 1
# Seconds. So much of a video at least is seen before readings count.
LEAST_OVERLAP = 3.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Name a frame.

    Args:
        index: its place in the stream, from 0.
        time: seconds from the start of the stream.
    """

    index: int
    time: float


@dataclass(frozen=True, slots=True)
class Span:
    """Name a stretch of a video.

    Args:
        first: the frame at which its analysis begins.
        begin: the first frame whose readings count.
        end: the first frame behind it; None for the end of the stream.
    """

    first: Mark
    begin: Mark
    end: Mark | None

    def to_json(self) -> list[Any]:
        """Return the span as a JSON array."""
        marks = (self.first, self.begin, self.end)
        return [mark and [mark.index, mark.time] for mark in marks]

    @classmethod
    def from_json(cls, document: Sequence[Any]) -> Span:
        """Build the span that `to_json` described."""
        first, begin, end = (mark and Mark(int(mark[0]), float(mark[1])) for mark in document)
        return cls(first, begin, end)


@dataclass(frozen=True, slots=True)
class Plan:
    """Say how a video is analysed in spans.

    Args:
        info: what the container says.
        frames: how many there are.
        every: analyse each so many frames.
        spans: by time.
        engine: what has to find and read the plates, for one is not another.
    """

    info: VideoInfo
    frames: int
    every: int
    spans: tuple[Span, ...]
    engine: Mapping[str, str]

    def length(self, number: int) -> int:
        """Count the frames of a span."""
        span = self.spans[number]
        return (self.frames if span.end is None else span.end.index) - span.begin.index

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "version": VERSION,
            "info": self.info.to_json(),
            "frames": self.frames,
            "every": self.every,
            "spans": [span.to_json() for span in self.spans],
            "engine": dict(self.engine),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """Build the plan that `to_json` described; raise ValueError for one of another version."""
        if document["version"] != VERSION:
            raise ValueError(f"Expected a plan of version {VERSION}, got {document['version']}")
        return cls(
            VideoInfo.from_json(document["info"]),
            int(document["frames"]),
            int(document["every"]),
            tuple(Span.from_json(span) for span in document["spans"]),
            {str(name): str(value) for name, value in document["engine"].items()},
        )


def plan(source: Source, engine: Engine, options: Options, seconds: float) -> Plan | None:
    """Split a video into spans of at least so many seconds; None for one that is too short.

    Raises:
        Unseekable: a moment of it cannot be found without all that comes before.
        ProcessingError: as `processing.pipeline.analyse`.
        OSError: the source cannot be read.
    """
    with open_video(source, engine.max_pixels) as video:
        info = video.info
    if info.frames == 1 or (info.fps and 0 < info.frames / info.fps < seconds):
        return None
    every = options.frame_skip or stride(info)
    cycle = max(1, engine.detector.keyframes) * REFRESH
    shown = times(source)
    spans = tuple(split(shown, every * cycle, seconds))
    return Plan(info, len(shown), every, spans, identity(engine)) if len(spans) > 1 else None


def identity(engine: Engine) -> dict[str, str]:
    """Tell one engine from another: what finds and reads, and each model's version."""
    names = {"detector": engine.detector.name, "reader": engine.reader.name}
    return {**names, **engine.detector.versions, **engine.reader.versions}


def split(shown: Sequence[float], step: int, seconds: float) -> Iterator[Span]:
    """Yield the spans of a video whose frames are shown at those times.

    Args:
        shown: seconds from the start of the stream, by time.
        step: after each so many frames everything in the picture is looked at.
        seconds: how long a span is at least.
    """
    begins = [0] if shown else []
    for index in range(step, len(shown), step):
        if shown[index] - shown[begins[-1]] >= seconds <= shown[-1] - shown[index]:
            begins.append(index)
    marks = [Mark(index, shown[index]) for index in begins]
    for begin, end in zip_longest(marks, marks[1:]):
        first = begin.index
        while first > 0 and begin.time - shown[first] < LEAST_OVERLAP:
            first -= step
        yield Span(Mark(first, shown[first]), begin, end)


def analyse_span(
    source: Source,
    engine: Engine,
    every: int,
    span: Span,
    on_progress: Callable[[Progress], None],
) -> Findings:
    """Find and read the plates of one span.

    `on_progress` counts the span's own frames; what it raises ends the analysis and goes through.

    Raises:
        Unseekable: its first frame cannot be found.
        ProcessingError: as `processing.pipeline.analyse`.
        OSError: the source cannot be read.
    """
    until = None if span.end is None else span.end.time - AT_ONCE
    recorder = _Recorder(span.begin)
    own = 0

    def tell(progress: Progress) -> None:
        nonlocal own
        done = max(0, progress.done_frames - span.begin.index)
        own += bool(done)
        on_progress(replace(progress, done_frames=done, total_detections=recorder.readings))

    with open_video(source, engine.max_pixels) as video:
        if span.first.index:
            video.go_to(span.first.index, span.first.time)
        search = Search(video, engine.detector, engine.reader, Part(end=until), recorder.tracker)
        search.run(every, tell)
        last = video.grabbed if span.end is None else min(video.grabbed, span.end.index)
        return Findings(
            events=recorder.events(),
            frames=max(0, last - span.begin.index),
            analysed=own,
            undecodable=video.undecodable,
            duration=video.duration,
            seconds=dict(search.seconds),
        )


class _Recorder:
    """Note what a tracker is told from the beginning of a span on."""

    def __init__(self, begin: Mark) -> None:
        self.tracker = Tracker(note=self._note)
        self.readings = 0
        self._begin = begin.time - AT_ONCE
        self._events: list[Event] = []

    def _note(self, event: Event) -> None:
        if event.time < self._begin:
            return
        if not self._events:
            # The best picture of before would keep the best one of the span from being kept.
            for track in self.tracker.open:
                track.forget_shots()
        self.readings += len(event.readings)
        bare = tuple(replace(reading, crop=b"") for reading in event.readings)
        self._events.append(replace(event, readings=bare))

    def events(self) -> tuple[Event, ...]:
        """Return them, with the pictures that the tracker has kept."""
        tracks = self.tracker.tracks
        kept = {(one.frame, one.box): one.crop for track in tracks for one in track.readings}
        return tuple(
            replace(event, readings=tuple(_pictured(one, kept) for one in event.readings))
            for event in self._events
        )


def _pictured(reading: Reading, kept: Mapping[tuple[int, Box], bytes]) -> Reading:
    return replace(reading, crop=kept[reading.frame, reading.box])


def merged(
    found: Sequence[Findings],
    video: Plan,
    engine: Engine,
    options: Options,
    *,
    seconds: float,
) -> Analysis:
    """Make one analysis of what the spans of a video showed, in their order.

    Its timings are the sums of theirs, but the total, which is `seconds` of wall clock.
    """
    tracker = Tracker()
    for one in found:
        for event in one.events:
            tracker.replay(event)
    passage = Passage(
        video.info,
        frames=sum(one.frames for one in found),
        analysed=sum(one.analysed for one in found),
        undecodable=sum(one.undecodable for one in found),
        duration=found[-1].duration,
    )
    plates = judged(
        tracker.tracks,
        passage,
        engine.reader.calibration,
        min_confidence=options.min_confidence,
        region=engine.region,
    )
    stages = sorted({stage for one in found for stage in one.seconds})
    timings = {stage: sum(one.seconds.get(stage, 0.0) for one in found) for stage in stages}
    return concluded(
        plates,
        passage,
        engine.detector,
        engine.reader,
        reason=engine.reason,
        timings={**timings, "total": seconds},
    )
