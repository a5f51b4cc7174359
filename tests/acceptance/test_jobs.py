"""The API of jobs by a real server and a real worker."""

from __future__ import annotations

import re
import select
from typing import TYPE_CHECKING

from tests.acceptance.process import Process, Server, Site, eventually
from tests.acceptance.raw import TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.raw import Response

TOKEN = "0123456789abcdef" * 2
SHORT = "abcdefgh"
NOT_A_VIDEO = b"not a video"


class Poll:
    """Wait for the next change of a job on a connection of its own."""

    def __init__(self, tus: Tus, job: str) -> None:
        etag = tus.request("GET", job).headers["etag"]
        self._connection = Connection(tus.port)
        self._connection.begin("GET", job, {"If-None-Match": etag, "Prefer": "wait=60"})

    def is_answered(self) -> bool:
        return bool(select.select([self._connection._socket], [], [], 0)[0])

    def answer(self) -> Response:
        """Wait for the answer."""
        response = self._connection.receive()
        self._connection.close()
        return response


def job_of(path: str) -> str:
    return f"/jobs/{path.rpartition('/')[2]}"


def test_a_poller_waits_until_the_job_changes(tus: Tus) -> None:
    path = tus.create(len(NOT_A_VIDEO))
    polls = [Poll(tus, job_of(path)) for _ in range(3)]
    # Answered after them, so they have been read, and wait.
    assert tus.job(path)["status"] == "uploading"
    assert not any(poll.is_answered() for poll in polls)
    assert tus.patch(path, 0, NOT_A_VIDEO).status == 204
    for answer in (poll.answer() for poll in polls):
        assert (answer.status, answer.json()["status"]) == (200, "pending")
        assert answer.headers["preference-applied"] == "wait=60"
        assert answer.headers["etag"] == tus.request("GET", job_of(path)).headers["etag"]


def test_a_server_that_ends_answers_pollers_and_does_not_wait_for_them(
    tus: Tus, server: Server
) -> None:
    path = tus.create(len(NOT_A_VIDEO))
    poll = Poll(tus, job_of(path))
    assert tus.job(path)["status"] == "uploading"
    server.terminate()
    answer = poll.answer()
    assert (answer.status, answer.headers["preference-applied"]) == (304, "wait=60")
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_a_failed_job_is_tried_again_and_its_log_names_the_request(
    tus: Tus, worker: Process
) -> None:
    name = {"X-Request-ID": "Root=1-67891233:abc"}
    created = tus.request("POST", "/files/", {**TUS, **name, "Upload-Length": "11"})
    assert created.headers["x-request-id"] == name["X-Request-ID"]
    path = created.headers["location"]
    assert tus.patch(path, 0, NOT_A_VIDEO).status == 204
    failed = tus.wait_for_job(path, "failed")
    assert failed["message"] == failed["error"]
    assert failed["attempt"] == 1
    again = tus.request("POST", f"{job_of(path)}/retry")
    assert (again.status, again.json()["status"]) == (202, "pending")
    second = eventually(
        lambda: (job := tus.job(path)) and job["attempt"] == 2 and job["finished_at"] and job,
        "second attempt",
    )
    assert (second["status"], second["error"]) == ("failed", failed["error"])
    lines = re.findall(r"^.*job\.failed.*$", worker.log, re.MULTILINE)
    assert len(lines) == 2
    assert all("request=Root=1-67891233:abc" in line for line in lines)


def test_a_form_leaves_the_name_of_its_request_with_the_upload(tus: Tus, site: Site) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nFLV\1 and so on\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b", "X-Request-ID": "mine"}
    answer = tus.request("POST", "/process/video/upload/async", headers, body)
    assert (answer.status, answer.headers["x-request-id"]) == (200, "mine")
    journal = site.uploads / f"{answer.json()['job_id']}.log"
    assert b'"request_id":"mine"' in journal.read_bytes()


def test_delete_of_a_job_takes_all_of_an_upload_that_is_on_its_way(tus: Tus, site: Site) -> None:
    path = tus.create(100)
    with tus.begin_patch(path, 0, 100) as patch:
        poll = Poll(tus, job_of(path))
        assert tus.request("DELETE", job_of(path)).status == 204
        assert patch.final().status in {404, 410, 423}
    assert poll.answer().json()["status"] == "cancelled"
    assert tus.request("GET", job_of(path)).status == 410
    assert tus.head(path).status == 410
    assert not site.stored(path).exists()


def test_a_server_without_termination_cancels_no_jobs(new_site: Callable[..., Site]) -> None:
    tus = Tus(new_site(DISABLE_TERMINATION="true").serve().port)
    path = tus.create(100)
    refused = tus.request("DELETE", job_of(path))
    assert refused.status == 405
    assert "DELETE" not in refused.headers["allow"]
    assert tus.job(path)["status"] == "uploading"


def test_jobs_are_listed_for_the_token_alone_and_where_there_is_one(
    tus: Tus, new_site: Callable[..., Site]
) -> None:
    assert tus.request("GET", "/jobs").status == 404
    assert tus.request("GET", "/jobs", {"Authorization": "Bearer "}).status == 404
    guarded = Tus(new_site(ADMIN_TOKEN=TOKEN).serve().port)
    path = guarded.create(100)
    assert guarded.request("GET", "/jobs").status == 401
    listed = guarded.request("GET", "/jobs", {"Authorization": f"Bearer {TOKEN}"})
    assert listed.status == 200
    assert [job["job_id"] for job in listed.json()["jobs"]] == [path.rpartition("/")[2]]


def test_a_short_token_is_refused_at_start_and_not_shown(site: Site) -> None:
    process = site.run("serve", "serve", kind=Process, ADMIN_TOKEN=SHORT)
    assert process.wait() == 2
    assert "ADMIN_TOKEN: expected 32 characters or more" in process.log
    assert SHORT not in process.log


ANSWERS = [
    ("GET", "/", 404),
    ("GET", "/nothing/here?x=1", 404),
    ("GET", "/jobs/", 404),
    ("GET", "/jobs/x/y", 404),
    ("POST", "/health", 405),
    ("BREW", "/jobs/x", 400),
    ("GET", "/files/00000000-0000-4000-8000-000000000000", 404),
    ("HEAD", "/files/00000000-0000-4000-8000-000000000000", 404),
    ("PATCH", "/files/00000000-0000-4000-8000-000000000000", 415),
    ("OPTIONS", "/files/", 200),
]


def test_every_answer_names_its_request(tus: Tus) -> None:
    for method, path, status in ANSWERS:
        given = tus.request(method, path, {**TUS, "X-Request-ID": "mine"})
        made = tus.request(method, path, {**TUS, "X-Request-ID": "not sane"})
        assert (given.status, made.status) == (status, status), path
        assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", made.headers["x-request-id"])
        # Of one that cannot be read nothing is taken.
        assert status == 400 or given.headers["x-request-id"] == "mine"


def test_what_is_not_there_is_a_problem(tus: Tus) -> None:
    for method, path, status in ANSWERS:
        if status in {404, 405} and method in {"GET", "POST"}:
            answer = tus.request(method, path, TUS)
            assert answer.headers["content-type"] == "application/problem+json", path
            assert set(answer.json()) == {"type", "title", "status", "detail"}
            assert answer.json()["status"] == status
