"""What each policy brings to stable storage, in which order, and who waits for it."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from storage.durability import (
    Durability,
    PerRequest,
    Policy,
    Unsynced,
    choose,
)
from storage.errors import DiskFailed, UploadExists, UploadGone
from storage.filestore import FileStore
from storage.job import Ended, JobState
from storage.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.segments import FileWriter


@dataclass
class Disk:
    """Write down what is asked of the operating system, and fail when told to."""

    directory: Path
    calls: list[str] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("write", "pwrite", "pwritev", "ftruncate", "fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def watched(descriptor: int, *args: Any) -> Any:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path == self.directory or self.directory in path.parents:
                call = f"{name} {self._kind(path)}"
                self.calls.append(call)
                if call in self.failing:
                    self.failing.remove(call)
                    raise OSError(errno.EIO, "Input/output error")
            return do(descriptor, *args)

        return watched

    def _kind(self, path: Path) -> str:
        if path == self.directory:
            return "directory"
        return {".log": "journal", "": "data"}.get(path.suffix, path.suffix)

    def store(self, durability: Durability) -> FileStore:
        """Return a store that is ready; what that takes is no matter."""
        store = FileStore(self.directory, durability=durability)
        store.prepare()
        self.take()
        return store

    def take(self) -> list[str]:
        """Return what was called since the last time."""
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path)
    disk.watch(monkeypatch)
    return disk


def created(store: FileStore, length: int = 10) -> Upload:
    upload = Upload(str(uuid4()), length, None, 1.0, 2.0)
    store.create(upload)
    return replace(upload, token=1)


def append(writer: FileWriter, body: bytes, *, complete: bool = False) -> None:
    writer.write([body])
    writer.commit(replace(writer.upload, offset=writer.offset, complete=complete))


def test_a_creation_is_on_the_disk_with_its_name_before_it_is_told(disk: Disk) -> None:
    created(disk.store(PerRequest()))
    assert disk.take() == ["write journal", "fdatasync journal", "fsync directory"]


def test_an_upload_that_somebody_else_has_just_created_is_on_the_disk_before_it_is_told(
    disk: Disk,
) -> None:
    store = disk.store(PerRequest())
    upload = Upload(str(uuid4()), 10, None, 1.0, 2.0, fingerprint="of a request")
    store.create(upload)
    disk.take()
    with pytest.raises(UploadExists):
        store.create(upload)
    assert disk.take()[-1] == "fsync directory"


def test_an_upload_that_is_begun_is_on_the_disk_with_its_name_before_it_is_told(disk: Disk) -> None:
    store = disk.store(PerRequest())
    store.begin(Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1)).close()
    assert disk.take() == ["write journal", "fdatasync journal", "fsync directory"]


def test_bytes_that_were_only_taken_are_written_before_they_are_counted(disk: Disk) -> None:
    store = disk.store(Unsynced())
    assert store.prompt
    with closing(store.begin(Upload(str(uuid4()), 3, None, 1.0, 2.0, token=1))) as writer:
        disk.take()
        assert writer.take([b"a", b"bc"])
        writer.commit(replace(writer.upload, offset=3, complete=True))
        assert disk.take() == ["pwritev data", "write journal"]


def test_data_is_on_the_disk_before_the_line_that_counts_it_and_that_before_it_is_told(
    disk: Disk,
) -> None:
    store = disk.store(PerRequest())
    with closing(store.open(created(store))) as writer:
        disk.take()
        append(writer, b"abc")
        assert disk.take() == [
            "pwritev data",
            "fdatasync data",
            "write journal",
            "fdatasync journal",
        ]


def test_data_is_not_synced_again_for_a_line_that_counts_nothing_new(disk: Disk) -> None:
    store = disk.store(PerRequest())
    with closing(store.open(created(store))) as writer:
        append(writer, b"abcdefghij")
        disk.take()
        append(writer, b"", complete=True)
        assert disk.take() == ["write journal", "fdatasync journal"]


def test_what_is_written_while_a_commit_waits_is_synced_by_the_next(disk: Disk) -> None:
    store = disk.store(PerRequest())
    with closing(store.open(created(store))) as writer:
        writer.write([b"abc"])
        steps = writer.committing(replace(writer.upload, offset=3))
        [first] = next(steps)
        writer.write([b"de"])
        first.now()
        [second] = next(steps)
        second.now()
        assert next(steps, None) is None
        assert (writer.upload.offset, writer.unsynced) == (3, 2)
        disk.take()
        writer.commit(replace(writer.upload, offset=5))
        assert disk.take()[0] == "fdatasync data"


def test_what_an_earlier_writer_counted_is_synced_whatever_policy_it_followed(disk: Disk) -> None:
    careless = disk.store(Unsynced())
    upload = created(careless)
    with closing(careless.open(upload)) as writer:
        append(writer, b"abc")
        upload = replace(writer.upload, token=2)
    with closing(disk.store(PerRequest()).open(upload)) as writer:
        disk.take()
        append(writer, b"")
        assert disk.take() == ["fdatasync data", "write journal", "fdatasync journal"]


def test_a_complete_file_that_is_too_long_is_cut_before_the_line_that_says_so(disk: Disk) -> None:
    store = disk.store(PerRequest())
    with closing(store.open(created(store, 3))) as writer:
        append(writer, b"abc")
        writer.write([b"XXX"])
        writer.rewind()
        disk.take()
        append(writer, b"", complete=True)
        assert disk.take() == [
            "ftruncate data",
            "fdatasync data",
            "write journal",
            "fdatasync journal",
        ]
    with store.read(writer.upload.id) as content:
        assert content.read() == b"abc"


def test_without_durability_nothing_waits_for_the_disk_but_the_order_is_the_same(
    disk: Disk,
) -> None:
    store = disk.store(Unsynced())
    upload = created(store)
    assert disk.take() == ["write journal"]
    with closing(store.open(upload)) as writer:
        append(writer, b"abc")
        append(writer, b"defghij", complete=True)
    store.remove(upload.id)
    assert [call for call in disk.take() if "sync" in call] == []
    # A key's creation takes another way.
    store.create(Upload(str(uuid4()), 10, None, 1.0, 2.0, fingerprint="of a request"))
    assert [call for call in disk.take() if "sync" in call] == []


@pytest.mark.parametrize("durability", [Unsynced(), PerRequest()])
def test_the_end_of_a_job_and_its_result_are_durable_under_every_policy(
    disk: Disk, durability: Durability
) -> None:
    store = disk.store(durability)
    upload = created(store)
    disk.take()
    store.end_job(upload.id, Ended(JobState.COMPLETED, 5.0, 6.0, frames=7, plates=8, detections=9))
    assert disk.take() == ["write journal", "fdatasync journal"]
    store.publish_result(upload.id, b"{}")
    # Of the directory aside, of that of its name, of that of the result's.
    synced = ["write", "fdatasync", "fsync", "fsync", "fsync"]
    assert [call.partition(" ")[0] for call in disk.take()] == synced


@pytest.mark.parametrize("failing", ["fdatasync data", "fdatasync journal", "write journal"])
def test_after_a_sync_that_failed_nothing_since_the_last_one_counts(
    disk: Disk, failing: str
) -> None:
    store = disk.store(PerRequest())
    with closing(store.open(created(store))) as writer:
        append(writer, b"abc")
        before = writer.upload
        disk.failing = {failing}
        with pytest.raises(DiskFailed):
            append(writer, b"defghij", complete=True)
        assert disk.failing == set()
        # The kernel would say now that all is well.
        assert (writer.offset, writer.upload) == (3, before)
        with pytest.raises(DiskFailed):
            writer.write([b"defghij"])
        with pytest.raises(DiskFailed):
            writer.commit(replace(before, offset=10, complete=True))
        assert not writer.undisturbed()
        assert store.look(before.id) == store.recover(before.id)[0] == before
    with closing(store.open(replace(before, token=2))) as writer:
        disk.take()
        append(writer, b"defghij", complete=True)
        assert disk.take()[:2] == ["pwritev data", "fdatasync data"]
    with store.read(before.id) as content:
        assert content.read() == b"abcdefghij"


@pytest.mark.parametrize("failing", ["fdatasync journal", "fsync directory"])
def test_a_creation_whose_sync_failed_was_none(disk: Disk, tmp_path: Path, failing: str) -> None:
    store = disk.store(PerRequest())
    disk.failing = {failing}
    with pytest.raises(DiskFailed):
        store.begin(Upload(str(uuid4()), 10, None, 1.0, 2.0, token=1))
    disk.failing = {failing}
    with pytest.raises(DiskFailed):
        created(store)
    assert list(store.ids()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops", "results"]


@pytest.mark.parametrize(
    ("policy", "kind"),
    [("request", PerRequest), ("interval", PerRequest), ("none", Unsynced)],
)
def test_a_policy_is_chosen_by_its_name(policy: Policy, kind: type[Durability]) -> None:
    assert type(choose(policy)) is kind


def test_a_removal_whose_sync_failed_is_written_and_synced_again_before_it_is_told(
    disk: Disk,
) -> None:
    store = disk.store(PerRequest())
    upload = created(store)
    disk.failing.add("fdatasync journal")
    with pytest.raises(DiskFailed):
        store.remove(upload.id)
    disk.take()
    with pytest.raises(UploadGone):
        store.look(upload.id)
    # The kernel took for clean what it lost: a sync alone would do nothing.
    assert disk.take() == ["pwrite journal", "fdatasync journal"]


def test_what_is_told_of_a_journal_is_written_and_synced_again_and_stays_what_it_is(
    disk: Disk, tmp_path: Path
) -> None:
    store = disk.store(PerRequest())
    upload = created(store)
    log = tmp_path / f"{upload.id}.log"
    before = log.read_bytes()
    disk.take()
    store.settle(upload.id)
    # The sync of whoever wrote it may have failed, and the kernel took for clean what it lost.
    assert disk.take() == ["pwrite journal", "fdatasync journal", "fsync directory"]
    assert log.read_bytes() == before


def test_what_is_written_again_of_a_journal_takes_no_tombstone_away(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = disk.store(PerRequest())
    upload = created(store)
    write = os.pwrite

    def removed_before(descriptor: int, content: bytes, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", write)
        store.remove(upload.id)
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", removed_before)
    store.settle(upload.id)
    with pytest.raises(UploadGone):
        store.look(upload.id)
