"""What metadata say of a video is believed, unless it is plainly something else."""

from __future__ import annotations

import pytest

from tusd_py.sniff import is_video_type, may_be_video


@pytest.mark.parametrize(
    ("filename", "filetype", "answer"),
    [
        (None, None, True),
        ("", "", True),
        ("cars.mp4", None, True),
        ("cars", None, True),
        ("cars.MOV", "video/quicktime", True),
        ("notes.txt", "video/mp4", True),
        ("cars.mp4", "application/octet-stream", True),
        ("cars.wmv", "application/vnd.ms-asf", True),
        ("cars.ts", "text/vnd.trolltech.linguist", True),
        ("cars.ogv", "application/ogg", True),
        ("cars", "nonsense", True),
        ("cars.mp4", "text/plain", False),
        ("cars.mp4", "IMAGE/PNG; q=1", False),
        ("cars.mp4", "application/pdf", False),
        ("cars.mp4", "audio/mpeg", False),
        (
            "a.docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            False,
        ),
        ("notes.TXT", None, False),
        ("cars.mp4.zip", "", False),
        ("plate.jpeg", "nonsense", False),
    ],
)
def test_only_clear_words_tell_that_it_is_no_video(
    filename: str | None, filetype: str | None, answer: object
) -> None:
    assert is_video_type(filename, filetype) is answer


def test_metadata_is_asked_under_the_names_that_clients_use() -> None:
    assert may_be_video({})
    assert may_be_video({"filename": b"cars.mp4", "filetype": b"video/mp4"})
    assert may_be_video({"filename": b"\xff\xfe", "filetype": b"\xff"})
    assert not may_be_video({"filetype": b"text/plain"})
    assert not may_be_video({"name": b"a.pdf"})
    assert not may_be_video({"type": b"image/png"})
