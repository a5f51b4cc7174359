"""A video is known by its first bytes; what is plainly something else is not one."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.container import HEAD_SIZE, looks_like_still, looks_like_video

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT.parent / "shared" / "videos"
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def ogg(codec: bytes) -> bytes:
    return b"OggS\0\2" + bytes(20) + b"\1\x1e" + codec


def packets(first: bytes = b"\x47\x40\x00\x10", before: bytes = b"") -> bytes:
    packet = before + first + bytes(188 - len(first))
    return packet * 2


VIDEO = {
    "mp4": b"\0\0\0\x18ftypmp42",
    "quicktime": b"\0\0\0\x14ftypqt  ",
    "3gp": b"\0\0\0\x18ftyp3gp5",
    "moov first": b"\0\0\1\0moov",
    "mdat first": b"\0\0\0\1mdat",
    "wide first": b"\0\0\0\x08wide",
    "free first": b"\0\0\0\x08free",
    "skip first": b"\0\0\0\x08skip",
    "pnot first": b"\0\0\0\x14pnot",
    "matroska": b"\x1a\x45\xdf\xa3",
    "avi": b"RIFF\x10\0\0\0AVI ",
    "flv": b"FLV\1\5",
    "asf": ASF,
    "theora": ogg(b"\x80theora\3"),
    "skeleton": ogg(b"fishead\0"),
    "mpeg-ps": b"\0\0\1\xba\x44",
    "mpeg-es": b"\0\0\1\xb3\x16",
    "h264": b"\0\0\0\1\x67\x42",
    "h265": b"\0\0\0\1\x40\1",
    "ivf": b"DKIF\0\0",
    "mxf": bytes.fromhex("060e2b34020501010d0102010102"),
    "realmedia": b".RMF\0\0",
    "mpeg-ts": packets(),
    "mpeg-ts, only its first packet known": packets()[:100],
    "m2ts": packets(before=b"\1\2\3\4"),
}
OTHER = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "gif": b"GIF89a\x10\0\x10\0\xf7\0\0",
    "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "heic": b"\0\0\0\x18ftypheic",
    "avif": b"\0\0\0\x18ftypavif",
    "icon": b"\0\0\1\0\1\0\x10\x10",
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "zip": b"PK\3\4\x14\0",
    "pdf": b"%PDF-1.7\n",
    "wav": b"RIFF\x10\0\0\0WAVEfmt ",
    "mp3": b"\xff\xfb\x90\x44",
    "id3": b"ID3\4\0\0",
    "flac": b"fLaC\0\0\0\x22",
    "m4a": b"\0\0\0\x18ftypM4A ",
    "vorbis": ogg(b"\1vorbis\0"),
    "opus": ogg(b"OpusHead\1"),
    "folder of macOS": b"\0\0\0\1Bud1",
    "elf": b"\x7fELF\2\1\1",
    "gzip": b"\x1f\x8b\x08\0",
    "nothing but zeros": b"",
    "text": b"Once upon a time there was a plate that nobody could read, and so on.",
    "text like a packet": b"Go 1 by 1, and so on, until there is nothing left at all",
    "packet that is alone": packets()[:188] + b"x",
    "scrambled packet": packets(b"\x47\x40\x00\xd0"),
}


@pytest.mark.parametrize("head", VIDEO.values(), ids=VIDEO)
def test_a_video_is_known_by_its_first_bytes(head: bytes) -> None:
    assert looks_like_video(head.ljust(HEAD_SIZE, b"\0")) is True
    assert not looks_like_still(head)


@pytest.mark.parametrize("head", OTHER.values(), ids=OTHER)
def test_anything_else_is_no_video(head: bytes) -> None:
    padding = b" " if head.isascii() and head[:1].isalpha() else b"\0"
    assert looks_like_video(head.ljust(HEAD_SIZE, padding)) is False


@pytest.mark.parametrize("head", [*VIDEO.values(), *OTHER.values()], ids=[*VIDEO, *OTHER])
def test_a_head_that_is_too_short_asks_for_more_and_is_never_judged_otherwise(head: bytes) -> None:
    whole = head.ljust(HEAD_SIZE, b"\0")
    answers = [looks_like_video(whole[:size]) for size in range(HEAD_SIZE)]
    assert answers[0] is None
    assert {answer for answer in answers if answer is not None} <= {looks_like_video(whole)}


@given(st.binary(max_size=400))
def test_after_so_many_bytes_there_is_an_answer_to_any_head(head: bytes) -> None:
    assert (looks_like_video(head) is not None) or len(head) < HEAD_SIZE


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("clip.mp4", "mp4v"), ("clip.mov", "mp4v"), ("clip.avi", "MJPG"), ("clip.mkv", "VP80")),
        *(("clip.webm", "VP80"), ("clip.flv", "FLV1"), ("clip.wmv", "WMV2"), ("clip.ts", "mp4v")),
        *(("clip.mpg", "mpg1"), ("clip.3gp", "mp4v"), ("clip.ivf", "VP80"), ("clip.m2ts", "mp4v")),
        *(("clip.mxf", "mp2v"), ("clip.nut", "MJPG"), ("clip.m2v", "mp2v"), ("clip.m4v", "mp4v")),
    ],
)
def test_what_opencv_writes_looks_like_a_video(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (176, 144)
    )
    assert writer.isOpened(), "OpenCV cannot write this: take it out of the table"
    for shade in range(5):
        writer.write(np.full((144, 176, 3), shade * 20, np.uint8))
    writer.release()
    head = path.read_bytes()
    assert looks_like_video(head[:HEAD_SIZE]) is True
    assert looks_like_video(head[:4096]) is True


def test_the_clip_of_the_demo_is_a_video() -> None:
    clip = ROOT / "tusd_py" / "demo_clip" / "clip.webm"
    assert looks_like_video(clip.read_bytes()[:HEAD_SIZE]) is True


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".webp", ".tiff", ".jp2"])
def test_what_opencv_writes_as_an_image_is_no_video(extension: str) -> None:
    _, encoded = cv2.imencode(extension, np.eye(64, dtype=np.uint8) * 255)
    assert looks_like_video(encoded.tobytes()) is False
    assert looks_like_still(encoded.tobytes()[:HEAD_SIZE])


def test_a_real_archive_is_no_video() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("clip.mp4", os.urandom(100))
    assert looks_like_video(buffer.getvalue()) is False


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the sample videos do not lie beside the project")
def test_sample_videos_are_videos() -> None:
    heads = [path.read_bytes()[:HEAD_SIZE] for path in sorted(VIDEOS.glob("*.mp4"))]
    assert heads
    assert all(looks_like_video(head) for head in heads)
