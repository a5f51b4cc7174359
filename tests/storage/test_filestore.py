"""FileStore keeps what storage.interfaces.DataStore promises."""

from __future__ import annotations

import errno
import os
from contextlib import closing, suppress
from dataclasses import replace
from io import SEEK_END, BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import (
    DiskFailed,
    JournalDamaged,
    LockLost,
    RecordBehind,
    StorageFull,
    UploadGone,
    UploadNotFound,
)
from storage.filestore import FileStore
from storage.job import Ended, JobState
from storage.segments import FileWriter, SegmentReader
from storage.upload import Upload


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "uploads")
    store.prepare()
    return store


@pytest.fixture
def upload(store: FileStore) -> Upload:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0)
    store.create(upload)
    return replace(upload, token=1)


def test_bytes_are_a_plain_file_named_by_the_id(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc", b"", b"defg", memoryview(b"hij")])
        assert writer.offset == 10
        writer.commit(replace(upload, offset=10, complete=True))
    assert (tmp_path / "uploads" / upload.id).read_bytes() == b"abcdefghij"
    with store.read(upload.id) as file:
        assert file.read() == b"abcdefghij"


def test_a_creation_with_a_key_that_ended_behind_its_journal_can_be_written(
    store: FileStore, tmp_path: Path
) -> None:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, fingerprint="that of a request")
    store.create(upload)
    (tmp_path / "uploads" / upload.id).unlink()
    with closing(store.open(replace(upload, token=1))) as writer:
        writer.write([b"abc"])
        writer.commit(replace(writer.upload, offset=3))
    assert (tmp_path / "uploads" / upload.id).read_bytes() == b"abc"
    assert store.recover(upload.id)[0].offset == 3


def test_a_length_that_is_declared_late_is_remembered(store: FileStore) -> None:
    deferred = Upload(str(uuid4()), None, None, 1.0, 2.0)
    store.create(deferred)
    assert store.recover(deferred.id)[0].length is None
    with closing(store.open(deferred)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(deferred, offset=3))
        assert store.recover(deferred.id)[0].length is None
        writer.commit(replace(deferred, offset=3, length=7))
    assert store.recover(deferred.id)[0].length == 7


def test_what_was_committed_is_recovered(store: FileStore, upload: Upload) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(upload, offset=3, expires_at=9.0))
        writer.write([b"defg"])
    recovered, ended = store.recover(upload.id)
    assert store.look(upload.id) == recovered
    assert recovered == replace(upload, offset=3, expires_at=9.0)
    assert ended is None


def test_writing_goes_on_at_the_offset_over_what_was_never_counted(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(upload, offset=3))
        writer.write([b"XXXXXXXXXXXXXXX"])
    with closing(store.open(replace(upload, offset=3, token=2))) as writer:
        writer.write([b"defghij"])
        writer.commit(replace(upload, offset=10, token=2, complete=True))
    assert (tmp_path / "uploads" / upload.id).read_bytes() == b"abcdefghij"


def test_a_torn_journal_line_does_not_hide_the_next_one(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    log = tmp_path / "uploads" / f"{upload.id}.log"
    log.write_bytes(log.read_bytes() + b'deadbeef ["offset",1')
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(upload, offset=3))
    assert store.recover(upload.id)[0].offset == 3


