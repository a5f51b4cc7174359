"""Both dialects when answers, servers or Redis are lost: keys, shutdown, trailers."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from tests.acceptance.process import Server, Site, eventually, new_directory
from tests.acceptance.raw import TUS, Connection, Response, Tus
from tests.acceptance.test_resumable import (
    BODY,
    PARTIAL,
    append,
    begun,
    digest,
    flags,
    head,
    path_of,
)
from tests.acceptance.test_resumable_cases import VERSIONS, ask, final, is_refused

if TYPE_CHECKING:
    from collections.abc import Iterator

# A creation without a body, in each dialect.
DIALECTS = {
    "tus": {**TUS, "Upload-Length": str(len(BODY))},
    "ietf": {**flags(8, complete=False), "Upload-Length": str(len(BODY))},
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def create(tus: Tus, dialect: str, key: str, **more: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return ask(tus, "POST", "/files/", {**DIALECTS[dialect], "Idempotency-Key": key, **named})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_creations_with_one_key_at_once_make_one_upload(tus: Tus, site: Site, dialect: str) -> None:
    before = set(site.uploads.glob("*.log"))
    with ThreadPoolExecutor(16) as pool:
        key = f"sixteen at once: {dialect}"
        answers = list(pool.map(lambda _: create(tus, dialect, key), range(16)))
    # Whoever was overtaken is told to come again.
    assert {answer.status for answer in answers} <= {201, 423, 503}
    assert len({path_of(answer) for answer in answers if answer.status == 201}) == 1
    assert len(set(site.uploads.glob("*.log")) - before) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_with_another_request_is_refused(tus: Tus, dialect: str) -> None:
    path = path_of(create(tus, dialect, f"the same key: {dialect}"))
    other = next(name for name in DIALECTS if name != dialect)
    for answer in (
        create(tus, dialect, f"the same key: {dialect}", Upload_Length="7"),
        create(tus, dialect, f"the same key: {dialect}", Upload_Metadata="filename Yg=="),
        create(tus, other, f"the same key: {dialect}"),
    ):
        assert answer.status == 409
        assert "location" not in answer.headers
        assert path.encode() not in answer.body
    assert path_of(create(tus, dialect, f"the same key: {dialect}")) == path


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "key", ["short", "", '"0123456789abcde"', "x" * 2000, "0123456789abcde\xff"]
)
def test_a_key_that_could_be_guessed_or_read_wrong_is_refused(
    tus: Tus, site: Site, dialect: str, key: str
) -> None:
    before = set(site.uploads.glob("*.log"))
    assert create(tus, dialect, key).status == 400
    assert set(site.uploads.glob("*.log")) == before


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_of_a_removed_upload_brings_nothing_back(tus: Tus, dialect: str) -> None:
    key = f"to be removed: {dialect}"
    path = path_of(create(tus, dialect, key))
    headers = TUS if dialect == "tus" else flags(8, complete=True)
    assert ask(tus, "DELETE", path, headers).status == 204
    assert create(tus, dialect, key).status == 410


@pytest.mark.parametrize("version", VERSIONS)
def test_a_creation_sent_again_after_its_end_is_answered_alike(tus: Tus, version: int) -> None:
    headers = {**flags(version, complete=True), "Idempotency-Key": f"sent whole twice {version}"}
    first = ask(tus, "POST", "/files/", headers, BODY)
    again = ask(tus, "POST", "/files/", headers, BODY)
    assert (again.status, path_of(again), again.body) == (201, path_of(first), first.body)


@pytest.mark.parametrize("trailer", [digest(BODY), digest(b"else"), "sha-256=:YQ==:", None])
def test_a_digest_behind_the_body_is_checked(tus: Tus, trailer: str | None) -> None:  # R46
    path = begun(tus)
    with Connection(tus.port) as connection:
        headers = PARTIAL | flags(8, complete=True) | {"Upload-Offset": "0"}
        more = {"Transfer-Encoding": "chunked", "Trailer": "Content-Digest"}
        connection.begin("PATCH", path, headers | more)
        end = b"" if trailer is None else b"Content-Digest: %b\r\n" % trailer.encode()
        connection.send(b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(BODY), BODY, end))
        answer = final(connection)
    if trailer == digest(BODY):
        assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")
        return
    assert is_refused(answer, 400)
    seen = head(tus, path)
    assert (seen.offset, seen.headers["upload-complete"]) == (0, "?0")


@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_names_an_upload_names_it_alike(tus: Tus, version: int) -> None:  # R6
    with Connection(tus.port) as connection:
        size = {"Content-Length": str(len(BODY))}
        connection.begin("POST", "/files/", flags(version, complete=False) | size)
        first = connection.receive()
        assert first.status == 104  # before a byte of the body was sent
        connection.send(BODY)
        answer = final(connection)
    path = first.headers["location"]
    assert answer.headers["location"] == path
    last = append(tus, path, len(BODY), b"", complete=True, version=version)
    assert last.headers["location"] == path


def stalled(tus: Tus, site: Site, path: str, headers: dict[str, str]) -> Connection:
    """Begin an append, send the first 400 bytes and wait until they are stored."""
    connection = Connection(tus.port)
    size = {"Upload-Offset": "0", "Content-Length": str(len(BODY))}
    connection.begin("PATCH", path, headers | size)
    connection.send(BODY[:400])
    eventually(lambda: site.stored(path).stat().st_size >= 400 or None, "400 bytes")
    return connection


def test_a_stop_cuts_bodies_of_the_drafts_and_answers_those_of_tus(site: Site) -> None:
    # What iOS gets an answer to, it takes for the end; what is cut, it resumes.
    server = site.serve()
    tus = Tus(server.port)
    ours, theirs = begun(tus), tus.create(len(BODY))
    kind = {"Content-Type": "application/offset+octet-stream"}
    with (
        stalled(tus, site, ours, PARTIAL | flags(8, complete=True)) as cut,
        stalled(tus, site, theirs, TUS | kind) as answered,
    ):
        server.terminate()
        answer = answered.receive()
        assert (answer.status, answer.offset) == (423, 400)
        with pytest.raises(ConnectionError):
            final(cut)
        assert server.wait() == 0
    tus = Tus(site.serve().port)
    assert (head(tus, ours).offset, tus.offset(theirs)) == (400, 400)
    assert append(tus, ours, 400, BODY[400:], complete=True).headers["upload-complete"] == "?1"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_outlives_server_and_redis(site: Site, dialect: str) -> None:  # R45
    server, key = site.serve(), f"outlives everything: {dialect}"
    path = path_of(create(Tus(server.port), dialect, key))
    server.kill9()
    tus = Tus(site.serve().port)
    assert path_of(create(tus, dialect, key)) == path
    assert tus.patch(path, 0, BODY[:400]).offset == 400
    with Redis.from_url(site.redis_url) as redis:
        redis.flushall()
    again = eventually(
        lambda: answer if (answer := create(tus, dialect, key)).status == 201 else None,
        "creation after Redis was emptied",
    )
    assert path_of(again) == path
    assert head(tus, path).offset == 400
