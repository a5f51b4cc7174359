"""Only files of ours without a journal, older than an hour and in nobody's hands, are orphans."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from storage import journal, orphans
from storage.filestore import FileStore
from storage.orphans import Orphans, missing
from storage.upload import Upload

if TYPE_CHECKING:
    from pathlib import Path

OURS = "0f3c1b52-6f3c-4f0e-9d4e-0c1d2e3f4a5b"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path)
    store.prepare()
    return store


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file be older than an hour."""
    monkeypatch.setattr(orphans, "_OLD", -60.0)


def found(directory: Path) -> list[str]:
    return [orphan.name for orphan in Orphans(directory).find()]


def created(store: FileStore) -> Upload:
    upload = Upload(str(uuid4()), 9, None, time.time(), time.time() + 60)
    store.create(upload)
    return upload


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize(
    "name",
    [
        OURS,
        f"{OURS}.1",
        f"{OURS}.27",
        f"results/{OURS}.json",
        "results/.0123456789abcdef",
        ".probe-0123abcd",
        ".secret-0123456789abcdef",
        f".{OURS}.0123456789abcdef",
        ".marker-0123abcd",
    ],
)
def test_a_file_of_ours_without_a_journal_is_an_orphan_and_removed(
    store: FileStore, name: str
) -> None:
    (store.directory / name).write_bytes(b"abc")
    [orphan] = Orphans(store.directory).find()
    assert (orphan.name, orphan.size) == (name, 3)
    assert Orphans(store.directory).remove(orphan)
    assert not (store.directory / name).exists()
    assert Orphans(store.directory).remove(orphan)


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize(
    "name",
    [
        "video.mp4",
        f"{OURS}.mp4",
        f"{OURS}.01",
        f"{OURS}.0",
        f"{OURS.upper()}",
        f"{OURS}x",
        f"results/{OURS}",
        "results/notes.json",
        f"redis/{OURS}",
        ".probe",
        ".marker",
        "lost+found",
    ],
)
def test_what_is_not_ours_is_not_seen(store: FileStore, name: str) -> None:
    path = store.directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"abc")
    assert found(store.directory) == []


@pytest.mark.usefixtures("aged")
def test_a_directory_or_a_link_of_our_name_is_not_ours(store: FileStore) -> None:
    (store.directory / OURS).mkdir()
    (store.directory / f"{OURS}.1").symlink_to("/dev/null")
    assert found(store.directory) == []


def test_a_file_younger_than_an_hour_is_left_as_its_journal_may_come(store: FileStore) -> None:
    path = store.directory / OURS
    path.write_bytes(b"abc")
    assert found(store.directory) == []
    # Old bytes under a new name: a final upload begins with links to those of its parts.
    os.utime(path, (1, 1))
    assert found(store.directory) == []


@pytest.mark.usefixtures("aged")
def test_nothing_of_an_upload_with_a_journal_is_an_orphan(store: FileStore) -> None:
    upload = created(store)
    (store.directory / f"{upload.id}.1").write_bytes(b"abc")
    store.publish_result(upload.id, b"{}")
    assert found(store.directory) == []


@pytest.mark.usefixtures("aged")
def test_pictures_without_a_journal_and_of_a_run_that_died_are_removed(store: FileStore) -> None:
    upload = created(store)
    for upload_id in (upload.id, OURS):
        store.publish_result(upload_id, b"{}", [b"a picture"])
    (store.directory / "crops" / ".0123456789abcdef").mkdir()
    strays = ["crops/.0123456789abcdef", f"crops/{OURS}", f"results/{OURS}.json"]
    assert sorted(found(store.directory)) == strays
    for orphan in Orphans(store.directory).find():
        assert Orphans(store.directory).remove(orphan)
    assert found(store.directory) == []
    assert store.crop(upload.id, 0) == b"a picture"
    assert store.crop(OURS, 0) is None


@pytest.mark.usefixtures("aged")
def test_a_damaged_journal_keeps_its_files(store: FileStore) -> None:
    upload = created(store)
    (store.directory / upload.id).write_bytes(b"abc")
    for damage in (b"", b"x", b"L\nxx"):
        (store.directory / f"{upload.id}.log").write_bytes(damage)
        assert found(store.directory) == []


@pytest.mark.usefixtures("aged")
def test_a_creation_that_broke_off_before_its_first_byte_goes_whole(store: FileStore) -> None:
    (store.directory / OURS).touch()
    (store.directory / f"{OURS}.log").touch()
    assert found(store.directory) == [OURS, f"{OURS}.log"]
    for orphan in Orphans(store.directory).find():
        assert Orphans(store.directory).remove(orphan)
    assert found(store.directory) == []


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("kept", [slice(0), slice(3), slice(60), slice(60, 400), slice(399)])
@pytest.mark.parametrize("size", ["known", "unknown"])
def test_a_creation_of_which_a_power_cut_left_only_parts_goes_whole(
    store: FileStore, kept: slice, size: str
) -> None:
    upload = replace(created(store), metadata="filename " + "m" * 400)
    whole = journal.first_lines(upload, "boot")
    torn = bytearray(len(whole))
    torn[kept] = whole[kept]
    log = store.directory / f"{upload.id}.log"
    log.write_bytes(torn if size == "known" else torn.rstrip(b"\0"))
    assert found(store.directory) == [upload.id, log.name]
    # Of another one a later line was torn; what was promised before that stands.
    log.write_bytes(whole + torn)
    assert found(store.directory) == []
    # And one that was removed stays so until it is forgotten.
    log.write_bytes(b"D" + torn[1:])
    assert found(store.directory) == []


def test_a_creation_under_way_is_no_orphan(store: FileStore) -> None:
    (store.directory / OURS).touch()
    (store.directory / f"{OURS}.log").touch()
    assert found(store.directory) == []


@pytest.mark.usefixtures("aged")
def test_what_found_an_owner_meanwhile_is_not_removed(store: FileStore) -> None:
    (store.directory / OURS).write_bytes(b"abc")
    [orphan] = Orphans(store.directory).find()
    (store.directory / f"{OURS}.log").write_bytes(b"L\n")
    assert not Orphans(store.directory).remove(orphan)
    assert (store.directory / OURS).read_bytes() == b"abc"


@pytest.mark.usefixtures("aged")
def test_what_a_writer_has_open_is_not_removed(store: FileStore) -> None:
    path = store.directory / OURS
    with path.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        [orphan] = Orphans(store.directory).find()
        assert not Orphans(store.directory).remove(orphan)
    assert Orphans(store.directory).remove(orphan)


def test_bytes_that_are_counted_and_missing_are_told(store: FileStore) -> None:
    upload = created(store)
    counted = replace(upload, offset=9, segments=((0, 0), (2, 5)))
    first, later = store.directory / upload.id, store.directory / f"{upload.id}.2"
    assert missing(store.directory, counted) == f"{upload.id} has 0 of 5 bytes"
    first.write_bytes(b"12345")
    assert missing(store.directory, counted) == f"{upload.id}.2 is not there"
    later.write_bytes(b"678")
    assert missing(store.directory, counted) == f"{upload.id}.2 has 3 of 4 bytes"
    # What nobody counted yet is no damage.
    later.write_bytes(b"6789 and more")
    assert missing(store.directory, counted) is None
