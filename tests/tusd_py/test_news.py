"""A watcher is told what is new, from where it was; what it was told stands in the ids."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UploadNotFound
from storage.job import Job, JobState
from tusd_py.feeds import Feed, Sight
from tusd_py.news import Cursor, Event, Watcher

ID, OTHER = str(uuid4()), str(uuid4())


async def unread(_: str) -> Sight:
    raise AssertionError


def describe(job: Job, _: object, base: str) -> str:
    return json.dumps({"job_id": job.id, "status": job.state.value, "done": job.done, "base": base})


class Known(Feed):
    """A feed that knows what it is told."""

    def __init__(self, sight: Sight | None, job_id: str = ID) -> None:
        super().__init__(job_id, unread, describe)
        if sight is not None:
            self.see(sight)


def at(state: JobState = JobState.PROCESSING, *plates: str, **fields: Any) -> Sight:
    return Sight(Job(ID, state, updated_at=100.5, **fields), None, plates)


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def texts(events: list[Event]) -> list[str]:
    return [json.loads(event.data)["text"] for event in events if event.name == "plate"]


def test_the_job_is_told_first_and_whenever_it_has_changed() -> None:
    feed = Known(at(done=1))
    watcher = Watcher([feed], "https://base", "")
    [event] = watcher.news()
    assert event.name == "job"
    assert json.loads(event.data) == {
        "job_id": ID,
        "status": "processing",
        "done": 1,
        "base": "https://base",
    }
    assert watcher.news() == []
    feed.see(at(done=2))
    assert names(watcher.news()) == ["job"]
    feed.see(at(done=2))
    assert watcher.news() == []


def test_each_plate_is_told_once_in_its_order_before_the_state_that_counts_it() -> None:
    feed = Known(at(JobState.PROCESSING, "AB1"))
    watcher = Watcher([feed], "", "")
    assert names(watcher.news()) == ["plate", "job"]
    feed.see(at(JobState.COMPLETED, "AB1", "CD2", "EF3"))
    events = watcher.news()
    assert texts(events) == ["CD2", "EF3"]
    assert [json.loads(one.data)["number"] for one in events[:2]] == [1, 2]
    assert names(events) == ["plate", "plate", "job"]
    assert watcher.ended


def test_who_comes_again_is_told_of_the_plates_it_has_not_seen_and_how_it_stands() -> None:
    feed = Known(at(JobState.PROCESSING, "AB1", "CD2", "EF3"))
    first = Watcher([feed], "", "").news()
    again = Watcher([feed], "", first[1].id)
    events = again.news()
    assert texts(events) == ["EF3"]
    assert names(events) == ["plate", "job"]


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_who_has_seen_the_end_is_told_to_stay_away(state: JobState) -> None:
    feed = Known(at())
    watcher = Watcher([feed], "", "")
    before = watcher.news()[-1].id
    feed.see(at(state))
    [event] = watcher.news()
    assert event.name == ("cancelled" if state is JobState.CANCELLED else "job")
    assert watcher.ended
    late = Watcher([feed], "", before)
    assert late.refusal() is None
    assert late.news() == [event]
    refusal = Watcher([feed], "", event.id).refusal()
    assert refusal is not None
    assert refusal.status_code == 204


def test_a_retry_is_told_to_who_has_seen_the_end_before_it() -> None:
    feed = Known(at(JobState.FAILED))
    last = Watcher([feed], "", "").news()[-1].id
    feed.see(Sight(replace(at().job, updated_at=200.0)))
    again = Watcher([feed], "", last)
    assert again.refusal() is None
    assert names(again.news()) == ["job"]
    assert not again.ended
    feed.see(Sight(replace(at(JobState.FAILED).job, updated_at=300.0)))
    assert names(again.news()) == ["job"]
    assert again.ended


def test_plates_of_a_run_that_began_anew_are_told_anew() -> None:
    feed = Known(at(JobState.FAILED, "AB1", "CD2"))
    watcher = Watcher([feed], "", "")
    watcher.news()
    feed.see(at(JobState.PROCESSING))
    watcher.news()
    feed.see(at(JobState.PROCESSING, "EF3"))
    assert texts(watcher.news()) == ["EF3"]


def test_a_removed_job_is_refused_to_newcomers_and_told_to_who_watched_it() -> None:
    feed = Known(at(JobState.CANCELLED))
    refusal = Watcher([feed], "", "").refusal()
    assert refusal is not None
    assert refusal.status_code == 410
    watcher = Watcher([feed], "", "0.0.")
    assert watcher.refusal() is None
    assert names(watcher.news()) == ["cancelled"]


def test_hand_overs_are_told_from_when_one_watches() -> None:
    feed = Known(at(JobState.UPLOADING, takeovers=2))
    watcher = Watcher([feed], "", "")
    [event] = watcher.news()
    assert event.name == "job"
    feed.see(at(JobState.UPLOADING, takeovers=4))
    [lock] = watcher.news()
    assert (lock.name, json.loads(lock.data)) == ("lock", {"job_id": ID, "takeovers": 4})
    assert names(Watcher([feed], "", event.id).news()) == ["lock", "job"]
    assert names(Watcher([feed], "", lock.id).news()) == ["job"]


def test_the_place_in_the_queue_is_told_when_it_changes() -> None:
    feed = Known(at(JobState.PENDING)._replace(position=3))
    watcher = Watcher([feed], "", "")
    [_, queue] = watcher.news()
    assert (queue.name, json.loads(queue.data)) == ("queue", {"job_id": ID, "position": 3})
    assert watcher.news() == []
    feed.see(at(JobState.PENDING)._replace(position=1))
    assert names(watcher.news()) == ["queue"]
    feed.see(at(JobState.PROCESSING))
    assert names(watcher.news()) == ["job"]


def of_other(state: JobState) -> Sight:
    return Sight(Job(OTHER, state, updated_at=7.0))


def test_of_many_jobs_each_ends_for_itself() -> None:
    feeds = [Known(at(JobState.COMPLETED)), Known(of_other(JobState.PENDING), OTHER)]
    watcher = Watcher(feeds, "", "")
    first, second = watcher.news()
    assert [json.loads(one.data)["job_id"] for one in (first, second)] == [ID, OTHER]
    assert not watcher.ended
    feeds[1].see(of_other(JobState.FAILED))
    [last] = watcher.news()
    assert watcher.ended
    # Its connection broke when it had one of the ends: the other one is still to be told.
    again = Watcher(feeds, "", second.id)
    assert again.refusal() is None
    assert [json.loads(one.data)["job_id"] for one in again.news()] == [OTHER]
    done = Watcher(feeds, "", last.id).refusal()
    assert done is not None
    assert done.status_code == 204


def test_of_many_jobs_one_that_is_missing_keeps_nobody_from_the_others() -> None:
    missing = Known(None, OTHER)
    missing.missing = UploadNotFound()
    watcher = Watcher([missing, Known(at())], "", "")
    assert watcher.refusal() is None
    [event, job] = watcher.news()
    assert (event.name, job.name) == ("missing", "job")
    assert json.loads(event.data)["job_id"] == OTHER
    assert json.loads(event.data)["status"] == 404
    assert watcher.news() == []
    alone = Watcher([missing], "", "").refusal()
    assert alone is not None
    assert alone.status_code == 404


@pytest.mark.parametrize(
    "told", ["", "x", "1", "1.2", "1.2.3.4", "-1.0.", "1.1.g", "9" * 5000, "0.0.,0.0.", "٣.0."]
)
def test_an_id_that_is_none_of_ours_counts_for_nothing(told: str) -> None:
    feed = Known(at(JobState.COMPLETED, "AB1"))
    watcher = Watcher([feed], "", told)
    assert watcher.refusal() is None
    assert names(watcher.news()) == ["plate", "job"]


@given(st.text())
def test_whatever_comes_as_an_id_news_are_told(told: str) -> None:
    Watcher([Known(at(JobState.PROCESSING, "AB1"))], "", told).news()


@given(
    st.builds(
        Cursor,
        st.integers(0, 9_999_999),
        st.none() | st.integers(0, 999_999_999),
        st.text("0123456789abcdef", max_size=12),
    )
)
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor
