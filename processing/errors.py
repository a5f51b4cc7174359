"""What can go wrong in an analysis.

ProcessingError
    EmptyVideo          the source holds no bytes
    NotAVideo           no picture can be decoded from the source
        DamagedVideo    it begins as a video does, but no picture can be decoded
    Unseekable          a moment of the video cannot be found without all that comes before
    TooLarge            its pictures have more pixels than are allowed
    ReaderUnavailable   a plate reader lacks its package or its model files
"""

from __future__ import annotations


class ProcessingError(Exception):
    """Tell in one sentence why an analysis is impossible."""


class EmptyVideo(ProcessingError):
    """Tell that the source holds no bytes."""

    def __init__(self) -> None:
        super().__init__("Uploaded file is empty")


class NotAVideo(ProcessingError):
    """Tell that no picture can be decoded from the source."""

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence or "File must be a video (mp4, avi, mov, mkv, webm, flv)")


class DamagedVideo(NotAVideo):
    """Tell that the source begins as a video does, but no picture can be decoded."""

    def __init__(self) -> None:
        super().__init__(
            "No picture of the video can be decoded: it has none, or it is cut off or damaged"
        )


class Unseekable(ProcessingError):
    """Tell that a moment of a video cannot be found without decoding all that comes before."""

    def __init__(self) -> None:
        super().__init__("The frames of the video cannot be found by their times")


class TooLarge(ProcessingError):
    """Tell that pictures have more pixels than are allowed."""

    def __init__(self, width: int, height: int, most: int) -> None:
        super().__init__(
            f"Expected pictures of at most {most} pixels (MAX_PIXELS), got {width} x {height}"
        )


class ReaderUnavailable(ProcessingError):
    """Tell what a reader needs, what was found instead and what to do.

    Args:
        reader: the reader's name as in `PLATE_READER`.
        expected: what the reader needs, and where.
        came: what was found instead.
        remedy: what the operator can do, as an imperative.
    """

    def __init__(self, reader: str, expected: str, came: str, remedy: str) -> None:
        self.reader = reader
        self.expected = expected
        self.came = came
        self.remedy = remedy
        super().__init__(f"Plate reader {reader!r} needs {expected}, but {came}. {remedy}.")
