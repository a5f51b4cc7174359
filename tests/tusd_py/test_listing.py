"""All jobs are listed for who knows the token, page by page, each once, filtered."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from starlette.datastructures import QueryParams
from starlette.requests import Request

from storage.filestore import FileStore
from storage.job import JobState
from storage.redis_listing import RedisListing
from storage.upload import Upload
from tests.storage.place import RESULT, Place
from tusd_py.listing import InvalidQuery, Jobs, Query
from tusd_py.origin import Origin

if TYPE_CHECKING:
    from pathlib import Path

    from storage.redis_info import RedisInfoStore

TOKEN = "0123456789abcdef" * 2
DAY = 86_400.0
START = 1_764_246_965.25


class Api:
    """Answer `GET /jobs` as the server does."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def ask(
        self, query: dict[str, str] | None = None, authorization: str | None = f"Bearer {TOKEN}"
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, document and headers."""
        return asyncio.run(self._ask(query or {}, authorization))

    async def _ask(
        self, query: dict[str, str], authorization: str | None
    ) -> tuple[int, Any, dict[str, str]]:
        fields = [] if authorization is None else [(b"authorization", authorization.encode())]
        scope = {"type": "http", "method": "GET", "path": "/jobs", "headers": fields}
        request = Request({**scope, "query_string": urlencode(query).encode()})
        async with Redis.from_url(self.place.url, decode_responses=True) as client:
            jobs = Jobs(RedisListing(client), self.place.data, Origin(), TOKEN)
            answer = await jobs.list(request)
        return answer.status_code, json.loads(bytes(answer.body)), dict(answer.headers)

    def listed(self, **query: str) -> list[str]:
        """Return the ids of all pages."""
        ids: list[str] = []
        while True:
            status, page, _ = self.ask(query)
            assert status == 200, page
            ids += [job["job_id"] for job in page["jobs"]]
            if page["next"] is None:
                return ids
            query["cursor"] = page["next"]

    def upload(self, created_at: float, filename: str = "a.mp4") -> str:
        """Store a new upload of that time, or of one of several of that time."""
        name = base64.b64encode(filename.encode()).decode()
        upload = Upload(str(uuid4()), 18, f"filename {name}", created_at, time.time() + DAY)
        self.place.data.create(upload)
        self.place.info(lambda info: info.create(upload))
        return upload.id

    def complete(self, upload_id: str, *plates: str) -> str:
        """End its job with these plates."""
        record = replace(self.place.record(upload_id), offset=18, complete=True)

        async def commit(info: RedisInfoStore) -> None:
            await info.commit(record, speed=0)

        self.place.info(commit)
        found = [{"text": text} for text in plates]
        self.place.jobs().complete(upload_id, {"version": 1, **RESULT, "plates": found})
        return upload_id


@pytest.fixture
def api(redis_url: str, tmp_path: Path) -> Api:
    data = FileStore(tmp_path)
    data.prepare()
    return Api(Place(redis_url, data, tmp_path))


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, 'Bearer realm="jobs"'),
        ("Bearer", 'Bearer realm="jobs", error="invalid_token"'),
        (f"Bearer {TOKEN}x", 'Bearer realm="jobs", error="invalid_token"'),
        (f"Bearer {TOKEN[:-1]}", 'Bearer realm="jobs", error="invalid_token"'),
        (f"Basic {TOKEN}", 'Bearer realm="jobs", error="invalid_token"'),
        ("Bearer \u0663", 'Bearer realm="jobs", error="invalid_token"'),
    ],
)
def test_without_the_token_nothing_is_told(
    api: Api, authorization: str | None, challenge: str
) -> None:
    api.upload(START)
    status, problem, headers = api.ask(authorization=authorization)
    assert (status, headers["www-authenticate"]) == (401, challenge)
    assert set(problem) == {"type", "title", "status", "detail"}


def test_the_newest_comes_first_and_each_once_over_all_pages(api: Api) -> None:
    # Some of them at the same time.
    ids = [api.upload(START + number // 3) for number in range(10)]
    for limit in ("1", "2", "3", "200"):
        listed = api.listed(limit=limit)
        assert sorted(listed) == sorted(ids)
        times = [api.place.record(one).created_at for one in listed]
        assert times == sorted(times, reverse=True)


def test_what_is_new_while_somebody_turns_pages_moves_nothing(api: Api) -> None:
    ids = [api.upload(START + number) for number in range(4)]
    _, first, _ = api.ask({"limit": "2"})
    api.upload(START + 9)
    api.place.terminate(ids[2])
    _, second, _ = api.ask({"limit": "2", "cursor": first["next"]})
    assert [job["job_id"] for job in first["jobs"]] == [ids[3], ids[2]]
    assert [job["job_id"] for job in second["jobs"]] == [ids[1], ids[0]]


def test_jobs_are_found_by_state_time_filename_and_plate(api: Api) -> None:
    old = api.upload(START, "Straße 1.mp4")
    done = api.complete(api.upload(START + 10), "AB12CDE", "XY34ZZZ")
    failed = api.upload(START + 20, "cars.MP4")
    api.complete(api.upload(START + 30), "CD34EFG")
    api.place.jobs().fail(failed, 0, "why")
    assert api.listed(status="failed") == [failed]
    assert api.listed(status="uploading") == [old]
    assert api.listed(filename="strasse") == [old]
    assert api.listed(filename="CARS.mp4") == [failed]
    assert api.listed(plate="ab12 cd") == [done]
    assert api.listed(plate="AB12CDEF") == []
    assert api.listed(plate="--") == []
    assert len(api.listed(plate="")) > 1
    # 12:36:05.25 and 12:36:15.25 of that day.
    assert api.listed(created_before="2025-11-27T12:36:15Z") == [old]
    assert api.listed(created_before="2025-11-27T12:36:15.25Z") == [old]
    between = {
        "created_after": "2025-11-27T13:36:15+01:00",
        "created_before": "2025-11-27T12:36:20Z",
    }
    assert api.listed(**between) == [done]
    assert api.listed(status="failed", filename="a.mp4") == []


def test_several_states_are_any_of_them() -> None:
    query = Query.parse(QueryParams("status=failed&status=pending"))
    assert query.states == {JobState.FAILED, JobState.PENDING}


def test_a_page_may_be_empty_and_still_not_the_last(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tusd_py.listing._LOOKED_AT", 2)
    monkeypatch.setattr("tusd_py.listing._BATCH", 2)
    [wanted, *_] = [api.upload(START + number, f"{number}.mp4") for number in range(5)]
    _, page, _ = api.ask({"filename": "0.mp4"})
    assert page["jobs"] == []
    assert page["next"] is not None
    assert api.listed(filename="0.mp4") == [wanted]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("status=done", "status: expected one of uploading, pending, processing"),
        ("status=", "status: expected one of"),
        ("limit=0", "limit: expected a number from 1 to 200, got '0'"),
        ("limit=201", "limit: expected a number from 1 to 200"),
        ("limit=%D9%A3", "limit: expected a number"),
        ("limit=1e1", "limit: expected a number"),
        ("created_after=yesterday", "created_after: expected a time such as 2026-"),
        ("created_after=2026-02-30T00:00:00Z", "created_after: expected a time"),
        ("created_before=2026-11-27", "created_before: expected a time"),
        ("created_before=1764246965", "created_before: expected a time"),
        ("cursor=x", "cursor: expected what `next` said"),
        ("cursor=%F0%9F%98%80", "cursor: expected what `next` said"),
        ("cursor=", "cursor: expected what `next` said"),
        ("cursor=nan_550e8400-e29b-41d4-a716-446655440000", "cursor: expected what `next` said"),
        ("created_after=", "created_after: expected a time"),
    ],
)
def test_a_query_that_means_nothing_is_refused_with_what_was_expected(
    query: str, sentence: str
) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        Query.parse(QueryParams(query))


NAMES = ("status", "created_after", "created_before", "filename", "plate", "limit", "cursor")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text())))
def test_whatever_is_asked_is_understood_or_refused_in_a_sentence(
    asked: list[tuple[str, str]],
) -> None:
    with suppress(InvalidQuery):
        Query.parse(QueryParams(asked))


@given(moment=st.datetimes(timezones=st.timezones()), lower=st.booleans())
def test_every_time_of_rfc_3339_is_read(moment: datetime, *, lower: bool) -> None:
    # It knows no seconds in offsets, which zones of old have.
    moment = moment.astimezone(UTC)
    text = moment.isoformat()
    query = Query.parse(QueryParams({"created_after": text.lower() if lower else text}))
    assert query.until == pytest.approx(moment.timestamp(), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01z", 1.0),
        ("1970-01-01t00:00:01.5000000001+00:00", 1.5000000001),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("2016-12-31T23:59:60Z", 1_483_228_800.0),
        ("0000-01-01T00:00:00Z", -62_135_596_800.0),
    ],
)
def test_odd_times_of_rfc_3339_are_read_too(text: str, seconds: float) -> None:
    assert Query.parse(QueryParams({"created_after": text})).until == seconds
