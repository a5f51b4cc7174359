"""What clients are answered about one job, by real stores."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis.asyncio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from storage import redis_schema as schema
from storage.filestore import FileStore
from storage.redis_info import RedisInfoStore
from tests.storage.place import RESULT, VIDEO, Place
from tusd_py.jobs import Jobs
from tusd_py.origin import Origin
from tusd_py.polling import Polling
from tusd_py.problems import unfound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Unwatched:
    """Wake nobody."""

    @asynccontextmanager
    async def of(self, job_id: str) -> AsyncIterator[Unwatched]:
        del job_id
        yield self

    async def wait(self) -> None:
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Api:
    """Answer as the server does for `/jobs/{id}` and what lies below."""

    place: Place

    def ask(self, method: str, path: str, **headers: str) -> Answer:
        """Send a request to a new app."""
        return asyncio.run(self._ask(method, path, headers))

    async def _ask(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        async with redis.asyncio.Redis.from_url(self.place.url, decode_responses=True) as client:
            return await _asked(self._app(client), method, path, headers)

    def _app(self, client: redis.asyncio.Redis) -> Starlette:
        async def remove(job_id: str) -> None:
            await asyncio.to_thread(self.place.data.remove, job_id)

        async def retry(job_id: str) -> None:
            await asyncio.to_thread(self.place.jobs().retry, job_id)

        jobs = Jobs(
            RedisInfoStore(client),
            self.place.data,
            Origin(),
            Polling(Unwatched()),
            remove=remove,
            retry=retry,
        )
        return Starlette(
            routes=[
                Route("/jobs/{job_id}", jobs.job, methods=["GET", "DELETE"]),
                Route("/jobs/{job_id}/retry", jobs.retry, methods=["POST"]),
                Route("/jobs/{job_id}/result", jobs.result),
                Route("/jobs/{job_id}/plates/{number}/image", jobs.image),
            ],
            exception_handlers={HTTPException: unfound},
        )

    def completed(self, *crops: bytes) -> str:
        upload_id = self.place.upload(complete=True)
        self.place.jobs().complete(upload_id, {"version": 1, **RESULT}, crops)
        return upload_id


async def _asked(app: Starlette, method: str, path: str, headers: dict[str, str]) -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    await app({**scope, "query_string": query.encode(), "root_path": ""}, receive, send)
    start, *bodies = sent
    fields = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], fields, b"".join(one.get("body", b"") for one in bodies))


@pytest.fixture
def api(redis_url: str, tmp_path: Path) -> Api:
    data = FileStore(tmp_path)
    data.prepare()
    return Api(Place(redis_url, data, tmp_path))


def test_an_unchanged_job_is_not_told_again_and_a_changed_one_is(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    first = api.ask("GET", f"/jobs/{upload_id}")
    assert (first.status, first.json()["status"]) == (200, "pending")
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = api.ask("GET", f"/jobs/{upload_id}", if_none_match=known)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert api.ask("GET", f"/jobs/{upload_id}", if_none_match='"other"').body == first.body
    api.place.jobs().start(upload_id)
    changed = api.ask("GET", f"/jobs/{upload_id}", if_none_match=etag)
    assert (changed.status, changed.json()["status"]) == (200, "processing")
    assert changed.headers["etag"] != etag


def test_a_job_that_has_ended_is_waited_for_by_who_knows_that_alone(api: Api) -> None:
    upload_id = api.completed()
    first = api.ask("GET", f"/jobs/{upload_id}", prefer="wait=60")
    assert (first.status, first.headers["preference-applied"]) == (200, "wait=60")
    etag = first.headers["etag"]
    again = api.ask("GET", f"/jobs/{upload_id}", prefer="wait=1", if_none_match=etag)
    assert (again.status, again.headers["preference-applied"]) == (304, "wait=1")


def test_times_of_a_job_are_in_their_order(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    api.place.jobs().start(upload_id)
    api.place.jobs().complete(upload_id, {"version": 1, **RESULT})
    said = api.ask("GET", f"/jobs/{upload_id}").json()
    names = ("created_at", "uploaded_at", "started_at", "finished_at")
    times = [said[name] for name in names]
    assert None not in times
    assert times == sorted(times)
    assert said["bytes"] == {"received": len(VIDEO), "total": len(VIDEO)}


@pytest.mark.parametrize("below", ["", "/result", "/plates/0/image"])
@pytest.mark.parametrize("job_id", [UNKNOWN, "x", "%00", UNKNOWN.upper() + "A"])
def test_an_unknown_job_is_a_problem_and_404(api: Api, job_id: str, below: str) -> None:
    answer = api.ask("GET", f"/jobs/{job_id}{below}")
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)
    assert answer.json()["title"] == "Not Found"


def test_a_part_of_an_upload_is_nobodys_job(api: Api) -> None:
    upload_id = api.place.upload(complete=True, concat="partial")
    for method, below in (("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "/result")):
        assert api.ask(method, f"/jobs/{upload_id}{below}").status == 404


def test_a_result_comes_as_it_is_stored_or_as_a_table(api: Api) -> None:
    upload_id = api.completed()
    answer = api.ask("GET", f"/jobs/{upload_id}/result")
    assert answer.body == api.place.data.result(upload_id)
    table = api.ask("GET", f"/jobs/{upload_id}/result?format=csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert table.body.splitlines()[1] == b"0,AB12CDE,,,,,,,,"
    wrong = api.ask("GET", f"/jobs/{upload_id}/result?format=xml")
    assert (wrong.status, wrong.headers["content-type"]) == (400, PROBLEM)
    assert wrong.json()["detail"] == "format: expected json or csv, got 'xml'"


def test_there_is_no_result_before_the_end(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    answer = api.ask("GET", f"/jobs/{upload_id}/result")
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)
    assert answer.json()["detail"] == "Upload complete (0.00MB), waiting for a worker"


def test_a_plate_has_the_picture_that_was_stored_for_it(api: Api) -> None:
    assert api.ask("GET", f"/jobs/{api.completed(b'')}/plates/0/image").status == 404
    upload_id = api.completed(b"\xff\xd8 a picture")
    answer = api.ask("GET", f"/jobs/{upload_id}/plates/0/image")
    assert (answer.status, answer.body) == (200, b"\xff\xd8 a picture")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("number", ["1", "-1", "x", "0.5", "9" * 30, "\u0663", ".."])
def test_plates_that_were_not_found_have_no_picture(api: Api, number: str) -> None:
    answer = api.ask("GET", f"/jobs/{api.completed()}/plates/{number}/image")
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)


def test_a_failed_job_is_run_again(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    jobs = api.place.jobs()
    assert jobs.drain() == 1
    jobs.fail(upload_id, jobs.start(upload_id), "why")
    answer = api.ask("POST", f"/jobs/{upload_id}/retry")
    assert (answer.status, answer.json()["status"]) == (202, "pending")
    said = answer.json()
    assert [said[name] for name in ("error", "started_at", "finished_at")] == [None] * 3
    assert api.place.outbox() == [upload_id]
    # Nor is it failed for a Redis that forgot all.
    api.place.text.flushall()
    assert api.ask("GET", f"/jobs/{upload_id}").json()["status"] == "pending"


@pytest.mark.parametrize("state", ["pending", "processing", "completed"])
def test_a_job_that_has_not_failed_is_not_run_again(api: Api, state: str) -> None:
    upload_id = api.place.upload(complete=True)
    if state == "processing":
        api.place.jobs().start(upload_id)
    if state == "completed":
        api.place.jobs().complete(upload_id, {"version": 1, **RESULT})
    before = api.place.dumped()
    answer = api.ask("POST", f"/jobs/{upload_id}/retry")
    assert (answer.status, answer.headers["content-type"]) == (409, PROBLEM)
    assert answer.json()["detail"].endswith(f"this one is {state}")
    assert api.place.dumped() == before


def test_a_failed_job_whose_video_is_gone_is_not_run_again(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    api.place.jobs().fail(upload_id, 0, "why")
    api.place.data.remove_bytes(upload_id)
    answer = api.ask("POST", f"/jobs/{upload_id}/retry")
    assert answer.status == 409
    assert "video of this job is no longer here" in answer.json()["detail"]
    assert api.ask("GET", f"/jobs/{upload_id}").json()["message"] == "why"


def test_a_cancelled_job_is_gone_for_whatever_is_asked_of_it(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    api.place.terminate(upload_id)
    said = api.ask("GET", f"/jobs/{upload_id}")
    assert (said.status, said.json()["status"]) == (410, "cancelled")
    # Nothing of it is left to be told.
    assert said.json()["filename"] is None
    for method, below in (("DELETE", ""), ("POST", "/retry"), ("GET", "/result")):
        answer = api.ask(method, f"/jobs/{upload_id}{below}", if_none_match="*")
        assert (answer.status, answer.headers["content-type"]) == (410, PROBLEM)


def test_delete_removes_the_upload_and_answers_without_content(api: Api) -> None:
    upload_id = api.place.upload(complete=False)
    answer = api.ask("DELETE", f"/jobs/{upload_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert not (api.place.directory / upload_id).exists()


@pytest.mark.parametrize(
    ("method", "below", "allowed"),
    [
        ("POST", "", {"GET", "HEAD", "DELETE"}),
        ("GET", "/retry", {"POST"}),
        ("DELETE", "/result", {"GET", "HEAD"}),
    ],
)
def test_another_method_is_405_with_those_that_are_allowed(
    api: Api, method: str, below: str, allowed: set[str]
) -> None:
    answer = api.ask(method, f"/jobs/{uuid4()}{below}")
    assert (answer.status, answer.headers["content-type"]) == (405, PROBLEM)
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_a_record_of_a_newer_program_hides_no_job(api: Api) -> None:
    upload_id = api.place.upload(complete=True)
    api.place.text.hset(schema.upload_key(upload_id), "version", "99")
    said = api.ask("GET", f"/jobs/{upload_id}")
    assert (said.status, said.json()["status"]) == (200, "pending")
    assert said.json()["created_at"] is None


def test_a_redis_that_is_away_is_503_and_asks_to_try_again(api: Api, tmp_path: Path) -> None:
    away = Api(Place(f"unix://{tmp_path}/nothing", api.place.data, tmp_path))
    answer = away.ask("GET", f"/jobs/{uuid4()}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
