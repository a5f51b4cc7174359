"""Decode videos and still images from paths or seekable readers."""

from __future__ import annotations

import io
import math
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import cv2
import numpy as np
import PIL.Image

from processing.container import looks_like_still, looks_like_video
from processing.errors import DamagedVideo, EmptyVideo, NotAVideo, TooLarge, Unseekable
from processing.result import VideoInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Source: TypeAlias = "str | Path | BinaryIO"
Image: TypeAlias = "NDArray[np.uint8]"

# The limit is ours (MAX_PIXELS), and nothing is decoded by Pillow.
PIL.Image.MAX_IMAGE_PIXELS = None

HEAD_BYTES = 4096
HIGHEST_FPS = 1000.0
MOST_PIXELS = 8192 * 8192
# So many damaged frames in a row are passed over before the rest is given up.
PERSISTENCE = 300
# Of a video of more frames, a day at 30 a second, no list is made: it takes memory.
MOST_FRAMES = 2_600_000
# Seconds of video before a wanted frame at which it is sought: no farther than is needed.
RUN_UPS = (1.0, 5.0, 30.0)
# Seconds. Times that are no farther apart are the same.
AT_ONCE = 0.0005
# FFmpeg follows the addresses that a playlist names: an upload must not make it do so.
PLAYLIST_SIGNATURES = (b"#EXTM3U", b"ffconcat")


@dataclass(frozen=True, slots=True)
class Frame:
    """Hold one decoded frame.

    Args:
        index: place in the stream, from 0, skipped frames counted.
        time: presentation time in seconds from the start of the stream.
        image: BGR, uint8, height x width x 3, rotated upright.
    """

    index: int
    time: float
    image: Image


class Video:
    """Read one opened video from its start, once; `open_video` makes it.

    Attributes:
        info: what the container says.
        grabbed: frames passed so far, skipped ones included.
        undecodable: frames that were due but gave no picture.
        position: presentation time in seconds of the last frame passed.
    """

    def __init__(self, capture: _Capture, info: VideoInfo, most_pixels: int) -> None:
        self.info = info
        self._most_pixels = most_pixels
        self.grabbed = 0
        self.undecodable = 0
        self.position = 0.0
        self._capture = capture
        self._found = False

    @property
    def duration(self) -> float:
        """Return the seconds from the stream's start to the end of the last frame passed."""
        step = 1 / self.info.fps if self.info.fps else 0.0
        return self.position + step if self.grabbed else 0.0

    def frames(
        self, every: int = 1, start: float = 0.0, end: float | None = None
    ) -> Iterator[Frame]:
        """Yield each `every`-th frame; those between are decoded but not converted.

        Of `start` and `end`, seconds from the start of the stream, what lies before is decoded
        but not converted either, and what lies behind is not decoded.

        Raises:
            DamagedVideo: the stream holds not one frame.
            TooLarge: a picture has more pixels than are allowed.
            ValueError: `every` is below 1.
        """
        if every < 1:
            raise ValueError(f"Expected every >= 1, got {every}")
        while self._grab():
            index = self.grabbed
            self.position = self._time(index)
            self.grabbed += 1
            if end is not None and self.position > end:
                return
            if index % every or self.position < start:
                continue
            image = self._picture()
            if image is None:
                self.undecodable += 1
                continue
            yield Frame(index, self.position, image)
        if not self.grabbed:
            raise DamagedVideo

    def go_to(self, index: int, time: float) -> None:
        """Go on at a frame whose place and presentation time are known (`times`).

        Raises:
            Unseekable: it is not found there.
        """
        starts = [max(0.0, time - run_up) for run_up in RUN_UPS]
        # It stands at its start: not every container finds that again.
        come_to = not starts[0] and self._comes_to(time)
        if not come_to and not any(self._is_found(time, start) for start in starts):
            raise Unseekable
        self.grabbed, self.position, self._found = index, time, True

    def _is_found(self, time: float, start: float) -> bool:
        return self._capture.seek(start * 1000) and self._comes_to(time)

    def _comes_to(self, time: float) -> bool:
        if not self._capture.grab():
            return False
        while (told := self._capture.milliseconds() / 1000) < time - AT_ONCE:
            if not self._capture.grab():
                return False
        return told <= time + AT_ONCE

    def _grab(self) -> bool:
        if self._found:
            self._found = False
            return True
        # OpenCV gives up at a frame that is damaged, though those after it may be sound.
        for failures in range(PERSISTENCE if self.info.frames else 1):
            if self._capture.grab():
                self.undecodable += failures
                return True
        return False

    def _picture(self) -> Image | None:
        image = self._capture.picture()
        if image is not None:
            # A stream may grow behind a harmless header.
            _check_size(image.shape[1], image.shape[0], self._most_pixels)
        return image

    def _time(self, index: int) -> float:
        # Only right after grab() is this the presentation time less the stream's start.
        told = self._capture.milliseconds() / 1000
        if math.isfinite(told) and told >= self.position:
            return told
        return self.position + (1 / self.info.fps if self.info.fps and index else 0.0)


