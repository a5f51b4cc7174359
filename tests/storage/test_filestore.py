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

from storage.durability import PerRequest, Unsynced
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
from storage.segments import FileWriter, SegmentReader
from storage.upload import Upload
from tests.storage.conformance import DataStoreConformance


class TestPerRequest(DataStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return prepared(FileStore(tmp_path, durability=PerRequest()))


class TestUnsynced(DataStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return prepared(FileStore(tmp_path, durability=Unsynced()))


def prepared(store: FileStore) -> FileStore:
    store.prepare()
    return store


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


def test_an_upload_that_is_out_of_sight_is_not_taken_for_lost_and_none_is_begun(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    place, away = tmp_path / "uploads", tmp_path / "away"
    place.rename(away)
    other = replace(upload, id=str(uuid4()))
    steps = [
        lambda: store.look(upload.id),
        lambda: store.recover(upload.id),
        lambda: store.read(upload.id),
        lambda: store.open(upload),
        lambda: store.remove(upload.id),
        lambda: store.create(other),
        lambda: store.begin(other),
        store.prepare,
    ]
    # Nothing there, then what lies below a mount.
    for found in ([], [place]):
        for path in found:
            path.mkdir()
        for step in steps:
            with pytest.raises(DiskFailed):
                step()
        assert [*tmp_path.iterdir()] == [*found, away]
    assert [*place.iterdir()] == []
    place.rmdir()
    away.rename(place)
    assert store.look(upload.id) == replace(upload, token=0)


def test_a_directory_that_bears_a_marker_may_take_the_place_of_another(
    store: FileStore, tmp_path: Path
) -> None:
    (tmp_path / "uploads").rename(tmp_path / "away")
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / ".marker").write_text("as copied")
    with pytest.raises(UploadNotFound):
        store.look(str(uuid4()))
    store.prepare()


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


def test_bytes_that_are_missing_are_seen_by_who_asks_where_an_upload_stands(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    with closing(store.open(upload)) as writer:
        writer.write([b"hello"])
        writer.commit(replace(upload, offset=5))
    assert store.look(upload.id).offset == 5
    path = tmp_path / "uploads" / upload.id
    path.write_bytes(b"hell")
    with pytest.raises(JournalDamaged, match=r"counts 5 bytes.*have 4"):
        store.look(upload.id)
    path.unlink()
    with pytest.raises(JournalDamaged, match=r"counts 5 bytes.*have 0"):
        store.look(upload.id)


def test_an_id_is_never_made_twice(store: FileStore, upload: Upload) -> None:
    with pytest.raises(DiskFailed):
        store.create(upload)


def test_results_holds_nothing_but_results(
    store: FileStore, upload: Upload, tmp_path: Path
) -> None:
    store.publish_result(upload.id, b"first")
    store.publish_result(upload.id, b"second")
    results = tmp_path / "uploads" / "results"
    assert list(results.iterdir()) == [results / f"{upload.id}.json"]


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


def test_of_an_upload_that_cannot_be_begun_nothing_is_left(store: FileStore) -> None:
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)
    store.create(upload)
    before = sorted(store.directory.iterdir())
    with pytest.raises(DiskFailed):
        store.begin(upload)
    assert sorted(store.directory.iterdir()) == before


def test_a_removed_upload_keeps_its_id_and_nothing_that_its_client_said(store: FileStore) -> None:
    upload = Upload(str(uuid4()), 10, "filename RXJpa2E=", 1.0, 2.0)
    store.create(upload)
    store.remove(upload.id)
    kept = (store.directory / f"{upload.id}.log").read_bytes()
    assert upload.id.encode() in kept
    assert b"RXJpa2E" not in kept
    store.remove(upload.id)
    with pytest.raises(UploadGone):
        store.look(upload.id)
    with pytest.raises(DiskFailed):
        store.create(upload)
