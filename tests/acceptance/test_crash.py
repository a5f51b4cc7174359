"""What is killed without a warning goes on: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from storage import redis_schema as schema
from tests.acceptance.process import DEADLINE, Process, eventually, is_dead, wait_until_let_go
from tests.acceptance.proxy import Proxy
from tests.acceptance.raw import Tus, plates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.conftest import Clip
    from tests.acceptance.process import Server, Site

MIB = 2**20
NO_VIDEO = "File must be a video (mp4, avi, mov, mkv, webm, flv)"
NAMED = {"filename": "cars.mp4", "filetype": "video/mp4"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def attempts(site: Site, upload: str) -> int:
    """Return how often a worker began with the job of an upload."""
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
        return int(client.hget(schema.job_key(upload.rpartition("/")[2]), "attempt") or 0)


def assert_read_once(site: Site, tus: Tus, upload: str, clip: Clip) -> None:
    """Wait for the job's end: there has to be one result, and it has to be right."""
    assert tus.wait_for_job(upload)["status"] == "completed"
    assert plates(tus.result(upload)) == clip.plates
    assert site.results() == [f"{upload.rpartition('/')[2]}.json"]
    assert digest(site.stored(upload).read_bytes()) == digest(clip.content)


@contextmanager
def nobody_reaches_the_queue(site: Site) -> Iterator[None]:
    """Have Redis refuse every key of RQ: an upload can end, but not become a job of the queue."""
    with redis.Redis.from_url(site.redis_url) as client:
        client.execute_command("ACL SETUSER", "default", "resetkeys", "~tusd:*")
        yield
        client.execute_command("ACL SETUSER", "default", "allkeys")


@contextmanager
def nobody_starts_redis(site: Site) -> Iterator[None]:
    """Hold the lock that whoever starts the private Redis has to take."""
    with (site.uploads / "redis" / "change.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_server_killed_in_mid_upload_goes_on_from_the_offset_and_the_job_runs_once(
    site: Site, clip: Clip
) -> None:
    dice = random.Random(20)  # noqa: S311  no secret
    server = site.serve(CHUNK_SIZE="16384")
    content, tus = clip.content, Tus(server.port)
    upload = tus.create(len(content), NAMED)
    stored = 0
    for kill_when in ("sent", "written", "told", "written", "told", "sent"):
        acknowledged = stored + dice.randrange(1, MIB // 3)
        assert tus.patch(upload, stored, content[stored:acknowledged]).offset == acknowledged
        sent = acknowledged + dice.randrange(MIB // 16, MIB // 3)
        with tus.begin_patch(upload, acknowledged, len(content) - acknowledged) as stalled:
            stalled.send(content[acknowledged:sent])
            if kill_when == "written":
                file = site.stored(upload)
                eventually(lambda: file.stat().st_size > acknowledged, "bytes in the file")  # noqa: B023  called here
            if kill_when == "told":
                known = acknowledged / len(content)
                tus.wait_for_job(upload, "uploading", more_than=known + 1e-4)
            server.kill9()
        server = site.serve(port=server.port, CHUNK_SIZE="16384")
        stored = tus.offset(upload)
        # What somebody was told is kept, be it only who watches and not the client.
        assert (sent if kill_when == "told" else acknowledged) <= stored <= sent
    site.work()
    assert tus.patch(upload, stored, content[stored:]).status == 204
    assert_read_once(site, tus, upload, clip)
    assert attempts(site, upload) == 1


def test_a_client_whose_server_is_killed_goes_on_by_itself_and_prints_the_plates(
    site: Site, server: Server, clip: Clip
) -> None:
    site.work()
    with Proxy(server.port, after=2 * MIB, then="hold") as proxy:
        words: list[str | Path] = ["upload", "--json", "--url", proxy.url, clip.path]
        client = site.run("upload", *words, kind=Process)
        assert proxy.reached.wait(DEADLINE)
        [journal] = site.uploads.glob("*.log")
        Tus(server.port).wait_for_job(f"/files/{journal.stem}", "uploading", more_than=0)
        server.kill9()
        server = site.serve(port=server.port)
        assert client.wait() == 0, client.log
    client.wait_for(r"resuming at [1-9]")
    document = json.loads(client.wait_for(r"(?m)^\{.*\}$")[0])
    assert plates(document) == clip.plates
    assert document["job_id"] == journal.stem
    assert len(list(site.uploads.glob("*.log"))) == 1


def test_a_worker_killed_in_mid_analysis_is_followed_by_one_that_finishes(
    site: Site, tus: Tus, worker: Process, clip: Clip
) -> None:
    upload = tus.upload(clip.content, NAMED)
    tus.wait_for_job(upload, "processing", more_than=0)
    [work_horse] = worker.children()
    worker.kill9()
    eventually(lambda: is_dead(work_horse), "death of the work horse")
    # It died with its worker: else it would have ended its work first, and the job run twice.
    assert not site.results()
    assert tus.job(upload)["status"] == "processing"
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


def test_everything_killed_and_redis_emptied_goes_on_from_the_files_alone(
    site: Site, server: Server
) -> None:
    tus = Tus(server.port)
    unfinished = tus.create(2 * MIB)
    acknowledged = tus.patch(unfinished, 0, bytes(MIB)).offset
    finished = tus.upload(bytes(MIB))
    server.kill9()
    site.kill_redis()
    for path in (site.uploads / "redis").glob("appendonlydir/*"):
        path.unlink()
    site.serve(port=server.port)
    assert tus.offset(unfinished) == acknowledged
    assert tus.patch(unfinished, acknowledged, bytes(MIB)).status == 204
    site.work()
    for upload in (unfinished, finished):
        assert tus.wait_for_job(upload)["message"] == NO_VIDEO
        assert attempts(site, upload) == 1


@pytest.mark.parametrize("redis_dies_too", [False, True])
def test_a_server_killed_between_last_byte_and_queue_leaves_a_job_that_a_worker_alone_finds(
    site: Site, server: Server, *, redis_dies_too: bool
) -> None:
    tus = Tus(server.port)
    with nobody_reaches_the_queue(site):
        upload = tus.upload(bytes(MIB))
        assert tus.wait_for_job(upload, "pending")
        server.kill9()
    if redis_dies_too:
        site.kill_redis()
    site.work().wait_for(r"job\.failed")
    site.serve(port=server.port)
    assert tus.wait_for_job(upload)["message"] == NO_VIDEO
    assert attempts(site, upload) == 1


def test_a_redis_killed_alone_is_answered_for_and_started_again(
    site: Site, server: Server, tus: Tus
) -> None:
    upload = tus.create(2 * MIB, NAMED)
    assert tus.patch(upload, 0, bytes(MIB)).offset == MIB
    # Of this one nobody here has anything at hand.
    other = tus.create(1)
    wait_until_let_go(site.stored(other))
    with nobody_starts_redis(site):
        site.kill_redis()
        created, asked = tus.post(1), tus.head(other)
        assert created.status == 503
        assert int(created.headers["retry-after"]) > 0
        # Anything else of the kind of 503 would make clients begin anew.
        assert asked.status == 423
        assert tus.patch(upload, MIB, bytes(MIB)).status == 503
        assert tus.request("GET", "/health").status == 200
        assert tus.request("GET", "/ready").status == 503
    eventually(lambda: tus.head(upload).status == 200, "offset after Redis came back")
    # What was refused may be on the disk all the same.
    offset = tus.offset(upload)
    assert offset in {MIB, 2 * MIB}
    assert tus.patch(upload, offset, bytes(2 * MIB - offset)).status == 204
    assert server.running
