from __future__ import annotations

from processing.errors import EmptyVideo, NotAVideo, ProcessingError, ReaderUnavailable


def test_sentences_are_those_of_the_job_document() -> None:
    assert str(NotAVideo()) == "File must be a video (mp4, avi, mov, mkv, webm, flv)"
    assert str(EmptyVideo()) == "Uploaded file is empty"


def test_unavailable_reader_says_what_was_expected_what_came_and_what_to_do() -> None:
    error = ReaderUnavailable("alpr", "its files", "there are none", "Put them there")
    assert str(error) == "Plate reader 'alpr' needs its files, but there are none. Put them there."
    assert isinstance(error, ProcessingError)
