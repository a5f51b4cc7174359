"""What is amiss between journals, Redis and RQ is found without a change, and mended."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from rq.job import JobStatus

from storage import orphans
from storage import redis_schema as schema
from storage.errors import UploadGone
from storage.job import JobState
from storage.redis_locker import process_identity
from storage.sweeper import Retention
from storage.upload import Upload
from tests.storage.place import DAY, RESULT, VIDEO, Place, dead_process

if TYPE_CHECKING:
    from storage.checkup import Finding


def examined(place: Place) -> list[Finding]:
    """Look at all, and see to it that looking changes nothing."""
    before = place.everything(), files(place)
    found = list(place.jobs().checkup.examine(thorough=True))
    assert (place.everything(), files(place)) == before
    return found


def files(place: Place) -> dict[str, tuple[int, bytes]]:
    # Not when they were written: a tombstone is written again before it is told, as it was.
    return {
        str(path): (path.lstat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in place.directory.rglob("*")
    }


def mend(place: Place) -> list[tuple[str, str, str]]:
    """Mend all, see that nothing is found any more, and return what was done."""
    dry = [(one.kind, one.name, one.cure) for one in examined(place)]
    done = []
    for finding in place.jobs().checkup.examine(thorough=True):
        assert finding.mend is not None
        assert finding.mend(), finding
        done.append((finding.kind, finding.name, finding.cure))
    assert done == dry
    assert examined(place) == []
    return done


def test_of_what_is_well_nothing_is_said(place: Place) -> None:
    jobs = place.jobs(Retention(keep_uploads=-1))
    place.upload(complete=False)
    place.upload(complete=True)
    queued, done, failed, gone = (place.upload(complete=True) for _ in range(4))
    place.text.zrem(schema.OUTBOX, done, failed, gone)
    jobs.drain()
    jobs.complete(done, RESULT)
    jobs.fail(failed, 0, "no")
    place.terminate(gone)
    assert queued in place.queue.job_ids
    assert examined(place) == []


def test_an_emptied_redis_is_restored_from_the_journals(place: Place) -> None:
    half, waiting, gone = (place.upload(complete=one) for one in (False, True, False))
    place.terminate(gone)
    place.text.flushall()
    done = mend(place)
    restored = "restored from its journal"
    assert sorted(done) == sorted(
        [
            ("record", half, restored),
            ("record", waiting, restored),
            ("expiry", gone, "listed to be forgotten"),
        ]
    )
    assert place.record(half).offset == 5
    assert place.outbox() == [waiting]


def test_a_record_that_a_rollback_left_behind_is_raised(place: Place) -> None:
    upload_id = place.upload(complete=False)
    place.text.hset(schema.upload_key(upload_id), "offset", "2")
    assert mend(place) == [("record", upload_id, "restored from its journal")]
    assert place.record(upload_id).offset == 5


def test_a_record_behind_its_journal_is_left_to_who_writes_it(place: Place) -> None:
    upload_id = place.upload(complete=False, expires_at=time.time() - DAY)
    place.text.hset(schema.upload_key(upload_id), "offset", "2")
    place.text.set(schema.lock_key(upload_id), f"{process_identity()}:9", px=60_000)
    assert examined(place) == []


@pytest.mark.parametrize("damage", ["record", "job"])
def test_a_hash_that_is_damaged_or_lost_is_stored_anew_under_no_lower_token(
    place: Place, damage: str
) -> None:
    upload_id = place.upload(complete=True)
    place.text.hset(schema.upload_key(upload_id), "token", "7")
    if damage == "record":
        place.text.hset(schema.upload_key(upload_id), "offset", "many")
    else:
        place.text.delete(schema.job_key(upload_id))
    assert mend(place) == [("record", upload_id, "restored from its journal")]
    assert (place.record(upload_id).offset, place.record(upload_id).token) == (len(VIDEO), 7)
    assert place.job(upload_id).state is JobState.PENDING


def test_what_redis_knows_without_a_journal_is_removed_from_it(place: Place) -> None:
    jobs = place.jobs()
    queued, waiting, half = (place.upload(complete=one) for one in (True, False, False))
    jobs.drain()
    for path in place.directory.glob("*-*"):
        path.unlink()
    listed = str(uuid4())
    for zset in (schema.EXPIRING, schema.OUTBOX, schema.JOBS):
        place.text.zadd(zset, {listed: 1, waiting: 1, "not-ours": 1})
    cure = "removed from Redis and from the queue"
    assert mend(place) == [("record", one, cure) for one in sorted([queued, waiting, half, listed])]
    assert place.queue.job_ids == []
    left = [key for key in place.text.scan_iter("tusd:*") if "-ours" not in key]
    assert sorted(left) == [schema.EXPIRING, schema.JOBS, schema.OUTBOX]
    assert place.text.zrange(schema.JOBS, 0, -1) == ["not-ours"]


def test_a_job_in_the_queue_whose_upload_is_gone_is_removed_and_a_strangers_is_left(
    place: Place,
) -> None:
    lost = str(uuid4())
    place.jobs().queue.enqueue({lost: 1})
    place.jobs().queue.enqueue({"of-somebody-else": 1})
    assert [name for _, name, _ in mend(place)] == [lost]
    assert place.queue.job_ids == ["of-somebody-else"]


def test_data_that_is_younger_than_an_hour_stays_though_redis_forgets_it(place: Place) -> None:
    upload_id = place.upload(complete=False)
    (place.directory / f"{upload_id}.log").unlink()
    assert [kind for kind, *_ in mend(place)] == ["record"]
    assert (place.directory / upload_id).read_bytes() == VIDEO[:5]


def test_files_without_a_journal_are_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_OLD", -60.0)
    upload_id = place.upload(complete=True)
    stray = str(uuid4())
    (place.directory / stray).write_bytes(b"abc")
    assert mend(place) == [("file", stray, "removed")]
    assert (place.directory / upload_id).read_bytes() == VIDEO


def test_a_job_that_is_in_no_queue_runs(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.text.delete(schema.OUTBOX)
    assert mend(place) == [("job", upload_id, "put into the queue")]
    place.jobs().drain()
    assert place.rq_status(upload_id) is JobStatus.QUEUED


def test_a_job_whose_result_is_published_ends(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.data.publish_result(upload_id, json.dumps(RESULT).encode())
    assert mend(place) == [("job", upload_id, "ended")]
    assert place.job(upload_id).state is JobState.COMPLETED


def test_pictures_that_a_dying_run_left_of_a_removed_upload_are_removed(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.terminate(upload_id)
    place.data.publish_result(upload_id, b"{}", [b"a picture"])
    assert mend(place) == [("file", upload_id, "removed")]
    assert place.data.crop(upload_id, 0) is None
    assert list((place.directory / "crops").iterdir()) == []


def test_a_lock_of_a_dead_process_is_freed_and_a_living_ones_is_not(place: Place) -> None:
    dead, alive = place.upload(complete=False), place.upload(complete=False)
    place.text.set(schema.lock_key(dead), f"{dead_process()}:3")
    place.text.set(schema.lock_key(alive), f"{process_identity()}:3", px=60_000)
    assert mend(place) == [("lock", dead, "freed")]
    assert place.text.exists(schema.lock_key(alive))


@pytest.mark.parametrize("known", [True, False], ids=["listed", "forgotten by Redis"])
def test_what_expired_while_redis_forgot_it_is_removed(place: Place, *, known: bool) -> None:
    upload_id = place.upload(complete=False, expires_at=time.time() - DAY)
    if not known:
        place.text.flushall()
    assert mend(place) == [("expiry", upload_id, "removed")]
    with pytest.raises(UploadGone):
        place.data.recover(upload_id)
    assert place.job(upload_id).state is JobState.CANCELLED


def test_a_finished_partial_expires_and_a_finished_upload_does_not(place: Place) -> None:
    partial = place.upload(complete=True, expires_at=time.time() - DAY, concat="partial")
    whole = place.upload(complete=True, expires_at=time.time() - DAY)
    assert mend(place) == [("expiry", partial, "removed")]
    assert not (place.directory / partial).exists()
    assert (place.directory / whole).exists()


@pytest.mark.parametrize("state", ["uploading", "pending", "completed"])
def test_what_nothing_would_look_at_is_listed_at_its_own_time(place: Place, state: str) -> None:
    upload_id = place.upload(complete=state != "uploading")
    if state == "completed":
        place.jobs(Retention(keep_uploads=-1)).complete(upload_id, RESULT)
    before = place.due(upload_id)
    place.text.delete(schema.EXPIRING)
    assert mend(place) == [("expiry", upload_id, "listed to be looked at")]
    assert place.due(upload_id) == before


def test_a_removal_that_broke_off_is_finished(place: Place) -> None:
    upload_id = place.upload(complete=True)
    kept = place.directory / "kept"
    kept.hardlink_to(place.directory / upload_id)
    place.terminate(upload_id)
    kept.rename(place.directory / upload_id)
    assert mend(place) == [("file", upload_id, "removed")]
    assert not (place.directory / upload_id).exists()


def test_a_removed_upload_that_redis_has_still_is_removed_from_it(place: Place) -> None:
    upload_id = place.upload(complete=True)
    place.data.remove(upload_id)
    assert mend(place) == [("record", upload_id, "removed from Redis")]
    assert place.job(upload_id).state is JobState.CANCELLED
    assert place.outbox() == []


def test_a_damaged_journal_is_named_and_nothing_of_it_is_touched(place: Place) -> None:
    upload_id = place.upload(complete=True)
    journal = place.directory / f"{upload_id}.log"
    journal.write_bytes(b"L\nxx\n")
    [finding] = examined(place)
    assert (finding.kind, finding.name, finding.mend) == ("journal", upload_id, None)
    assert f"put {upload_id}.log back" in finding.cure
    place.jobs().checkup.mend()
    assert journal.read_bytes() == b"L\nxx\n"
    assert (place.directory / upload_id).read_bytes() == VIDEO
    assert place.record(upload_id).id == upload_id


def test_bytes_that_are_counted_and_missing_are_named(place: Place) -> None:
    upload_id = place.upload(complete=True)
    (place.directory / upload_id).write_bytes(VIDEO[:4])
    [finding] = examined(place)
    assert (finding.kind, finding.name, finding.mend) == ("data", upload_id, None)
    assert f"has 4 of {len(VIDEO)} bytes" in finding.what


def test_a_final_that_waits_for_its_parts_lacks_nothing(place: Place) -> None:
    now = time.time()
    final = Upload(str(uuid4()), None, None, now, now - DAY, concat="final;/files/a /files/b")
    place.data.create(final)
    (place.directory / final.id).unlink(missing_ok=True)
    place.info(lambda info: info.create(final))
    assert examined(place) == []


def test_a_final_that_waits_no_more_is_not_waited_with(place: Place) -> None:
    finished, part = place.upload(complete=True), place.upload(complete=False, concat="partial")
    now = time.time()
    waiting = Upload(str(uuid4()), None, None, now, now + DAY, concat=f"final;/files/{part}")
    place.data.create(waiting)
    place.info(lambda info: info.create(waiting))
    place.text.sadd(schema.finals_key(part), finished, gone := str(uuid4()))
    cure = "removed from those that wait"
    assert mend(place) == [("record", one, cure) for one in sorted([finished, gone])]
    assert place.text.smembers(schema.finals_key(part)) == {waiting.id}


def test_the_server_mends_the_same_in_its_sweep_once_in_ten_minutes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_OLD", -60.0)
    jobs = place.jobs()
    unwatched, lost = place.upload(complete=False), place.upload(complete=False)
    place.text.zrem(schema.EXPIRING, unwatched)
    (place.directory / f"{lost}.log").unlink()
    stray = place.directory / str(uuid4())
    stray.touch()
    assert jobs.sweep() > 0
    assert not stray.exists()
    assert place.due(unwatched) is not None
    assert not place.text.exists(schema.upload_key(lost))
    stray.touch()
    assert jobs.sweep() == 0
    assert stray.exists()
    assert place.jobs().sweep() == 1


def test_a_live_writer_loses_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_OLD", -60.0)
    upload_id = place.upload(complete=False, expires_at=time.time() - DAY)
    token = place.text.hincrby(schema.upload_key(upload_id), "token", 1)
    place.text.set(schema.lock_key(upload_id), f"{process_identity()}:{token}", px=60_000)
    writer = place.data.open(place.record(upload_id))
    for finding in place.jobs().checkup.examine(thorough=True):
        assert finding.mend is None or not finding.mend()
    place.jobs().sweep()
    writer.write([VIDEO[5:]])
    writer.commit(replace(writer.upload, offset=len(VIDEO), expires_at=time.time() + DAY))
    writer.close()
    assert place.data.recover(upload_id)[0].offset == len(VIDEO)
