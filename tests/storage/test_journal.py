"""The journal tells the truth whatever tore its tail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import journal
from storage.durability import PerRequest
from storage.errors import JournalDamaged, RecordTooNew, UploadGone
from storage.job import Ended, JobState
from storage.upload import Upload

if TYPE_CHECKING:
    from pathlib import Path

UPLOAD = Upload(
    id="6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11",
    length=100,
    metadata="filename ZmlsbQ==",
    created_at=1000.5,
    expires_at=2000.5,
)


BOOT = "2b6e6a3c"


def line(name: str, token: int, offset: int, expires_at: float) -> tuple[object, ...]:
    return name, token, offset, 100, expires_at, [[0, 0]], BOOT


def lines(*entries: tuple[object, ...]) -> bytes:
    return journal.first_lines(UPLOAD, BOOT) + b"".join(journal.encode(*entry) for entry in entries)


def test_a_new_journal_gives_back_the_whole_record() -> None:
    read = journal.parse(lines())
    assert read.upload == UPLOAD
    assert read.ended is None


def test_offset_and_completion_are_those_of_the_last_line() -> None:
    read = journal.parse(lines(line("offset", 1, 40, 3000.0), line("complete", 2, 100, 4000.0)))
    assert read.upload == replace(UPLOAD, offset=100, token=2, expires_at=4000.0, complete=True)


def test_segments_and_boot_are_those_of_the_line_that_counts() -> None:
    upload = replace(UPLOAD, offset=60, token=1, segments=((0, 0), (2, 40)))
    raw = lines() + journal.commit_line(upload, "another boot")
    assert journal.parse(raw) == journal.Journal(upload, None, "another boot")
    raw += journal.opened_line(replace(upload, token=2), "a third", "writer")
    assert journal.parse(raw).boot == "a third"


def test_metadata_that_came_late_are_those_of_the_last_writer() -> None:
    later = replace(UPLOAD, token=5, metadata="filename ZmlsbQ==,frame_skip Mg==")
    raw = lines() + journal.described_line(later) + journal.commit_line(later, BOOT)
    assert journal.parse(raw).upload == later
    raw += journal.described_line(replace(UPLOAD, token=4, metadata="from a sleeper"))
    assert journal.parse(raw).upload == later


def test_a_late_line_of_an_older_token_counts_for_nothing() -> None:
    read = journal.parse(lines(line("offset", 5, 60, 3000.0), line("offset", 4, 99, 9000.0)))
    assert (read.upload.offset, read.upload.token) == (60, 5)


def opened(token: int, offset: int, writer: str) -> tuple[object, ...]:
    return *line("opened", token, offset, 3000.0), writer


def test_of_two_writers_with_one_token_the_first_is_right() -> None:
    read = journal.parse(lines(opened(5, 0, "one"), opened(5, 0, "two")))
    assert (read.upload.token, read.writer) == (5, "one")
    read = journal.parse(lines(opened(5, 0, "one"), opened(6, 0, "two")))
    assert (read.upload.token, read.writer) == (6, "two")


def test_a_writer_that_announces_itself_late_raises_the_token_and_lowers_nothing() -> None:
    read = journal.parse(
        lines(opened(4, 0, "one"), line("offset", 4, 60, 9.0), opened(5, 0, "two"))
    )
    assert (read.upload.token, read.upload.offset, read.writer) == (5, 60, "one")
    read = journal.parse(
        lines(opened(4, 0, "one"), line("complete", 4, 100, 9.0), opened(5, 0, "x"))
    )
    assert read.upload.complete


def test_the_end_of_the_job_is_remembered_with_its_reason() -> None:
    ended = Ended(JobState.FAILED, 5.0, 6.0, "not a video")
    read = journal.parse(lines(line("complete", 1, 100, 3.0), ("ended", ended.to_json())))
    assert read.ended == ended
    # It was tried again.
    read = journal.parse(lines(("ended", ended.to_json()), ("ended", None)))
    assert read.ended is None


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_torn_last_line_is_as_if_it_had_not_been_written(cut: int) -> None:
    whole = lines(line("offset", 1, 40, 3000.0))
    last = journal.encode(*line("offset", 1, 80, 3000.0))
    torn = whole + last[: min(cut, len(last) - 2)]
    assert journal.parse(torn).upload.offset == 40
    after = torn + journal.encode(*line("offset", 1, 60, 3000.0))
    assert journal.parse(after).upload.offset == 60


@given(data=st.data())
def test_a_line_with_a_flipped_bit_is_skipped(data: st.DataObject) -> None:
    whole = lines(line("offset", 1, 40, 3000.0))
    last = bytearray(journal.encode(*line("offset", 1, 80, 3000.0)))
    at = data.draw(st.integers(1, len(last) - 2))
    last[at] ^= 1 << data.draw(st.integers(0, 7))
    assert journal.parse(whole + bytes(last)).upload.offset == 40
    after = whole + bytes(last) + journal.encode(*line("offset", 1, 60, 3000.0))
    assert journal.parse(after).upload.offset == 60


@pytest.mark.parametrize("raw", [b"", b"L", b"L\n", b"X\n12345678 []\n", lines()[:30]])
def test_a_journal_without_its_first_line_is_damaged(raw: bytes) -> None:
    with pytest.raises(JournalDamaged):
        journal.parse(raw)


def test_a_buried_journal_is_gone_whatever_its_lines_say(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(lines(line("offset", 1, 40, 3000.0)))
    journal.bury(path, PerRequest())
    path.write_bytes(path.read_bytes() + journal.encode(*line("offset", 9, 50, 3000.0)))
    with pytest.raises(UploadGone):
        journal.parse(path.read_bytes())


def test_a_record_from_the_future_is_refused_in_a_sentence() -> None:
    raw = b"L\n" + journal.encode("upload", UPLOAD.to_json() | {"version": 99}, BOOT)
    with pytest.raises(RecordTooNew, match=r"version 99.*upgrade"):
        journal.parse(raw)


def test_a_late_completion_of_an_older_token_completes_nothing() -> None:
    read = journal.parse(lines(line("complete", 4, 100, 3000.0), line("offset", 5, 60, 3000.0)))
    assert (read.upload.offset, read.upload.complete) == (60, False)


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "running"])
def test_the_ends_of_a_long_journal_tell_the_same_as_all_of_it(
    tmp_path: Path, *, ended: bool
) -> None:
    path = tmp_path / "x.log"
    entries = [line("offset", 1 + at // 1000, at, 3000.0) for at in range(70_000)]
    end = Ended(JobState.FAILED, 5.0, 6.0, "not a video")
    last = [line("complete", 99, 100, 9.0), ("ended", end.to_json())] if ended else []
    whole = lines(*entries, *last)
    path.write_bytes(whole + b"\ndeadbeef [torn")
    assert len(whole) > 4_000_000
    assert journal.read(path) == journal.parse(whole)


def test_a_first_line_longer_than_the_tail_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    upload = replace(UPLOAD, metadata="m" * 60_000)
    path.write_bytes(journal.first_lines(upload, BOOT))
    assert journal.read(path).upload == upload
    path.write_bytes(path.read_bytes() + journal.encode(*line("offset", 1, 40, 3000.0)))
    assert journal.read(path) == journal.parse(path.read_bytes())


def test_a_tail_without_a_sound_line_makes_it_read_all(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(lines(line("offset", 1, 40, 3000.0)) + b"\nx" * 20_000)
    assert journal.read(path).upload.offset == 40


def test_a_buried_long_journal_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(lines(*(line("offset", 1, at, 3000.0) for at in range(1000))))
    journal.bury(path, PerRequest())
    with pytest.raises(UploadGone):
        journal.read(path)
