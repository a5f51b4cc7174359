"""Make the result of what was seen in a video: tracks to plates, counts to warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from processing.result import Analysis
from processing.track import plates, without_overlays

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from processing.calibrate import Calibration
    from processing.detect import PlateDetector
    from processing.formats import Region
    from processing.read import PlateReader
    from processing.result import Plate, VideoInfo
    from processing.track import Track


@dataclass(frozen=True, slots=True)
class Passage:
    """Tell how a video was gone through.

    Args:
        info: what the container says.
        frames: passed, skipped ones included.
        analysed: frames that were searched for plates.
        undecodable: frames that gave no picture.
        duration: seconds from the start of the stream to the end of the last frame passed.
        to_its_end: it was to be read to its end.
    """

    info: VideoInfo
    frames: int
    analysed: int
    undecodable: int
    duration: float
    to_its_end: bool = True


def judged(
    tracks: Sequence[Track],
    passage: Passage,
    calibration: Calibration,
    *,
    min_confidence: float,
    region: Region,
) -> list[Plate]:
    """Return the plates that tracks are of, those below `min_confidence` left out."""
    real = without_overlays(tracks, passage.duration, passage.info.height)
    single = passage.analysed == 1
    found = plates(real, single_frame=single, region=region, calibration=calibration)
    return [plate for plate in found if plate.confidence >= min_confidence]


def concluded(
    found: Sequence[Plate],
    passage: Passage,
    detector: PlateDetector,
    reader: PlateReader,
    *,
    reason: str,
    timings: Mapping[str, float],
    remarks: Sequence[str] = (),
) -> Analysis:
    """Build the analysis; `remarks` come before the warnings that the passage gives rise to."""
    return Analysis(
        plates=tuple(found),
        frames=passage.frames,
        frames_analysed=passage.analysed,
        detections=sum(plate.detections for plate in found),
        duration=passage.duration,
        video=passage.info,
        reader=reader.name,
        detector=detector.name,
        reader_reason=reason,
        engines={**detector.versions, **reader.versions},
        timings=dict(timings),
        warnings=(*remarks, *_warnings(passage)),
    )


def _warnings(passage: Passage) -> Iterable[str]:
    if passage.undecodable:
        yield f"{passage.undecodable} frames gave no picture and were left out"
    told, fps = passage.info.frames, passage.info.fps
    if not passage.to_its_end or not fps:
        return
    if passage.frames + passage.undecodable >= 0.95 * told:
        return
    if passage.duration < 0.95 * told / fps:
        yield (
            f"The video ends after {passage.frames} of {told} frames: it may be cut off or damaged"
        )
    else:
        # Of a variable frame rate the count may be a guess.
        yield (
            f"Only {passage.frames} of about {told} frames could be decoded: the video may be"
            " damaged, or its frame rate varies"
        )
