"""One directory has one Redis: each bears the other's marker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from storage import redis_schema as schema
from storage import redis_sync
from storage.errors import AnotherDirectory, DiskFailed, StoreUnavailable
from storage.filestore import FileStore
from storage.marker import NAME, Marker
from tests.storage.place import Place

if TYPE_CHECKING:
    from pathlib import Path


def marker(url: str, directory: Path) -> Marker:
    directory.mkdir(exist_ok=True)
    return Marker(redis_sync.clients(url)[0], directory)


def another(place: Place) -> Place:
    """Return another directory on the same Redis."""
    directory = place.directory / "another"
    data = FileStore(directory)
    data.prepare()
    return Place(place.url, data, directory)


def test_a_new_redis_learns_its_directory_and_compares_every_record(place: Place) -> None:
    place.text.set(schema.CHECKED, "this run")
    one = marker(place.url, place.directory)
    assert not one.known()
    assert not place.text.exists(schema.MARKER)
    assert not (place.directory / NAME).exists()
    one.claim()
    assert one.known()
    assert not place.text.exists(schema.CHECKED)
    assert str(place.directory) in place.text.get(schema.MARKER)
    one.claim()
    assert marker(place.url, place.directory).known()


def test_another_directory_is_refused_in_a_sentence_that_names_both(place: Place) -> None:
    marker(place.url, place.directory).claim()
    first = (place.directory / NAME).read_text().strip()
    other = marker(place.url, place.directory / "another")
    with pytest.raises(AnotherDirectory) as refused:
        other.claim()
    assert f"{place.directory} (marker {first})" in str(refused.value)
    assert f"{place.directory}/another has no marker" in str(refused.value)
    place.text.delete(schema.MARKER)
    other.claim()
    with pytest.raises(AnotherDirectory, match=f"this is {place.directory} .marker {first}"):
        marker(place.url, place.directory).claim()


def test_a_directory_that_is_not_mounted_is_another_one(place: Place) -> None:
    one = marker(place.url, place.directory)
    one.claim()
    (place.directory / NAME).unlink()
    with pytest.raises(AnotherDirectory):
        one.claim()
    assert not (place.directory / NAME).exists()


def test_processes_of_one_directory_that_start_at_once_agree(place: Place) -> None:
    def claim(_: int) -> None:
        marker(place.url, place.directory).claim()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(claim, range(24)))
    found = (place.directory / NAME).read_text().strip()
    assert place.text.get(schema.MARKER).startswith(f"{found} ")
    assert list(place.directory.glob(f"{NAME}-*")) == []


def test_of_two_directories_that_start_at_once_one_is_refused(place: Place) -> None:
    def claim(name: str) -> bool:
        try:
            marker(place.url, place.directory / name).claim()
        except AnotherDirectory:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            place.text.flushall()
            assert sorted(threads.map(claim, ("one", "two"))) == [False, True]


def test_a_directory_that_took_anothers_place_adopts_its_redis(place: Place) -> None:
    marker(place.url, place.directory).claim()
    other = marker(place.url, place.directory / "another")
    other.adopt()
    assert other.known()
    with pytest.raises(AnotherDirectory):
        marker(place.url, place.directory).known()


def test_on_another_directorys_redis_nothing_is_swept_or_restored(place: Place) -> None:
    upload_id = place.upload(complete=False, expires_at=1.0)
    place.jobs().reconcile()
    before = place.dumped()
    stranger = another(place).jobs()
    assert stranger.reconcile() == 0
    assert stranger.sweep() == 0
    with pytest.raises(AnotherDirectory):
        stranger.workers()
    assert place.dumped() == before
    assert place.record(upload_id).id == upload_id


def test_a_disk_that_takes_no_marker_stops_no_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = place.upload(complete=True)
    place.text.delete(schema.OUTBOX)

    def full(_: Marker) -> str:
        raise DiskFailed("No space left on device")

    monkeypatch.setattr(Marker, "_made", full)
    place.jobs().reconcile()
    assert place.queue.job_ids == [upload_id]


def test_a_redis_that_is_away_is_no_other_directorys(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        marker(f"unix://{tmp_path}/none.sock", tmp_path).claim()
