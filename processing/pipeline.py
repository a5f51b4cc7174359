"""Find the licence plates of a video: decode, detect, read, track, vote."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from processing.ahead import ahead
from processing.conclusion import Passage, concluded, judged
from processing.detect import scaled, shrink
from processing.gate import Gate, overlap
from processing.look import best_readings
from processing.result import Box, Part
from processing.stack import paired, with_stacks
from processing.text import may_be_plate, normalise
from processing.track import Tracker
from processing.video import MOST_PIXELS, open_video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from processing.crop import View
    from processing.detect import Candidate, PlateDetector
    from processing.formats import Region
    from processing.read import PlateReader
    from processing.result import Analysis, Plate, Reading, Text, VideoInfo
    from processing.track import Track
    from processing.video import Frame, Source, Video

# Enough to read a car that passes in half a second several times.
FRAMES_PER_SECOND = 6
LIKELY_FPS = 30.0
# Up to 4K frames are decoded ahead.
AHEAD_PIXELS = 4096 * 2304
# A plate read so often that stands still is not read again until something changes there.
RELIABLE = 3
# So many views are cheap enough for each frame of a video.
FEW_VIEWS = 2
# A still image in which nothing surer was read is looked at again, shrunk to so many pixels.
UNSURE = 0.6
SECOND_LOOK = 704


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell how far an analysis is.

    Args:
        done_frames: frames passed, skipped ones included.
        total_frames: the container's count, never below `done_frames`; 0 while it is unknown;
            the real count in the last report.
        unique_plates: different plates so far; an estimate until the last report.
        total_detections: readings of plates so far.
        texts: what was read of those plates so far; in the last report those of the result.
    """

    done_frames: int
    total_frames: int
    unique_plates: int
    total_detections: int
    texts: tuple[str, ...] = ()

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
    region: Region = "any",
    max_pixels: int = MOST_PIXELS,
    part: Part | None = None,
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
        region: whose plates' forms decide between characters that look alike.
        max_pixels: larger pictures are refused before one is decoded.
        part: which part of it is analysed; None for all.
        reason: why this detector and reader run, for the result.

    Raises:
        EmptyVideo: the source holds no bytes.
        NotAVideo: nothing can be decoded.
        TooLarge: a picture has more than `max_pixels`.
        OSError: the source cannot be read.
        ValueError: `every` is below 1, or nothing of a frame lies within the part.
    """
    started = time.perf_counter()
    with open_video(source, max_pixels) as video:
        search = Search(video, detector, reader, part or Part())
        search.run(every or stride(video.info), on_progress)
        found = search.plates(min_confidence, region)
        detections = sum(plate.detections for plate in found)
        texts = tuple(plate.text for plate in found)
        on_progress(Progress(video.grabbed, video.grabbed, len(found), detections, texts))
        search.seconds["total"] = time.perf_counter() - started
        timings = search.seconds
        return concluded(found, search.passage, detector, reader, reason=reason, timings=timings)


class Search:
    """Take one video's frames through detector, reader and tracker.

    Attributes:
        seconds: of wall clock by stage.
        analysed: frames that were searched.
    """

    def __init__(
        self,
        video: Video,
        detector: PlateDetector,
        reader: PlateReader,
        part: Part,
        tracker: Tracker | None = None,
    ) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.analysed = 0
        self._part = part
        self._within = _clipped(part.within, video.info)
        self._video = video
        self._is_still = video.info.frames == 1
        self._detector = detector
        self._reader = reader
        self._tracker = tracker or Tracker()
        self._gate = Gate(detector.keyframes)
        self._readings = 0
        self._before = 0.0

    def run(self, every: int, on_progress: Callable[[Progress], None]) -> None:
        """Search each `every`-th frame from where the video stands."""
        self.analysed = self._video.grabbed // every
        due = self._video.frames(every, self._part.start, self._part.end)
        most = self._part.most_frames
        with ahead(islice(due, most), _depth(self._video.info)) as frames:
            # With a thread that decodes this is what it was waited for.
            for frame in self._timed("decode", frames):
                self._tracker.add(self._read(frame))
                self._before = frame.time
                self.analysed += 1
                on_progress(self._progress(frame))

    @property
    def passage(self) -> Passage:
        """Tell how far it came."""
        video, part = self._video, self._part
        return Passage(
            video.info,
            frames=video.grabbed,
            analysed=self.analysed,
            undecodable=video.undecodable,
            duration=video.duration,
            to_its_end=part.end is None and part.most_frames is None,
        )

    def plates(self, min_confidence: float, region: Region) -> list[Plate]:
        """Return what was found, in the pixels of the whole frame."""
        sure = judged(
            self._tracker.tracks,
            self.passage,
            self._reader.calibration,
            min_confidence=min_confidence,
            region=region,
        )
        return [_moved(plate, self._within) for plate in sure] if self._within else sure

    def _read(self, whole: Frame) -> list[Reading]:
        frame = whole if self._within is None else _within(whole, self._within)
        with self._clock("detect"):
            candidates = self._detected(frame)
        readings = self._best(frame, candidates)
        if self._is_still and not any(reading.confidence > UNSURE for reading in readings):
            with self._clock("detect"):
                more = self._from_further_away(frame)
            readings = self._best(frame, [*candidates, *more])
        self._readings += len(readings)
        return readings

    def _best(self, frame: Frame, candidates: Sequence[Candidate]) -> list[Reading]:
        with self._clock("read"):
            texts = self._texts(frame, candidates)
            return best_readings(frame, *with_stacks(candidates, texts))

    def _from_further_away(self, frame: Frame) -> list[Candidate]:
        # Detectors of texts miss large letters as well as small ones.
        small, scale = shrink(frame.image, SECOND_LOOK)
        found = self._detector.detect(small, thorough=True) if scale < 1 else []
        return [scaled(candidate, 1 / scale) for candidate in found]

    def _detected(self, frame: Frame) -> list[Candidate]:
        tracks = self._tracker.open_at(frame.time)
        self._gate.see(frame.image)
        resting = [track for track in tracks if self._rests(track, frame.time)]
        moving = [track for track in tracks if track not in resting]
        glance = self._gate.glance(track.expected(frame.time) for track in moving)
        if glance.whole:
            return self._detector.detect(frame.image, thorough=self._is_still)
        for track in resting:
            if not any(overlap(track.last.box, box) for box in glance.boxes):
                self._tracker.hold(track, frame.time)
        return [found for box in glance.boxes for found in self._detector.detect(frame.image, box)]

    def _rests(self, track: Track, time: float) -> bool:
        # What was read but once or twice may have been misread, and what was not found when it was
        # last looked for has gone.
        known = len(track.readings) >= RELIABLE and track.until == self._before
        return known and not self._gate.changed(track.expected(time))

    def _texts(self, frame: Frame, candidates: Sequence[Candidate]) -> list[list[Text]]:
        first, *more = self._views()
        texts = [[text] for text in self._looks(frame, candidates, first)]
        # What cannot be a plate at first sight is not looked at again, nor what is known by now.
        settled = self._settled()
        lines = paired(candidates, texts)
        likely = [
            place
            for place, (text,) in enumerate(texts)
            if (may_be_plate(text.raw) or place in lines) and normalise(text.raw) not in settled
        ]
        for view in more if likely else ():
            seen = self._looks(frame, [candidates[place] for place in likely], view)
            for place, text in zip(likely, seen, strict=True):
                texts[place].append(text)
        return texts

    def _settled(self) -> set[str]:
        """Return the texts of the tracks whose last readings agree."""
        tracks = [one for one in self._tracker.open if len(one.readings) > RELIABLE]
        lasts = [{reading.text for reading in one.readings[-RELIABLE:]} for one in tracks]
        return {texts.pop() for texts in lasts if len(texts) == 1}

    def _views(self) -> Sequence[View]:
        views = self._reader.views
        if self._is_still or len(views) <= FEW_VIEWS:
            return views
        # Over the frames of a video all views have their turn.
        return views[0], views[1 + self.analysed % (len(views) - 1)]

    def _looks(self, frame: Frame, candidates: Sequence[Candidate], view: View) -> list[Text]:
        return self._reader.read([view.of(frame.image, one.quad) for one in candidates])

    def _progress(self, frame: Frame) -> Progress:
        # A track of one reading may be anything; voting waits for the end.
        seen = {track.last.text for track in self._tracker.tracks if len(track.readings) > 1}
        done, told = frame.index + 1, self._video.info.frames
        total = max(done, told) if told else 0
        return Progress(done, total, len(seen), self._readings, tuple(sorted(seen)))

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


def _clipped(box: Box | None, info: VideoInfo) -> Box | None:
    if box is None:
        return None
    left, top = max(0, box.x), max(0, box.y)
    width = min(info.width, box.x + box.width) - left
    height = min(info.height, box.y + box.height) - top
    if width < 1 or height < 1:
        raise ValueError(
            f"Expected a region within {info.width} x {info.height} pixels, got"
            f" {box.width} x {box.height} at {box.x},{box.y}"
        )
    return Box(left, top, width, height)


def _within(frame: Frame, box: Box) -> Frame:
    part = frame.image[box.y : box.y + box.height, box.x : box.x + box.width]
    return replace(frame, image=part)


def _moved(plate: Plate, by: Box) -> Plate:
    def moved(box: Box) -> Box:
        return replace(box, x=box.x + by.x, y=box.y + by.y)

    return replace(
        plate,
        box=plate.box and moved(plate.box),
        places=tuple(replace(place, box=moved(place.box)) for place in plate.places),
    )


def _depth(info: VideoInfo) -> int:
    # Frames in memory are few where they are large.
    return 2 if info.width * info.height <= AHEAD_PIXELS else 0


def stride(info: VideoInfo) -> int:
    """Return how many frames make one that is analysed, where nobody says so."""
    return max(1, round((info.fps or LIKELY_FPS) / FRAMES_PER_SECOND))
