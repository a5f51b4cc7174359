"""Parts that become one upload: at once or later, in any order, whoever is killed meanwhile."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
import redis

from storage.filestore import FileStore
from tests.acceptance.process import (
    Server,
    Site,
    eventually,
    new_directory,
    wait_until_let_go,
)
from tests.acceptance.raw import APPEND, TUS, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = bytes(range(256)) * 4
GIB = 2**30


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    settings = {"KEEP_UPLOADS_SECONDS": "-1", "MAX_FILE_SIZE": str(4 * GIB)}
    with Site(new_directory(), **settings) as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def part(tus: Tus, length: int | None, body: bytes = b"") -> str:
    """Create a partial upload with the first of its bytes; a length of None is said later."""
    size = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    kind = APPEND if body else {}
    answer = tus.request("POST", "/files/", {**TUS, **kind, **size, **PARTIAL}, body)
    assert answer.status == 201, answer
    return answer.headers["location"]


PARTIAL = {"Upload-Concat": "partial"}


def concatenate(tus: Tus, *parts: str, **more: str) -> Response:
    headers = {**TUS, "Upload-Concat": f"final;{' '.join(parts)}", **more}
    return tus.request("POST", "/files/", headers)


def final_of(tus: Tus, *parts: str) -> str:
    answer = concatenate(tus, *parts)
    assert answer.status == 201, answer
    assert "upload-expires" not in answer.headers
    return answer.headers["location"]


def wait_for(tus: Tus, final: str, body: bytes) -> None:
    """Wait until a final upload is complete: it has to be these bytes and one job."""
    eventually(lambda: "upload-offset" in tus.head(final).headers or None, "offset")
    head = tus.head(final)
    assert (head.offset, head.headers["upload-length"]) == (len(body), str(len(body)))
    assert tus.request("GET", final).body == body
    assert tus.job(final)["status"] == "pending"


def queued(site: Site) -> list[str]:
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
        found = [client.lrange(queue, 0, -1) for queue in client.keys("rq:queue:*")]
    return [upload_id for ids in found for upload_id in ids]


def assert_waiting(tus: Tus, final: str) -> None:
    head = tus.head(final)
    assert head.status == 200
    assert head.headers["cache-control"] == "no-store"
    assert head.headers["upload-concat"].startswith("final;")
    assert not {"upload-offset", "upload-defer-length", "upload-expires"} & head.headers.keys()
    assert tus.request("GET", final).status == 404
    assert tus.job(final)["status"] == "uploading"
    for at in (0, len(BODY)):
        assert tus.patch(final, at, b"x").status == 403


def test_parts_become_one_upload_without_a_copy(tus: Tus, site: Site) -> None:
    bodies = [BODY[:300], BODY[300:700], BODY[700:]]
    parts = [part(tus, len(body), body) for body in bodies]
    assert [tus.request("GET", f"/jobs/{path[7:]}").status for path in parts] == [404, 404, 404]
    final = final_of(tus, *parts)
    head = tus.head(final)
    assert (head.offset, head.headers["upload-length"]) == (len(BODY), str(len(BODY)))
    assert head.headers["upload-concat"] == f"final;{' '.join(parts)}"
    assert tus.head(parts[0]).headers["upload-concat"] == "partial"
    assert tus.job(final)["status"] == "pending"
    assert tus.patch(final, len(BODY), b"").status == 403
    first = site.stored(final)
    assert first.samefile(site.stored(parts[0]))
    # A part that is removed takes nothing away, and may be in several.
    assert tus.delete(parts[0]).status == 204
    segments = [first, *(first.with_name(f"{first.name}.{number}") for number in (1, 2))]
    assert b"".join(segment.read_bytes() for segment in segments) == BODY
    again = final_of(tus, parts[1], parts[1])
    assert tus.offset(again) == 800


def test_only_partials_of_this_server_become_one(tus: Tus, site: Site) -> None:
    whole, gone = tus.upload(BODY), part(tus, len(BODY), BODY)
    waiting = final_of(tus, part(tus, 10))
    tus.delete(gone)
    unknown = "/files/6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11"
    files = set(site.uploads.iterdir())
    answers = [concatenate(tus, path) for path in (whole, waiting, gone, unknown)]
    assert [answer.status for answer in answers] == [400, 400, 410, 404]
    good = part(tus, len(BODY), BODY)
    assert concatenate(tus, f"http://elsewhere.example{good}").status == 400
    assert concatenate(tus, f"http://acceptance{good}").status == 201
    assert concatenate(tus, good, **{"Upload-Length": "5"}).status == 400
    assert len(set(site.uploads.iterdir()) - files) == 4


@pytest.mark.parametrize("length", [GIB, None], ids=["all announced", "some here, some announced"])
def test_parts_that_will_be_too_long_together_are_refused(
    tus: Tus, site: Site, length: int | None
) -> None:
    long, short = part(tus, 4 * GIB), part(tus, length, b"x")
    files = set(site.uploads.iterdir())
    assert concatenate(tus, long, short).status == 413
    assert set(site.uploads.iterdir()) == files


def test_a_final_upload_of_unfinished_parts_is_complete_with_the_last_of_them(
    tus: Tus, site: Site
) -> None:
    content = Random(4).randbytes(4 * 2**20 + 5)  # noqa: S311  no secret
    bodies = [content[:5], content[5 : 2**21], content[2**21 :]]
    parts = [part(tus, len(body)) for body in bodies]
    final = final_of(tus, *parts)
    assert_waiting(tus, final)
    assert tus.head(final).headers["upload-length"] == str(len(content))
    with tus.begin_patch(parts[2], 0, len(bodies[2])) as last:
        last.send(bodies[2][:1000])
        with ThreadPoolExecutor() as threads:
            others = list(threads.map(tus.patch, parts[:2], (0, 0), bodies[:2]))
        assert [answer.status for answer in others] == [204, 204]
        assert_waiting(tus, final)
        last.send(bodies[2][1000:])
        assert last.receive().status == 204
    wait_for(tus, final, content)
    eventually(lambda: final[7:] in queued(site) or None, "job")
    assert [path for path in parts if path[7:] in queued(site)] == []
    assert [tus.request("GET", f"/jobs/{path[7:]}").status for path in parts] == [404, 404, 404]
    assert queued(site).count(final[7:]) == 1


def test_a_creation_interrupts_no_part_that_is_uploaded(tus: Tus) -> None:
    path = part(tus, len(BODY))
    with tus.begin_patch(path, 0, len(BODY)) as upload:
        upload.send(BODY[:400])
        finals = [final_of(tus, path), final_of(tus, path, path)]
        upload.send(BODY[400:])
        assert upload.receive().status == 204
    wait_for(tus, finals[0], BODY)
    wait_for(tus, finals[1], BODY + BODY)


def test_a_length_said_late_is_told_as_soon_as_it_is_known(tus: Tus) -> None:
    path = part(tus, None)
    final = final_of(tus, path, path)
    assert_waiting(tus, final)
    assert "upload-length" not in tus.head(final).headers
    size = {"Upload-Length": str(len(BODY)), "Upload-Offset": "0"}
    assert tus.request("PATCH", path, {**TUS, **APPEND, **size}, BODY[:1]).status == 204
    assert_waiting(tus, final)
    assert tus.head(final).headers["upload-length"] == str(2 * len(BODY))
    assert tus.patch(path, 1, BODY[1:]).status == 204
    wait_for(tus, final, BODY + BODY)


def test_a_part_removed_after_its_last_byte_takes_nothing_away(tus: Tus) -> None:
    first, second = part(tus, 300), part(tus, len(BODY) - 300)
    final = final_of(tus, first, second)
    assert tus.patch(second, 0, BODY[300:]).status == 204
    assert tus.delete(second).status == 204
    assert_waiting(tus, final)
    assert tus.patch(first, 0, BODY[:300]).status == 204
    assert tus.delete(first).status == 204
    wait_for(tus, final, BODY)


def test_a_part_removed_before_its_last_byte_takes_its_final_uploads_with_it(
    tus: Tus, site: Site
) -> None:
    first, second = part(tus, 300, BODY[:300]), part(tus, 700, BODY[:1])
    finals = [final_of(tus, first, second), final_of(tus, second)]
    assert tus.delete(second).status == 204
    for final in finals:
        assert tus.head(final).status == 410
        assert tus.request("GET", final).status in {404, 410}
        eventually(lambda: tus.job(final)["status"] == "cancelled" or None, "cancelled job")  # noqa: B023  called here
        for answer in (tus.request("GET", final), tus.patch(final, 0, b""), tus.delete(final)):
            assert answer.status == 410
        assert [path.name for path in site.uploads.glob(f"{final[7:]}*")] == [f"{final[7:]}.log"]
    assert concatenate(tus, first, second).status == 410
    assert tus.offset(final_of(tus, first)) == 300


def test_a_final_upload_removed_while_it_waits_leaves_its_parts(tus: Tus, site: Site) -> None:
    first, second = part(tus, 300, BODY[:300]), part(tus, 10)
    final = final_of(tus, first, second)
    assert tus.delete(final).status == 204
    assert tus.head(final).status == 410
    assert tus.job(final)["status"] == "cancelled"
    assert tus.patch(second, 0, BODY[:10]).status == 204
    other = final_of(tus, first, second)
    wait_for(tus, other, BODY[:300] + BODY[:10])
    assert tus.head(final).status == 410
    assert [path.name for path in site.uploads.glob(f"{final[7:]}*")] == [f"{final[7:]}.log"]


def test_parts_that_several_servers_take_become_one_upload(
    tus: Tus, server: Server, site: Site
) -> None:
    del server
    other = Tus(site.serve().port)
    bodies = [BODY[at : at + 64] for at in range(0, len(BODY), 64)]
    parts = [part(tus, len(body)) for body in bodies]
    finals: list[str] = []
    begin = threading.Barrier(3)

    def create() -> None:
        begin.wait()
        finals.append(final_of(other, *parts))

    def fill(client: Tus, which: int) -> list[int]:
        begin.wait()
        chosen = range(which, len(parts), 2)
        return [client.patch(parts[at], 0, bodies[at]).status for at in chosen]

    with ThreadPoolExecutor() as threads:
        created = threads.submit(create)
        answers = [threads.submit(fill, client, at) for at, client in enumerate((tus, other))]
        assert {status for one in answers for status in one.result()} == {204}
        created.result()
    wait_for(tus, finals[0], BODY)
    wait_for(other, finals[0], BODY)
    eventually(lambda: finals[0][7:] in queued(site) or None, "job")
    assert queued(site).count(finals[0][7:]) == 1


@pytest.mark.parametrize("emptied", [False, True], ids=["redis kept", "redis emptied"])
def test_a_server_killed_between_the_parts_loses_no_final_upload(
    new_site: Callable[..., Site], *, emptied: bool
) -> None:
    site = new_site(KEEP_UPLOADS_SECONDS="-1")
    server = site.serve()
    tus = Tus(server.port)
    bodies = [BODY[:300], BODY[300:700], BODY[700:]]
    parts = [part(tus, len(body)) for body in bodies]
    final = final_of(tus, *parts)
    # Killed with one part that is here, then with all of them.
    for filled in ((2,), (0, 1)):
        assert_waiting(tus, final)
        for at in filled:
            assert tus.patch(parts[at], 0, bodies[at]).status == 204
        server.kill9()
        if emptied:
            with redis.Redis.from_url(site.redis_url) as client:
                client.flushall()
        server = site.serve(port=server.port)
    wait_for(tus, final, BODY)
    eventually(lambda: queued(site) == [final[7:]] or None, "one job")


def test_parts_of_gibibytes_become_one_at_no_cost(tus: Tus, site: Site) -> None:
    paths = [part(tus, GIB) for _ in range(4)]
    store = FileStore(site.uploads)
    for path in paths:
        # Its server holds what it created for a while.
        wait_until_let_go(site.stored(path))
        # Bytes that were never written: a hole takes no room and no time.
        known = store.look(path[7:])
        writer = store.open(replace(known, token=known.token + 1))
        writer.commit(replace(writer.upload, offset=GIB, complete=True))
        writer.close()
    taken = [site.stored(path).stat() for path in paths]
    final = final_of(tus, *paths)
    assert tus.offset(final) == 4 * GIB
    now = [site.stored(path).stat() for path in paths]
    assert [one.st_nlink for one in now] == [2, 2, 2, 2]
    assert sum(one.st_blocks for one in now) == sum(one.st_blocks for one in taken)
    tail = tus.request("GET", final, {"Range": "bytes=-3"})
    assert (tail.status, tail.body) == (206, bytes(3))