def probe(source: Source) -> VideoInfo:
    """Tell what the container says of its video.

    Raises:
        EmptyVideo: the source holds no bytes.
        NotAVideo: the source is no video or image that can be opened.
        OSError: the source cannot be read.
    """
    with open_video(source) as video:
        return video.info


def frames(source: Source, every: int = 1) -> Iterator[Frame]:
    """Yield each `every`-th frame of a video, or the one frame of a still image.

    Raises:
        EmptyVideo: the source holds no bytes.
        NotAVideo: nothing can be decoded.
        OSError: the source cannot be read.
        ValueError: `every` is below 1.
    """
    with open_video(source) as video:
        yield from video.frames(every)


def times(source: Source) -> list[float]:
    """Return when each frame is shown, in seconds from the start of the stream, by time.

    Nothing is decoded: it takes as long as reading the file.

    Raises:
        NotAVideo: the source is no video that can be opened.
        Unseekable: the container does not tell, or tells of too many.
        OSError: the source cannot be read.
    """
    found: list[float] = []
    with closing(_stream(source, _head(source), packets=True)) as packets:
        while packets.grab():
            found.append(packets.milliseconds() / 1000)
            if len(found) > MOST_FRAMES:
                raise Unseekable
    found.sort()
    if not all(later - one > AT_ONCE for one, later in pairwise(found)):
        raise Unseekable
    return found


@contextmanager
def open_video(source: Source, most_pixels: int = MOST_PIXELS) -> Iterator[Video]:
    """Open a path or a seekable binary reader, and release the decoder in the end.

    A reader is left open, at an arbitrary position. Pictures of more than `most_pixels` are refused
    before one is decoded.

    Raises:
        EmptyVideo: the source holds no bytes.
        NotAVideo: the source is no video or image that can be opened.
        TooLarge: its pictures have too many pixels.
        OSError: the source cannot be read.
    """
    head = _head(source)
    if not head:
        raise EmptyVideo
    if _is_text(head):
        raise NotAVideo
    capture = _still(source, most_pixels) if looks_like_still(head) else _stream(source, head)
    with closing(capture):
        info = capture.info()
        _check_size(info.width, info.height, most_pixels)
        yield Video(capture, info, most_pixels)