def test_a_writer_that_only_sleeps_never_reaches_what_its_successor_writes(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    directory = tmp_path / "uploads"
    with closing(store.open(upload)) as sleeper:
        sleeper.write([b"abc"])
        sleeper.commit(replace(upload, offset=3))
        newcomer = store.open(replace(upload, offset=3, token=2))
        newcomer.write([b"defg"])
        taken = replace(newcomer.upload, offset=7)
        newcomer.commit(taken)
        # It wakes, and writes on where it was.
        sleeper.write([b"XXXXXXX"])
        with pytest.raises(LockLost):
            sleeper.commit(replace(upload, offset=10, complete=True))
        newcomer.close()
    assert store.recover(upload.id)[0] == taken
    assert taken.segments == ((0, 0), (1, 3))
    # A process of the same boot goes on in the segment that is free now.
    with closing(store.open(replace(taken, token=3))) as last:
        last.write([b"hij"])
        last.commit(replace(last.upload, offset=10, complete=True))
    assert not (directory / f"{upload.id}.2").exists()
    with store.read(upload.id) as file:
        assert file.read() == b"abcdefghij"
    store.purge(upload.id)
    assert [path.name for path in directory.iterdir()] == ["results"]


def test_no_token_is_used_twice_though_redis_forgot_that_it_gave_it_out(
    store: FileStore, upload: Upload
) -> None:
    with closing(store.open(replace(upload, token=5))) as writer:
        # Redis is emptied now, and gets the record back as the journal has it.
        rebuilt, _ = store.recover(upload.id)
        assert rebuilt.token == 5
        with pytest.raises(RecordBehind):
            store.open(replace(rebuilt, token=5))
        writer.write([b"abc"])
        writer.commit(replace(writer.upload, offset=3))
    assert store.recover(upload.id)[0].offset == 3


# A sleeper holds token 5. With Redis emptied meanwhile a newcomer may get any.
@pytest.mark.parametrize("token", [4, 5, 6])
def test_a_sleeper_that_read_the_journal_long_ago_does_not_write(
    store: FileStore, upload: Upload, monkeypatch: pytest.MonkeyPatch, token: int
) -> None:
    take_over = store._take_over

    def sleep(asked: Upload, boot: str) -> int | None:
        monkeypatch.undo()
        with closing(store.open(replace(upload, token=token))) as newcomer:
            newcomer.write([b"abc"])
            newcomer.commit(replace(newcomer.upload, offset=3))
        return take_over(asked, boot)

    monkeypatch.setattr(store, "_take_over", sleep)
    with pytest.raises(RecordBehind, match="3 bytes are here"):
        store.open(replace(upload, token=5))
    recovered, _ = store.recover(upload.id)
    assert (recovered.offset, recovered.token) == (3, max(token, 5))


@pytest.mark.parametrize("token", [4, 5, 6])
@pytest.mark.parametrize("written", [0, 3])
def test_a_sleeper_that_has_taken_the_file_and_its_successor_never_both_count(
    store: FileStore, upload: Upload, monkeypatch: pytest.MonkeyPatch, token: int, written: int
) -> None:
    announce = FileWriter.announce
    opened: list[FileWriter] = []

    def sleep(sleeper: FileWriter) -> None:
        monkeypatch.undo()
        newcomer = store.open(replace(upload, token=token))
        opened.append(newcomer)
        newcomer.write([b"abc"[:written]])
        newcomer.commit(replace(newcomer.upload, offset=written))
        announce(sleeper)

    monkeypatch.setattr(FileWriter, "announce", sleep)
    with suppress(RecordBehind):
        opened.append(store.open(replace(upload, token=5)))
    # Both may have to begin anew; but what was acknowledged of one is there.
    acknowledged = [opened[0].upload]
    for writer in opened:
        with suppress(LockLost), closing(writer):
            writer.write([b"defg"])
            writer.commit(replace(writer.upload, offset=writer.offset))
            acknowledged.append(writer.upload)
    assert len(acknowledged) <= 2
    assert store.recover(upload.id)[0] == replace(acknowledged[-1], token=max(token, 5))


def test_what_was_removed_meanwhile_takes_no_commit(store: FileStore, upload: Upload) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        store.remove(upload.id)
        with pytest.raises(UploadGone):
            writer.commit(replace(upload, offset=3))


def test_a_writer_that_is_rewound_writes_over_what_it_did_not_commit(
    store: FileStore, upload: Upload
) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(writer.upload, offset=3))
        writer.write([b"XXXXXXX"])
        writer.rewind()
        assert writer.offset == writer.upload.offset == 3
        writer.write([b"defghij"])
        writer.commit(replace(writer.upload, offset=10, complete=True))
    with store.read(upload.id) as file:
        assert file.read() == b"abcdefghij"


