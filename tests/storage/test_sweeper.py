"""What is due is removed, and nothing else; against a real server."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from storage import redis_schema as schema
from storage.errors import StoreUnavailable, UploadGone, UploadNotFound
from storage.job import JobState
from storage.redis_locker import process_identity
from storage.sweeper import Retention
from tests.storage.place import DAY, RESULT, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_an_unfinished_upload_past_its_expiry_is_removed(place: Place) -> None:
    upload_id = place.upload(complete=False, expires_at=time.time() - 1)
    assert place.jobs().sweep() == 1
    assert place.job(upload_id).state is JobState.CANCELLED
    assert not place.text.exists(schema.upload_key(upload_id), schema.lock_key(upload_id))
    with pytest.raises(UploadGone):
        place.data.recover(upload_id)


def test_an_unfinished_upload_that_its_journal_prolonged_stays(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.make_due(upload_id)
    assert place.jobs().sweep() == 0
    assert place.job(upload_id).state is JobState.UPLOADING
    assert (place.due(upload_id) or 0) > time.time() + DAY / 2


def test_an_upload_under_a_lock_is_not_swept_and_nobody_is_interrupted(place: Place) -> None:
    upload_id = place.upload(complete=False, expires_at=time.time() - 1)
    holder = f"{process_identity()}:9"
    place.text.set(schema.lock_key(upload_id), holder, px=60_000)
    with place.text.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(schema.process_channel(process_identity()))
        assert place.jobs().sweep() == 0
        assert heard.get_message(timeout=0.05) is None
    assert place.text.get(schema.lock_key(upload_id)) == holder
    assert place.job(upload_id).state is JobState.UPLOADING


def test_a_waiting_job_is_not_swept(place: Place) -> None:
    upload_id = place.upload(complete=True, expires_at=time.time() - 1)
    assert place.jobs().sweep() == 0
    assert place.job(upload_id).state is JobState.PENDING
    place.data.read(upload_id).close()


@pytest.mark.parametrize(
    ("state", "retention", "stays"),
    [
        ("completed", Retention(keep_uploads=0), False),
        ("completed", Retention(keep_uploads=60), True),
        ("completed", Retention(keep_uploads=-1), True),
        ("failed", Retention(keep_failed=0), False),
        ("failed", Retention(keep_failed=60), True),
        ("failed", Retention(keep_failed=-1), True),
    ],
)
def test_a_video_stays_as_long_as_the_settings_say(
    place: Place, *, state: str, retention: Retention, stays: bool
) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs(retention)
    if state == "completed":
        jobs.complete(upload_id, RESULT)
    else:
        jobs.fail(upload_id, 0, "no")
    jobs.sweep()
    assert (place.directory / upload_id).exists() == stays
    assert place.job(upload_id).state == state
    assert place.text.exists(schema.upload_key(upload_id))


def test_a_kept_video_is_removed_when_due_and_its_result_stays(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs(Retention(keep_uploads=60))
    jobs.complete(upload_id, RESULT)
    place.make_due(upload_id)
    assert jobs.sweep() == 1
    assert not (place.directory / upload_id).exists()
    assert place.data.result(upload_id) is not None
    assert (place.due(upload_id) or 0) > time.time() + 6 * DAY


def test_record_result_and_traces_go_when_the_result_is_due(place: Place) -> None:
    upload_id = place.upload(complete=True)
    jobs = place.jobs(Retention(result_ttl=0))
    jobs.drain()
    jobs.complete(upload_id, RESULT)
    assert jobs.sweep() == 1
    assert place.data.result(upload_id) is None
    with pytest.raises(UploadNotFound):
        place.data.recover(upload_id)
    left = [key for key in place.text.scan_iter() if upload_id in key]
    assert left == []
    for zset in (schema.EXPIRING, schema.JOBS, schema.OUTBOX):
        assert place.text.zscore(zset, upload_id) is None
    assert place.queue.job_ids == []


def test_a_tombstone_is_forgotten_when_due(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.terminate(upload_id)
    place.make_due(upload_id)
    assert place.jobs().sweep() == 1
    with pytest.raises(UploadNotFound):
        place.data.recover(upload_id)
    assert place.due(upload_id) is None


def test_a_removal_that_died_before_redis_knew_is_completed(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.data.remove(upload_id)
    place.make_due(upload_id)
    assert place.jobs().sweep() == 1
    assert place.job(upload_id).state is JobState.CANCELLED


def test_a_record_that_cannot_be_read_stands_in_no_others_way(place: Place) -> None:
    newer = place.upload(complete=False, expires_at=time.time() - 2)
    expired = place.upload(complete=False, expires_at=time.time() - 1)
    place.text.hset(schema.upload_key(newer), "version", "99")
    assert place.jobs().sweep() == 1
    assert place.job(newer).state is JobState.UPLOADING
    assert place.job(expired).state is JobState.CANCELLED
    assert (place.due(newer) or 0) > time.time()


def test_a_finished_upload_whose_job_is_unknown_is_not_swept(place: Place) -> None:
    upload_id = place.upload(complete=True, expires_at=time.time() - 1)
    place.text.delete(schema.job_key(upload_id))
    assert place.jobs().sweep() == 0
    place.data.read(upload_id).close()


def test_a_record_whose_files_are_gone_stands_in_no_others_way(place: Place) -> None:
    lost = place.upload(complete=False, expires_at=time.time() - 2)
    expired = place.upload(complete=False, expires_at=time.time() - 1)
    for path in place.directory.glob(f"{lost}*"):
        path.unlink()
    assert place.jobs().sweep() == 2
    assert place.job(lost).state is place.job(expired).state is JobState.CANCELLED


def test_a_journal_that_the_disk_does_not_give_stops_no_sweep(place: Place) -> None:
    bad = place.upload(complete=False, expires_at=time.time() - 2)
    expired = place.upload(complete=False, expires_at=time.time() - 1)
    (place.directory / f"{bad}.log").unlink()
    (place.directory / f"{bad}.log").mkdir()
    assert place.jobs().sweep() == 1
    assert place.job(expired).state is JobState.CANCELLED
    assert (place.due(bad) or 0) > time.time()


@pytest.fixture
def refusing(place: Place) -> Iterator[Callable[[], None]]:
    """Let Redis refuse to write, as on a full disk."""
    text = place.text
    kept = {name: text.config_get(name)[name] for name in ("min-replicas-to-write",)}
    yield lambda: text.config_set("min-replicas-to-write", 1)
    for name, value in kept.items():
        text.config_set(name, value)


def test_where_redis_only_reads_what_expired_long_ago_makes_room(
    place: Place, refusing: Callable[[], None]
) -> None:
    now = time.time()
    long_ago, held, locked = (place.upload(complete=False, expires_at=now - 99) for _ in range(3))
    just = place.upload(complete=False, expires_at=now - 9)
    finished = place.upload(complete=True, expires_at=now - 99)
    place.text.set(schema.lock_key(locked), f"{process_identity()}:9")
    writer = place.data.open(replace(place.record(held), token=9))
    refusing()
    with pytest.raises(StoreUnavailable):
        place.jobs().sweep()
    writer.close()
    here = [
        one for one in (long_ago, held, locked, just, finished) if (place.directory / one).exists()
    ]
    assert here == [held, locked, just, finished]
    with pytest.raises(UploadGone):
        place.data.recover(long_ago)