def _check_size(width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise TooLarge(width, height, most_pixels)


class _Stream:
    """Wrap OpenCV's capture."""

    def __init__(self, capture: cv2.VideoCapture, reader: _Borrowed | None) -> None:
        self._capture = capture
        # OpenCV calls it until release().
        self._reader = reader

    def info(self) -> VideoInfo:
        fps = self._number(cv2.CAP_PROP_FPS)
        return VideoInfo(
            width=int(self._number(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(self._number(cv2.CAP_PROP_FRAME_HEIGHT)),
            fps=fps if fps <= HIGHEST_FPS else 0.0,
            frames=int(self._number(cv2.CAP_PROP_FRAME_COUNT)),
        )

    def grab(self) -> bool:
        return self._capture.grab()

    def picture(self) -> Image | None:
        decoded, image = self._capture.retrieve()
        return np.asarray(image, np.uint8) if decoded and image is not None else None

    def milliseconds(self) -> float:
        return self._capture.get(cv2.CAP_PROP_POS_MSEC)

    def seek(self, milliseconds: float) -> bool:
        return self._capture.set(cv2.CAP_PROP_POS_MSEC, milliseconds)

    def close(self) -> None:
        self._capture.release()

    def _number(self, prop: int) -> float:
        # Containers without a count give huge negative numbers, some streams NaN.
        value = self._capture.get(prop)
        return value if math.isfinite(value) and value > 0 else 0.0


class _Still:
    """Present one image as a stream of one frame."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._passed = False

    def info(self) -> VideoInfo:
        height, width = self._image.shape[:2]
        return VideoInfo(width=width, height=height, fps=0.0, frames=1)

    def grab(self) -> bool:
        first, self._passed = not self._passed, True
        return first

    def picture(self) -> Image | None:
        return self._image

    def milliseconds(self) -> float:
        return 0.0

    def seek(self, milliseconds: float) -> bool:
        del milliseconds
        return False

    def close(self) -> None:
        pass


_Capture: TypeAlias = "_Stream | _Still"


class _Borrowed(io.BufferedIOBase):
    """Lend a reader to OpenCV, which wants this very base class and must not close it."""

    def __init__(self, reader: BinaryIO) -> None:
        self._reader = reader

    def read(self, size: int | None = -1, /) -> bytes:
        return self._reader.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._reader.seek(offset, whence)


def _head(source: Source) -> bytes:
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            return file.read(HEAD_BYTES)
    source.seek(0)
    return source.read(HEAD_BYTES)


def _is_text(head: bytes) -> bool:
    if head.startswith(PLAYLIST_SIGNATURES):
        return True
    return not head.translate(None, bytes(range(32, 256)) + b"\t\n\r\f\x1b")


def _still(source: Source, most_pixels: int) -> _Still:
    if isinstance(source, (str, Path)):
        data = Path(source).read_bytes()
    else:
        source.seek(0)
        data = source.read()
    _check_size(*_size(data), most_pixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise NotAVideo from error
    if image is None:
        raise NotAVideo
    return _Still(np.asarray(image, np.uint8))


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height as the header tells them: OpenCV cannot without decoding."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception as error:
        # Whatever a broken header does to its parsers.
        raise NotAVideo from error


def _stream(source: Source, head: bytes, *, packets: bool = False) -> _Stream:
    """Open a stream of frames, or of the packets that they are in."""
    _quieten()
    reader = None if isinstance(source, (str, Path)) else _Borrowed(source)
    # FFmpeg would take all cores, whatever OpenCV is told.
    params = [cv2.CAP_PROP_N_THREADS, max(1, cv2.getNumThreads())]
    params += [cv2.CAP_PROP_FORMAT, -1] if packets else []
    capture = _path_capture(source, params) if reader is None else _reader_capture(reader, params)
    if not capture.isOpened():
        capture.release()
        raise DamagedVideo if looks_like_video(head) else NotAVideo
    return _Stream(capture, reader)


def _path_capture(source: Any, params: list[int]) -> cv2.VideoCapture:
    return cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, params)


def _reader_capture(reader: Any, params: list[int]) -> cv2.VideoCapture:
    reader.seek(0)
    return cv2.VideoCapture(reader, cv2.CAP_FFMPEG, params)


def _quieten() -> None:
    # Broken uploads are everyday business: what FFmpeg says of them is told by exceptions and
    # warnings. FFmpeg's own level can be set only so, before OpenCV first opens a file.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
