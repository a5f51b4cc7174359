"""What only a real connection can show: cuts, stalls, take-overs, refusals in mid-body."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import redis

from settings import Settings
from storage import redis_schema as schema
from storage.filestore import FileStore
from storage.redis_jobs import RedisJobs
from tests.acceptance.process import Server, Site, eventually, new_directory, wait_until_let_go
from tests.acceptance.raw import APPEND, TUS, Connection, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def stored(site: Site, path: str) -> bytes:
    return site.stored(path).read_bytes()


def wait_until_taken(tus: Tus, path: str, count: int) -> None:
    """Wait until the server has counted so many bytes, without disturbing who sends them."""
    message = f"({count / len(BODY):.0%})"
    eventually(lambda: message in tus.job(path)["message"] or None, message)


def test_every_response_carries_the_version(tus: Tus) -> None:
    path = tus.create(4)
    answers = [
        tus.request("OPTIONS", "/files/"),
        tus.request("OPTIONS", path),
        tus.request("OPTIONS", "/files/unknown"),
        tus.head(path),
        tus.head("/files/unknown"),
        tus.request("PUT", path, TUS),
        tus.patch(path, 0, b"too long"),
        tus.patch(path, 3, b"x"),
        tus.request("HEAD", path),
        tus.delete(path),
        tus.head(path),
    ]
    assert [answer.status for answer in answers] == [
        *(200, 200, 200, 200, 404, 405, 413, 409, 412, 204, 410),
    ]
    assert {answer.headers.get("tus-resumable") for answer in answers} == {"1.0.0"}


@pytest.mark.parametrize("end", ["close", "reset"])
def test_bytes_before_a_cut_are_kept(tus: Tus, site: Site, end: str) -> None:
    path = tus.create(len(BODY))
    connection = tus.begin_patch(path, 0, len(BODY))
    connection.send(BODY[:400])
    wait_until_taken(tus, path, 400)
    getattr(connection, end)()
    assert tus.offset(path) == 400
    assert tus.patch(path, 400, BODY[400:]).status == 204
    assert stored(site, path) == BODY


def test_head_takes_over_from_a_stalled_patch_that_is_told_to_try_again(
    tus: Tus, site: Site
) -> None:
    path = tus.create(len(BODY))
    with tus.begin_patch(path, 0, len(BODY)) as stalled:
        stalled.send(BODY[:100])
        wait_until_taken(tus, path, 100)
        # Answered while the other request is still open.
        assert tus.offset(path) == 100
        answer = stalled.receive()
    assert (answer.status, answer.headers["retry-after"]) == (423, "1")
    assert answer.offset == 100
    assert tus.patch(path, 100, BODY[100:]).offset == len(BODY)
    assert stored(site, path) == BODY


def test_patch_takes_over_from_a_stalled_patch(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    with tus.begin_patch(path, 0, len(BODY)) as stalled:
        stalled.send(BODY[:100])
        wait_until_taken(tus, path, 100)
        assert tus.patch(path, 100, BODY[100:]).status == 204
        assert stalled.receive().status == 423
    assert stored(site, path) == BODY


def test_a_server_takes_over_from_another_one(server: Server, site: Site) -> None:
    one, other = Tus(server.port), Tus(site.serve().port)
    path = one.create(len(BODY))
    with one.begin_patch(path, 0, len(BODY)) as stalled:
        stalled.send(BODY[:100])
        wait_until_taken(one, path, 100)
        assert other.offset(path) == 100
        assert stalled.receive().status == 423
    assert other.patch(path, 100, BODY[100:]).status == 204
    assert stored(site, path) == BODY


def test_of_two_equal_patches_one_is_taken(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    start = threading.Barrier(2)

    def send() -> int:
        start.wait()
        return tus.patch(path, 0, BODY).status

    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(future.result() for future in [pool.submit(send), pool.submit(send)])
    # The loser comes too late for the offset, or had to let go before it had anything.
    assert statuses in ([204, 409], [204, 413], [204, 423])
    assert stored(site, path) == BODY


def test_delete_stops_a_running_patch_and_nothing_comes_back(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    with tus.begin_patch(path, 0, len(BODY)) as running:
        running.send(BODY[:100])
        wait_until_taken(tus, path, 100)
        assert tus.delete(path).status == 204
        assert running.receive().status == 423
    assert tus.head(path).status == 410
    assert tus.patch(path, 100, BODY[100:]).status == 410
    assert tus.job(path)["status"] == "cancelled"
    upload_id = path.rpartition("/")[2]
    assert not (site.uploads / upload_id).exists()


def test_a_chunked_body_of_the_right_length_is_taken(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
        connection.begin("PATCH", path, headers)
        connection.send(b"100\r\n" + BODY[:256] + b"\r\n300\r\n" + BODY[256:] + b"\r\n0\r\n\r\n")
        answer = connection.receive()
    assert (answer.status, answer.offset) == (204, len(BODY))
    assert stored(site, path) == BODY


def test_a_chunked_body_beyond_the_length_completes_nothing(tus: Tus) -> None:
    path = tus.create(100)
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": "0", "Transfer-Encoding": "chunked"}
        connection.begin("PATCH", path, headers)
        connection.send(b"c8\r\n" + BODY[:200] + b"\r\n0\r\n\r\n")
        assert connection.receive().status == 413
    assert tus.offset(path) == 0
    assert tus.job(path)["status"] == "uploading"


def test_a_refused_body_is_not_asked_for(tus: Tus) -> None:
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": "5", "Expect": "100-continue"}
        connection.begin("PATCH", path, {**headers, "Content-Length": "10"})
        answer = connection.receive()
    assert (answer.status, answer.offset) == (409, 0)


def test_an_admitted_body_is_asked_for(tus: Tus) -> None:
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": "0", "Expect": "100-continue"}
        connection.begin("PATCH", path, {**headers, "Content-Length": str(len(BODY))})
        assert connection.receive().status == 100
        connection.send(BODY)
        assert connection.receive().status == 204


def test_a_refusal_in_front_of_a_long_body_reaches_the_client(tus: Tus) -> None:
    path = tus.create(10**8)
    with tus.begin_patch(path, 7, 10**7) as connection:
        connection.send(b"x" * 100_000)
        answer = connection.receive()
    assert (answer.status, answer.headers["connection"]) == (409, "close")


def test_a_stalled_body_ends_and_what_came_is_kept(site: Site) -> None:
    tus = Tus(site.serve(UPLOAD_TIMEOUT_SECONDS="0.5").port)
    path = tus.create(len(BODY))
    with tus.begin_patch(path, 0, len(BODY)) as stalled:
        stalled.send(BODY[:100])
        answer = stalled.receive()
    assert (answer.status, answer.offset) == (423, 100)
    assert tus.patch(path, 100, BODY[100:]).status == 204


def test_creation_with_upload_takes_the_first_bytes(tus: Tus, site: Site) -> None:
    headers = {**TUS, **APPEND, "Upload-Length": str(len(BODY))}
    part = tus.request("POST", "/files/", headers, BODY[:300])
    assert (part.status, part.offset) == (201, 300)
    path = part.headers["location"]
    assert tus.patch(path, 300, BODY[300:]).status == 204
    assert stored(site, path) == BODY
    whole = tus.request("POST", "/files", headers, BODY)
    assert (whole.status, whole.offset) == (201, len(BODY))
    assert tus.request("POST", "/files/", headers, BODY + b"x").status == 413


def test_an_empty_body_of_the_type_is_told_offset_0(tus: Tus) -> None:
    answer = tus.request("POST", "/files/", {**TUS, **APPEND, "Upload-Length": "5"})
    assert (answer.status, answer.offset) == (201, 0)


def test_a_form_is_not_taken_for_bytes_of_the_upload(tus: Tus) -> None:
    headers = {**TUS, "Upload-Length": "5", "Content-Type": "multipart/form-data; boundary=x"}
    answer = tus.request("POST", "/files/", headers, b"hello")
    assert answer.status == 201
    assert tus.offset(answer.headers["location"]) == 0


def test_metadata_is_echoed_byte_for_byte(tus: Tus) -> None:
    metadata = "filename 8J+alw==, bin /wA=,flag,empty "
    created = tus.request(
        "POST", "/files/", {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata}
    )
    head = tus.head(created.headers["location"])
    assert head.headers["upload-metadata"] == metadata.strip()
    assert "content-length" not in head.headers
    assert head.headers["cache-control"] == "no-store"


def deferred(tus: Tus) -> str:
    answer = tus.request("POST", "/files/", {**TUS, "Upload-Defer-Length": "1"})
    assert answer.status == 201
    return answer.headers["location"]


def append(tus: Tus, path: str, offset: int, body: bytes, **more: str) -> Response:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    headers |= {**TUS, **APPEND, "Upload-Offset": str(offset)}
    return tus.request("PATCH", path, headers, body)


def test_a_deferred_length_may_come_with_any_append(tus: Tus, site: Site) -> None:
    path = deferred(tus)
    assert append(tus, path, 0, BODY[:400]).offset == 400
    head = tus.head(path)
    assert head.headers["upload-defer-length"] == "1"
    assert "upload-length" not in head.headers
    assert tus.job(path)["message"].startswith("Uploading: 0.0MB")
    assert append(tus, path, 400, BODY[400:500], Upload_Length=str(len(BODY))).offset == 500
    head = tus.head(path)
    assert head.headers["upload-length"] == str(len(BODY))
    assert "upload-defer-length" not in head.headers
    assert append(tus, path, 500, BODY[500:]).offset == len(BODY)
    assert stored(site, path) == BODY
    assert tus.job(path)["status"] == "pending"


def test_an_empty_append_that_declares_the_length_completes(tus: Tus) -> None:
    path = deferred(tus)
    append(tus, path, 0, BODY)
    assert tus.job(path)["status"] == "uploading"
    assert append(tus, path, len(BODY), b"", Upload_Length=str(len(BODY))).status == 204
    assert tus.job(path)["status"] == "pending"


def test_a_length_declared_by_a_refused_append_does_not_count(tus: Tus) -> None:
    path = deferred(tus)
    assert append(tus, path, 0, BODY[:10], Upload_Length="5").status == 413
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": "0", "Upload-Length": "5"}
        connection.begin("PATCH", path, {**headers, "Transfer-Encoding": "chunked"})
        connection.send(b"a\r\n" + BODY[:10] + b"\r\n0\r\n\r\n")
        assert connection.receive().status == 413
    assert append(tus, path, 1, b"x", Upload_Length="5").status == 409
    head = tus.head(path)
    assert (head.offset, head.headers["upload-defer-length"]) == (0, "1")


def sha1(body: bytes) -> str:
    return f"sha1 {base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()}"


def test_a_body_with_the_right_checksum_is_taken(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    assert append(tus, path, 0, BODY, Upload_Checksum=sha1(BODY)).status == 204
    assert append(tus, path, len(BODY), b"", Upload_Checksum=sha1(b"")).status == 204
    assert stored(site, path) == BODY


def test_a_body_with_a_wrong_checksum_is_discarded(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    assert append(tus, path, 0, BODY[:100], Upload_Checksum=sha1(BODY[:100])).offset == 100
    assert append(tus, path, 100, BODY[100:], Upload_Checksum=sha1(b"else")).status == 460
    assert tus.offset(path) == 100
    assert append(tus, path, 100, BODY[100:], Upload_Checksum="sha4 YQ==").status == 400
    assert tus.offset(path) == 100
    assert append(tus, path, 100, BODY[100:], Upload_Checksum=sha1(BODY[100:])).status == 204
    assert stored(site, path) == BODY


def test_bytes_that_cannot_be_verified_are_not_kept(tus: Tus) -> None:
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": "0", "Content-Length": str(len(BODY))}
        connection.begin("PATCH", path, {**headers, "Upload-Checksum": sha1(BODY)})
        connection.send(BODY[:400])
        assert tus.offset(path) == 0
        answer = connection.receive()
    assert (answer.status, answer.offset) == (423, 0)


def test_a_creation_whose_body_has_a_wrong_checksum_leaves_no_upload(tus: Tus, site: Site) -> None:
    before = set(site.uploads.glob("*.log"))
    headers = {**TUS, **APPEND, "Upload-Length": str(len(BODY)), "Upload-Checksum": sha1(b"else")}
    answer = tus.request("POST", "/files/", headers, BODY)
    assert (answer.status, "location" in answer.headers) == (460, False)
    [new] = set(site.uploads.glob("*.log")) - before
    assert tus.head(f"/files/{new.stem}").status == 410
    assert not new.with_suffix("").exists()


def test_an_upload_of_nothing_is_complete_at_once(tus: Tus) -> None:
    path = tus.create(0)
    head = tus.head(path)
    assert (head.offset, head.headers["upload-length"]) == (0, "0")
    assert tus.job(path)["status"] in {"pending", "processing", "failed"}


def test_asking_again_after_a_lost_answer_is_answered_again(tus: Tus) -> None:
    path = tus.create(len(BODY))
    for offset, body in ((0, BODY), (len(BODY), b""), (len(BODY), b"")):
        answer = tus.patch(path, offset, body)
        assert (answer.status, answer.offset) == (204, len(BODY))
    assert tus.patch(path, len(BODY), b"x").status == 413


def test_an_expired_upload_is_gone(site: Site) -> None:
    tus = Tus(site.serve(UPLOAD_EXPIRATION_SECONDS="0.1").port)
    path = tus.create(5)
    eventually(lambda: tus.head(path).status == 410 or None, "410")
    assert tus.patch(path, 0, b"x").status == 410


def test_the_tombstone_of_an_upload_is_forgotten_when_results_are(site: Site) -> None:
    tus = Tus(site.serve().port)
    path = tus.create(5)
    assert tus.request("DELETE", path, TUS).status == 204
    assert tus.head(path).status == 410
    upload_id = path.rpartition("/")[2]
    with redis.Redis.from_url(site.redis_url) as client:
        client.zadd(schema.EXPIRING, {upload_id: 1})
    jobs = RedisJobs.connect(site.redis_url, FileStore(site.uploads), Settings())
    # Or the server was first.
    eventually(lambda: jobs.sweep() or not site.stored(f"{path}.log").exists() or None, "sweep")
    assert tus.head(path).status == 404


def test_the_time_of_an_unfinished_upload_begins_anew_with_what_comes(tus: Tus, site: Site) -> None:
    path = tus.create(5)
    data, upload_id = FileStore(site.uploads), path.rpartition("/")[2]
    before = data.recover(upload_id)[0].expires_at
    assert tus.patch(path, 0, b"x").status == 204
    assert data.recover(upload_id)[0].expires_at > before


def test_a_disk_without_room_takes_no_new_upload(site: Site) -> None:
    tus = Tus(site.serve(MIN_FREE_BYTES=str(2**60)).port)
    answer = tus.post(5)
    assert answer.status == 507
    assert b"bytes are free" in answer.body


def test_a_chunked_surplus_on_a_complete_upload_is_refused(tus: Tus) -> None:
    path = tus.upload(BODY)
    with Connection(tus.port) as connection:
        headers = {**TUS, **APPEND, "Upload-Offset": str(len(BODY))}
        connection.begin("PATCH", path, {**headers, "Transfer-Encoding": "chunked"})
        connection.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert connection.receive().status == 413


def test_a_head_that_does_not_end_is_refused(tus: Tus) -> None:
    with Connection(tus.port) as connection:
        connection.send(b"POST /files/ HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with suppress(OSError):
            for _ in range(100):
                connection.send(b"x" * 65_536)
        with suppress(ConnectionError):
            assert connection.receive().status == 431
    assert tus.post(5).status == 201


def test_a_redis_emptied_in_mid_body_costs_no_byte(site: Site, tus: Tus) -> None:
    path = tus.create(len(BODY))
    with tus.begin_patch(path, 0, len(BODY)) as connection:
        connection.send(BODY[:400])
        wait_until_taken(tus, path, 400)
        with redis.Redis.from_url(site.redis_url) as client:
            client.flushall()
        connection.send(BODY[400:])
        answer = connection.receive()
    assert answer.status == 423
    assert tus.offset(path) == len(BODY)
    assert tus.job(path)["status"] == "pending"
    assert stored(site, path) == BODY


def test_a_redis_that_was_rolled_back_forgets_no_byte(site: Site, tus: Tus) -> None:
    path = tus.create(len(BODY))
    key = f"tusd:upload:{path.rpartition('/')[2]}"
    with redis.Redis.from_url(site.redis_url) as client:
        older: dict[bytes, bytes] = client.hgetall(key)
        assert tus.patch(path, 0, BODY[:400]).status == 204
        client.delete(key)
        client.hset(key, mapping=older)
        assert tus.offset(path) == 400
        client.delete(key)
        client.hset(key, mapping=older)
    # One that does not ask first is told to try again; what it sent may be here by then.
    assert tus.patch(path, 400, BODY[400:]).status in {204, 423}
    offset = tus.offset(path)
    assert offset >= 400
    eventually(lambda: tus.patch(path, offset, BODY[offset:]).status == 204 or None, "204")
    assert stored(site, path) == BODY


def test_a_redis_that_was_rolled_back_revives_nothing(site: Site, tus: Tus) -> None:
    path = tus.create(len(BODY))
    key = f"tusd:upload:{path.rpartition('/')[2]}"
    with redis.Redis.from_url(site.redis_url) as client:
        older: dict[bytes, bytes] = client.hgetall(key)
        assert tus.delete(path).status == 204
        client.hset(key, mapping=older)
    assert tus.head(path).status == 410
    assert tus.patch(path, 0, BODY).status == 410


@pytest.mark.parametrize(
    "path",
    [
        *("/files/..%2f..%2fetc%2fpasswd", "/files/%2e%2e/", "/files/%00", "/files/a/b"),
        "/files/6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11.log",
    ],
)
def test_a_hostile_id_is_not_found(tus: Tus, path: str) -> None:
    for method in ("HEAD", "DELETE"):
        assert tus.request(method, path, TUS).status == 404
    assert tus.patch(path, 0, b"x").status == 404


PAGE = {"Origin": "https://page.example"}


def test_a_preflight_is_answered_for_every_header_and_unknown_uploads_too(tus: Tus) -> None:
    wanted = "tus-resumable, upload-checksum, x-request-id"
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": wanted}
    for path in ("/files/", "/files/unknown"):
        answer = tus.request("OPTIONS", path, PAGE | asked)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(
            ","
        ) == wanted.replace(" ", "").split(",")


def test_a_page_may_read_what_it_needs_of_refusals_too(tus: Tus) -> None:
    path = tus.create(5)
    answers = [
        tus.request("HEAD", path, {**TUS, **PAGE}),
        tus.request("HEAD", "/files/unknown", {**TUS, **PAGE}),
        tus.request("PATCH", path, {**TUS, **APPEND, **PAGE, "Upload-Offset": "3"}, b"x"),
        tus.request("OPTIONS", "/files/", PAGE),
    ]
    assert [answer.status for answer in answers] == [200, 404, 409, 200]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        ours = {name for name in answer.headers if name.startswith(("upload-", "tus-"))}
        assert ours <= set(exposed)


def test_a_page_from_outside_gets_into_a_private_network_only_where_it_is_named(
    tus: Tus, new_site: Callable[..., Site]
) -> None:
    asked = {"Access-Control-Request-Method": "PATCH"}
    private = {"Access-Control-Request-Private-Network": "true"}
    assert tus.request("OPTIONS", "/files/x", PAGE | asked | private).status == 400
    named = Tus(new_site(CORS_ORIGINS="https://page.example").serve().port)
    answer = named.request("OPTIONS", "/files/x", PAGE | asked | private)
    assert answer.status == 200
    assert answer.headers["access-control-allow-private-network"] == "true"


def test_only_named_origins_may_upload(new_site: Callable[..., Site]) -> None:
    site = new_site(CORS_ORIGINS="https://page.example, https://other.example")
    tus = Tus(site.serve().port)
    named = tus.request("OPTIONS", "/files/", PAGE)
    assert named.headers["access-control-allow-origin"] == "https://page.example"
    assert "Origin" in named.headers["vary"]
    stranger = tus.request("OPTIONS", "/files/", {"Origin": "https://stranger.example"})
    assert "access-control-allow-origin" not in stranger.headers
    closed = Tus(site.serve(CORS_ORIGINS="none").port).request("OPTIONS", "/files/", PAGE)
    assert "access-control-allow-origin" not in closed.headers


def test_an_upload_is_where_the_public_url_says(site: Site) -> None:
    tus = Tus(site.serve(PUBLIC_URL="https://host.example/api/").port)
    location = tus.post(5).headers["location"]
    assert location.startswith("https://host.example/api/files/")


def test_what_an_unknown_job_answers(tus: Tus) -> None:
    unknown = "/jobs/6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11"
    for path in (unknown, f"{unknown}/result", "/jobs/x", "/jobs/x/result"):
        answer = tus.request("GET", path)
        assert (answer.status, answer.json()["detail"]) == (404, "there is no such job")


def test_nobody_is_sent_elsewhere_by_a_slash_too_many(tus: Tus) -> None:
    paths = {"/jobs/x/": 404, "/docs/": 404, "/process/video/upload/async/": 405}
    for path, status in paths.items():
        answer = tus.request("GET", path)
        assert (answer.status, answer.headers.get("location")) == (status, None)


def test_an_upload_whose_bytes_are_missing_is_gone_so_that_its_client_begins_anew(
    tus: Tus, site: Site
) -> None:
    path = tus.create(10)
    tus.patch(path, 0, b"hello")
    wait_until_let_go(site.stored(path))
    os.truncate(site.stored(path), 3)
    # Else it would go on for ever with what takes nothing more.
    assert tus.head(path).status == 410
    assert tus.patch(path, 5, b"world").status == 410
    assert tus.delete(path).status == 204


def test_the_directory_holds_plain_files(tus: Tus, site: Site) -> None:
    path = tus.upload(BODY)
    upload_id = path.rpartition("/")[2]

    def names(directory: Path) -> set[str]:
        return {entry.name for entry in directory.iterdir()}

    assert names(site.uploads) >= {upload_id, f"{upload_id}.log", "results", "redis"}
