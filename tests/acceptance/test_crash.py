"""What is killed without a warning goes on where it was: nothing acknowledged is lost or done twice."""

from __future__ import annotations

import fcntl
import hashlib
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from storage import redis_schema as schema
from tests.acceptance.process import eventually
from tests.acceptance.raw import Tus, plates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Clip
    from tests.acceptance.process import Process, Server, Site

MIB = 2**20
NAMED = {"filename": "cars.mp4", "filetype": "video/mp4"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def attempts(site: Site, upload: str) -> int:
    """Return how often a worker began with the job of an upload."""
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
        return int(client.hget(schema.job_key(upload.rpartition("/")[2]), "attempt") or 0)  # type: ignore[arg-type]


def assert_read_once(site: Site, tus: Tus, upload: str, clip: Clip) -> None:
    """Wait for the job's end: there has to be one result, and it has to be right."""
    assert tus.wait_for_job(upload)["status"] == "completed"
    assert plates(tus.result(upload)) == clip.plates
    assert site.results() == [f"{upload.rpartition('/')[2]}.json"]
    assert digest(site.stored(upload).read_bytes()) == digest(clip.content)


@contextmanager
def nobody_starts_redis(site: Site) -> Iterator[None]:
    """Hold the lock that whoever starts the private Redis has to take."""
    with (site.uploads / "redis" / "change.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_server_killed_in_mid_upload_goes_on_from_the_offset_and_the_job_runs_once(
    site: Site, server: Server, clip: Clip, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311  no secret
    content, tus = clip.content, Tus(server.port)
    upload = tus.create(len(content), NAMED)
    acknowledged = sent = 0
    for kill in range(3):
        first = dice.randrange(1, MIB)
        acknowledged = tus.patch(upload, sent, content[sent : sent + first]).offset
        assert acknowledged == sent + first
        second = dice.randrange(1, MIB // 2)
        with tus.begin_patch(upload, acknowledged, len(content) - acknowledged) as stalled:
            stalled.send(content[acknowledged : acknowledged + second])
            if kill == 1:
                # What trickles in is kept without an answer, too.
                known = acknowledged / len(content)
                tus.wait_for_job(upload, "uploading", more_than=known + 1e-3)
            server.kill9()
        server = site.serve(port=server.port)
        sent = tus.offset(upload)
        assert acknowledged <= sent <= acknowledged + second
        if kill == 1:
            assert sent == acknowledged + second
    site.work()
    assert tus.patch(upload, sent, content[sent:]).status == 204
    assert_read_once(site, tus, upload, clip)
    assert attempts(site, upload) == 1


def test_a_worker_killed_in_mid_analysis_is_followed_by_one_that_finishes(
    site: Site, tus: Tus, worker: Process, clip: Clip
) -> None:
    upload = tus.upload(clip.content, NAMED)
    tus.wait_for_job(upload, "processing", more_than=0)
    worker.kill9()
    assert tus.job(upload)["status"] == "processing"
    assert not site.results()
    site.work()
    assert_read_once(site, tus, upload, clip)
    assert attempts(site, upload) == 2


def test_server_worker_and_redis_killed_at_once_in_mid_analysis_finish_after_a_restart(
    site: Site, server: Server, worker: Process, clip: Clip
) -> None:
    tus = Tus(server.port)
    unfinished = tus.create(len(clip.content), NAMED)
    acknowledged = tus.patch(unfinished, 0, clip.content[:MIB]).offset
    upload = tus.upload(clip.content, NAMED)
    tus.wait_for_job(upload, "processing", more_than=0)
    worker.kill9()
    server.kill9()
    site.kill_redis()
    site.work()
    site.serve(port=server.port)
    assert_read_once(site, tus, upload, clip)
    assert tus.offset(unfinished) == acknowledged == MIB


def test_everything_killed_and_redis_emptied_in_mid_upload_goes_on_from_the_files_alone(
    site: Site, server: Server, clip: Clip
) -> None:
    tus, content = Tus(server.port), clip.content
    upload = tus.create(len(content), NAMED)
    acknowledged = tus.patch(upload, 0, content[:MIB]).offset
    server.kill9()
    site.kill_redis()
    for path in (site.uploads / "redis").glob("appendonlydir/*"):
        path.unlink()
    server = site.serve(port=server.port)
    assert tus.offset(upload) == acknowledged
    site.work()
    assert tus.patch(upload, acknowledged, content[acknowledged:]).status == 204
    assert_read_once(site, tus, upload, clip)


@pytest.mark.parametrize("redis_dies_too", [False, True])
def test_a_server_killed_right_after_the_last_byte_still_gets_its_job_done(
    site: Site, server: Server, clip: Clip, *, redis_dies_too: bool
) -> None:
    tus = Tus(server.port)
    upload = tus.upload(clip.content, NAMED)
    server.kill9()
    if redis_dies_too:
        site.kill_redis()
    site.work()
    site.serve(port=server.port)
    assert_read_once(site, tus, upload, clip)
    assert attempts(site, upload) == 1


def test_a_redis_killed_alone_is_answered_for_and_started_again(
    site: Site, server: Server, tus: Tus
) -> None:
    upload = tus.create(2 * MIB, NAMED)
    assert tus.patch(upload, 0, bytes(MIB)).offset == MIB
    with nobody_starts_redis(site):
        site.kill_redis()
        created, asked = tus.post(1), tus.head(upload)
        assert created.status == 503
        assert int(created.headers["retry-after"]) > 0
        # Anything else of the kind of 503 would make clients begin anew.
        assert asked.status == 423
        assert tus.patch(upload, MIB, bytes(MIB)).status == 503
        assert tus.request("GET", "/health").status == 200
        assert tus.request("GET", "/ready").status == 503
    eventually(lambda: tus.head(upload).status == 200, "offset after Redis came back")
    assert tus.offset(upload) == MIB
    assert tus.patch(upload, MIB, bytes(MIB)).status == 204
    assert server.running
