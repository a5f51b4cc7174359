from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from processing.errors import DamagedVideo, EmptyVideo, NotAVideo, TooLarge
from processing.video import frames, open_video, probe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processing.doubles import SharedFolder


def picture(ending: str) -> bytes:
    """Return a small picture in a format."""
    image = np.full((48, 64, 3), 90, np.uint8)
    return bytes(cv2.imencode(ending, image)[1])


def test_probe_tells_size_rate_and_count(tiny_clip: Path) -> None:
    info = probe(tiny_clip)
    assert (info.width, info.height, info.fps, info.frames) == (320, 192, 10.0, 20)


def test_frames_are_bgr_pictures_with_index_and_time(tiny_clip: Path) -> None:
    found = list(frames(tiny_clip, every=8))
    assert [frame.index for frame in found] == [0, 8, 16]
    assert [frame.time for frame in found] == pytest.approx([0.0, 0.8, 1.6])
    assert {(frame.image.shape, frame.image.dtype.name) for frame in found} == {
        ((192, 320, 3), "uint8")
    }


def test_a_reader_gives_the_same_frames_and_stays_open(tiny_clip: Path) -> None:
    reader = BytesIO(tiny_clip.read_bytes())
    reader.seek(100)
    for one, other in zip(frames(reader, 5), frames(tiny_clip, 5), strict=True):
        assert (one.index, one.time) == (other.index, other.time)
        assert np.array_equal(one.image, other.image)
    assert not reader.closed


def test_an_unbuffered_file_is_a_reader_too(tiny_clip: Path) -> None:
    with tiny_clip.open("rb", buffering=0) as raw:
        assert len(list(frames(raw, 1))) == 20


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_a_still_image_is_a_video_of_one_frame(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"still{ending}"
    path.write_bytes(picture(ending))
    for source in (path, BytesIO(path.read_bytes())):
        (frame,) = frames(source, every=25)
        assert (frame.index, frame.time, frame.image.shape) == (0, 0.0, (48, 64, 3))
    assert probe(path).frames == 1


@pytest.mark.parametrize("as_reader", [True, False], ids=["reader", "path"])
def test_an_empty_source_is_an_empty_video(tmp_path: Path, *, as_reader: bool) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(EmptyVideo, match=r"^Uploaded file is empty$"):
        probe(BytesIO() if as_reader else path)


@pytest.mark.parametrize("as_reader", [True, False], ids=["reader", "path"])
@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is no video\n" * 50,
        bytes(range(256)) * 40,
        b"\xff\xd8\xff\xe0 cut off",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n\x00\x01",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00@\x1f\x00\x00@\x1f\x00\x00"
        b"\x01\x00\x08\x00data\x00\x01\x00\x00" + b"\x80" * 256,
    ],
    ids=["text", "noise", "broken picture", "playlist", "list of files", "sound only"],
)
def test_what_is_no_video_is_told_in_the_documents_sentence(
    content: bytes, tmp_path: Path, *, as_reader: bool
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(NotAVideo, match=r"^File must be a video \(mp4, avi, .*, flv\)$"):
        list(frames(BytesIO(content) if as_reader else path, 1))


def test_ffmpeg_keeps_silent_on_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(bytes(range(256)) * 40)
    code = (
        "import sys; from processing import errors, video\n"
        "try: video.probe(sys.argv[1])\n"
        "except errors.NotAVideo: print('refused')"
    )
    # Its own process, as FFmpeg's level is set once.
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "nothing.mp4")


def test_a_cut_mp4_whose_index_is_lost_is_told_as_damaged(small_clip: Path) -> None:
    whole = small_clip.read_bytes()
    with pytest.raises(DamagedVideo, match="cut off or damaged"):
        probe(BytesIO(whole[: len(whole) * 6 // 10]))


def test_a_cut_stream_gives_the_frames_that_are_there(tiny_clip: Path) -> None:
    whole = tiny_clip.read_bytes()
    with open_video(BytesIO(whole[: len(whole) // 2])) as video:
        found = list(video.frames())
    assert 0 < len(found) < 20
    assert video.grabbed == len(found)


def test_frames_after_damage_in_the_middle_are_not_lost(small_clip: Path) -> None:
    damaged = bytearray(small_clip.read_bytes())
    start, end = len(damaged) // 3, len(damaged) // 2
    damaged[start:end] = bytes(end - start)
    with open_video(BytesIO(bytes(damaged))) as video:
        found = list(video.frames())
        assert found[-1].time == pytest.approx(3.9)
        assert 0 < video.undecodable < video.grabbed < video.info.frames == 40


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tiff"])
def test_a_picture_with_too_many_pixels_is_refused_undecoded(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    with (
        pytest.raises(TooLarge, match=r"at most 1000 pixels \(MAX_PIXELS\), got 64 x 48"),
        open_video(BytesIO(picture(ending)), most_pixels=1000),
    ):
        pass


def test_a_video_with_too_many_pixels_is_refused_before_its_first_frame(tiny_clip: Path) -> None:
    with (
        pytest.raises(TooLarge, match="got 320 x 192"),
        open_video(tiny_clip, most_pixels=320 * 192 - 1),
    ):
        pass
    assert len(list(frames(tiny_clip, 10))) == 2


def test_a_header_that_lies_about_the_size_of_its_frames_helps_nothing(tiny_clip: Path) -> None:
    # Matroska's PixelWidth and PixelHeight, two bytes each.
    whole = tiny_clip.read_bytes()
    small = whole.replace(b"\xb0\x82\x01\x40", b"\xb0\x82\x00\x10", 1)
    small = small.replace(b"\xba\x81\xc0", b"\xba\x81\x10", 1)
    assert small != whole
    with pytest.raises(TooLarge), open_video(BytesIO(small), most_pixels=40_000) as video:
        list(video.frames())


def test_damage_in_the_middle_ends_in_frames_or_in_a_clear_error(tiny_clip: Path) -> None:
    damaged = bytearray(tiny_clip.read_bytes())
    chance = np.random.default_rng(5)
    for place in chance.integers(500, len(damaged), 300):
        damaged[place] ^= 0xFF
    try:
        found = list(frames(BytesIO(bytes(damaged)), 1))
    except NotAVideo:
        return
    assert 0 < len(found) <= 20


def test_every_below_one_is_refused(tiny_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"every >= 1, got 0"):
        next(frames(tiny_clip, 0))


def test_times_count_from_the_start_of_a_stream_that_starts_late(shared: SharedFolder) -> None:
    found = list(frames(shared("videos/parkpow_cars.mp4"), 112))
    assert [round(found[place].time, 3) for place in (0, -1)] == [0.0, 18.539]