@pytest.mark.parametrize("deed", ["open", "remove", "purge"])
def test_a_writer_sees_that_somebody_else_was_at_its_upload(
    store: FileStore, upload: Upload, deed: str
) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(writer.upload, offset=3))
        assert writer.undisturbed()
        if deed == "open":
            store.open(replace(upload, offset=3, token=2)).close()
        else:
            getattr(store, deed)(upload.id)
        assert not writer.undisturbed()


def test_a_segment_in_which_nothing_was_counted_is_none(store: FileStore, upload: Upload) -> None:
    with closing(store.open(upload)) as sleeper:
        sleeper.write([b"XXX"])
        with closing(store.open(replace(upload, token=2))) as newcomer:
            assert newcomer.upload.segments == ((1, 0),)
            newcomer.write([b"abc"])
            newcomer.commit(replace(newcomer.upload, offset=3))
    with store.read(upload.id) as file:
        assert file.read() == b"abc"


def test_a_concatenation_shares_the_bytes_of_its_parts(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    with closing(store.open(upload)) as sleeper:
        sleeper.write([b"abc"])
        sleeper.commit(replace(upload, offset=3))
        with closing(store.open(replace(upload, offset=3, token=2))) as writer:
            writer.write([b"defg"])
            part = replace(writer.upload, offset=7, length=7, complete=True)
            writer.commit(part)
    final = Upload(str(uuid4()), None, None, 1.0, 2.0, concat=f"final;{part.id} /files/{part.id}/")
    store.create(final)
    made = store.assemble(final.id, 14)
    assert (made.offset, made.length, made.complete) == (14, 14, True)
    assert made.segments == ((0, 0), (1, 3), (0, 7), (1, 10))
    assert store.recover(final.id)[0] == made
    store.purge(part.id)
    with store.read(final.id) as file:
        assert file.read() == b"abcdefgabcdefg"
    store.purge(final.id)
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == ["results"]


def test_after_another_boot_a_new_segment_begins(
    store: FileStore, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abc"])
        writer.commit(replace(upload, offset=3))
    monkeypatch.setattr(store, "_boot", "another")
    with closing(store.open(replace(upload, offset=3, token=2))) as writer:
        assert writer.upload.segments == ((0, 0), (1, 3))


@given(cuts=st.lists(st.integers(0, 30), max_size=4), ask=st.data())
def test_segments_are_read_as_one_file(cuts: list[int], ask: st.DataObject) -> None:
    content = bytes(range(30))
    bounds = [0, *sorted(cuts), len(content)]
    with TemporaryDirectory() as directory:
        paths = [Path(directory, str(number)) for number in range(len(bounds) - 1)]
        for path, start, end in zip(paths, bounds[:-1], bounds[1:], strict=True):
            # What lies behind the counted bytes belongs to nobody.
            path.write_bytes(content[start:end] + b"surplus")
        with BufferedReader(SegmentReader(paths, bounds)) as reader:
            assert reader.read() == content
            assert reader.seek(0, SEEK_END) == len(content)
            for _ in range(5):
                at, count = ask.draw(st.integers(0, 35)), ask.draw(st.integers(0, 35))
                assert reader.seek(at) == at
                assert reader.read(count) == content[at : at + count]


def test_a_file_shorter_than_the_record_is_damaged(store: FileStore, upload: Upload) -> None:
    with pytest.raises(JournalDamaged, match=r"counts 5 bytes.*have 0"):
        store.open(replace(upload, offset=5))


def test_an_unknown_upload_is_not_found(store: FileStore) -> None:
    unknown = Upload(str(uuid4()), 10, None, 1.0, 2.0)
    with pytest.raises(UploadNotFound):
        store.open(unknown)
    with pytest.raises(UploadNotFound):
        store.recover(unknown.id)
    with pytest.raises(UploadNotFound):
        store.read(unknown.id)


def test_an_id_is_never_made_twice(store: FileStore, upload: Upload) -> None:
    with pytest.raises(DiskFailed):
        store.create(upload)


def test_a_removed_upload_stays_removed(store: FileStore, upload: Upload) -> None:
    assert store.publish_result(upload.id, b"{}")
    store.remove(upload.id)
    for ask in (store.recover, store.look, store.read):
        with pytest.raises(UploadGone):
            ask(upload.id)
    with pytest.raises(UploadGone):
        store.open(upload)
    assert store.result(upload.id) is None
    assert list(store.ids()) == [upload.id]
    store.purge(upload.id)
    store.purge(upload.id)
    assert list(store.ids()) == []


def test_the_record_outlives_the_bytes(store: FileStore, upload: Upload) -> None:
    store.remove_bytes(upload.id)
    store.remove_bytes(upload.id)
    assert store.recover(upload.id)[0].id == upload.id
    with pytest.raises(UploadGone):
        store.read(upload.id)


def test_the_first_published_result_stands(store: FileStore, upload: Upload) -> None:
    assert store.result(upload.id) is None
    assert store.publish_result(upload.id, b"first") is True
    assert store.publish_result(upload.id, b"second") is False
    assert store.result(upload.id) == b"first"


def test_results_holds_nothing_but_results(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    store.publish_result(upload.id, b"first")
    store.publish_result(upload.id, b"second")
    results = tmp_path / "uploads" / "results"
    assert list(results.iterdir()) == [results / f"{upload.id}.json"]


def test_the_end_of_a_job_is_remembered(store: FileStore, upload: Upload) -> None:
    ended = Ended(JobState.COMPLETED, 5.0, 6.0, frames=7, plates=8, detections=9)
    store.end_job(upload.id, ended)
    assert store.recover(upload.id)[1] == ended


def test_a_full_disk_keeps_what_fitted_and_says_so(
    store: FileStore, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = iter([4])

    def pwritev(fd: int, buffers: list[memoryview], offset: int) -> int:
        for size in written:
            return os.pwrite(fd, b"".join(buffers)[:size], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(store.open(upload)) as writer:
        monkeypatch.setattr(os, "pwritev", pwritev)
        with pytest.raises(StorageFull):
            writer.write([b"abc", b"defghij"])
        assert writer.offset == 4
        writer.commit(replace(upload, offset=4))
    with store.read(upload.id) as file:
        assert file.read() == b"abcd"


def test_uploads_leave_the_reserve_of_the_disk_alone(tmp_path: Path, upload: Upload) -> None:
    store = FileStore(tmp_path / "uploads", reserve=2**62)
    with closing(store.open(upload)) as writer:
        writer.write([])
        with pytest.raises(StorageFull):
            writer.write([b"abc"])
        assert writer.offset == 0
        # What was counted before can still be remembered.
        writer.commit(upload)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFailed, match="file/uploads cannot be written"):
        FileStore(tmp_path / "file" / "uploads").prepare()


def test_only_journals_of_uploads_are_listed(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    for name in ("notes.log", "redis", f"{upload.id}.1", "x.log"):
        (tmp_path / "uploads" / name).touch()
    assert list(store.ids()) == [upload.id]


def test_an_upload_without_a_journal_can_be_removed(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    (tmp_path / "uploads" / f"{upload.id}.log").unlink()
    store.remove(upload.id)
    assert not (tmp_path / "uploads" / upload.id).exists()


@pytest.mark.parametrize(
    ("token", "offset", "behind"), [(6, 3, False), (5, 3, True), (4, 3, True), (6, 2, True)]
)
def test_a_record_that_knows_less_than_the_journal_is_not_written_under(
    store: FileStore, upload: Upload, *, token: int, offset: int, behind: bool
) -> None:
    stored = replace(upload, token=5, offset=3)
    with closing(store.open(replace(upload, token=5))) as writer:
        writer.write([b"abc"])
        writer.commit(stored)
    asked = replace(upload, token=token, offset=offset)
    if behind:
        with pytest.raises(RecordBehind, match="3 bytes are here") as raised:
            store.open(asked)
        assert raised.value.upload == stored
    else:
        store.open(asked).close()


def test_a_completion_that_redis_does_not_know_is_told(store: FileStore, upload: Upload) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abcdefghij"])
        writer.commit(replace(upload, offset=10, complete=True))
    with pytest.raises(RecordBehind):
        store.open(replace(upload, offset=10, token=2))


def test_what_expired_is_removed_unless_somebody_has_it_open(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    assert store.expire(upload.id, upload.expires_at) is False
    with closing(store.open(upload)):
        assert store.expire(upload.id, 1e10) is False
    assert store.expire(upload.id, 1e10) is True
    assert not (tmp_path / "uploads" / upload.id).exists()
    with pytest.raises(UploadGone):
        store.recover(upload.id)


def test_a_finished_upload_does_not_expire(store: FileStore, upload: Upload) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"abcdefghij"])
        writer.commit(replace(upload, offset=10, complete=True))
    assert store.expire(upload.id, 1e10) is False


@pytest.mark.parametrize("damage", ["a directory", "unreadable"])
def test_a_journal_that_cannot_be_read_is_the_disks_failure(
    store: FileStore, upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = tmp_path / "uploads" / f"{upload.id}.log"
    if damage == "a directory":
        path.unlink()
        path.mkdir()
    else:

        def refused(_: Path) -> bytes:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DiskFailed, match="the disk does not do its work"):
        store.recover(upload.id)


def content(store: FileStore, upload: Upload) -> bytes:
    with store.read(upload.id) as file:
        return file.read()


def test_what_is_taken_is_written_in_its_order_with_what_comes_next(
    store: FileStore, upload: Upload
) -> None:
    with closing(store.open(upload)) as writer:
        assert writer.take([b"ab", b"c"])
        assert writer.take([b"d"])
        assert (writer.offset, content(store, upload)) == (4, b"")
        writer.write([b"ef"])
        assert writer.take([b"g"])
        writer.commit(replace(writer.upload, offset=writer.offset))
    assert content(store, upload) == b"abcdefg"


def test_no_more_is_taken_than_a_little_and_nothing_of_what_is_too_much(
    store: FileStore, upload: Upload
) -> None:
    with closing(store.open(upload)) as writer:
        assert writer.take([b"a" * 65_000])
        assert not writer.take([b"b" * 1_000])
        assert writer.offset == 65_000
        assert b"".join(writer.written(0)) == b"a" * 65_000


def test_what_was_taken_is_dropped_with_all_that_was_not_committed(
    store: FileStore, upload: Upload
) -> None:
    with closing(store.open(upload)) as writer:
        writer.take([b"old"])
        writer.rewind()
        assert writer.offset == 0
        writer.take([b"new"])
        writer.commit(replace(writer.upload, offset=3))
    assert content(store, upload) == b"new"


def test_an_upload_that_is_begun_is_created_and_opened_at_once(store: FileStore) -> None:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
    with closing(store.begin(upload)) as writer:
        writer.take([b"video"])
        writer.commit(replace(writer.upload, offset=5))
    assert store.recover(upload.id)[0] == writer.upload
    assert content(store, upload) == b"video"
    with closing(store.open(replace(writer.upload, token=2))) as second:
        second.write([b"s"])
        second.commit(replace(second.upload, offset=6))
    assert store.recover(upload.id)[0].segments == ((0, 0),)


def test_nobody_else_writes_the_file_of_an_upload_that_was_begun(store: FileStore) -> None:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
    with (
        closing(store.begin(upload)),
        closing(store.open(replace(upload, token=2))) as second,
    ):
        assert second.upload.segments == ((1, 0),)


def test_of_an_upload_that_cannot_be_begun_nothing_is_left(store: FileStore) -> None:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
    store.create(upload)
    before = sorted(store.directory.iterdir())
    with pytest.raises(DiskFailed):
        store.begin(upload)
    assert sorted(store.directory.iterdir()) == before
