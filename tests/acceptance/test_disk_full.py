"""A disk that is full or fails: what is told stays true, and room is all it takes to go on."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from storage.embedded import Embedded
from tests.acceptance.crowd import Crowd, digest
from tests.acceptance.process import Server, Site, eventually
from tests.acceptance.raw import TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.powercut import Disk

MIB = 2**20
ROOM = 24 * MIB


@pytest.fixture
def site(new_site: Callable[..., Site], disk: Disk) -> Site:
    """Keep uploads, and the Redis beside them, on the disk that will be full."""
    site = new_site(KEEP_UPLOADS_SECONDS="-1")
    site.uploads = disk.place / "data"
    return site


def is_refused(tus: Tus, path: str, at: int, body: bytes) -> bool:
    """Send more than there is room for, and read the refusal, which does not wait for all of it."""
    with tus.begin_patch(path, at, len(body)) as connection:
        with suppress(ConnectionError):
            connection.send(body)
        return connection.final().status == 507


def goes_on(tus: Tus, path: str, content: bytes) -> None:
    """Send what is left of an upload, and read all of it."""
    eventually(lambda: tus.head(path).status == 200, "offset")
    at = tus.offset(path)
    eventually(lambda: tus.patch(path, at, content[at:]).status == 204, "room")
    assert digest(tus.request("GET", path).body) == digest(content)


def test_a_creation_below_the_floor_is_refused_with_what_is_free(
    disk: Disk, server: Server
) -> None:
    tus = Tus(server.port)
    begun = tus.create(10)
    disk.limit(disk.used + 5 * MIB)
    answer = tus.post(10)
    assert answer.status == 507
    assert b"bytes are free" in answer.body
    assert tus.request("GET", "/ready").status == 503
    # No byte of an upload goes below it either.
    assert tus.patch(begun, 0, bytes(10)).status == 507
    assert tus.offset(begun) == 0
    disk.limit(disk.used + ROOM)
    assert tus.post(10).status == 201
    goes_on(tus, begun, bytes(10))


@pytest.mark.parametrize("floor", ["16777216", "0"])
def test_a_disk_that_is_full_in_mid_body_keeps_what_fitted_and_tells_it(
    disk: Disk, site: Site, floor: str
) -> None:
    server = site.serve(MIN_FREE_BYTES=floor)
    tus, content = Tus(server.port), os.urandom(ROOM + 8 * MIB)
    path = tus.create(len(content))
    disk.limit(disk.used + ROOM)
    assert is_refused(tus, path, 0, content)
    head = eventually(lambda: it if (it := tus.head(path)).status in {200, 423} else None, "answer")
    if floor != "0":
        # What is left belongs to the server, which goes on as ever.
        assert head.status == 200
        assert 0 < head.offset <= ROOM
        assert tus.request("GET", "/health").status == 200
    disk.limit(2**40)
    told = eventually(lambda: it if (it := tus.head(path)).status == 200 else None, "offset")
    assert told.offset >= (head.offset if head.status == 200 else 0)
    goes_on(tus, path, content)
    assert server.running


def test_a_full_disk_leaves_room_for_removals_which_make_more(disk: Disk, server: Server) -> None:
    tus, content = Tus(server.port), os.urandom(8 * MIB)
    # What it takes, and what is left then, is more than the floor.
    old = tus.upload(os.urandom(ROOM))
    path = tus.create(len(content))
    disk.limit(disk.used + 2 * MIB)
    assert is_refused(tus, path, 0, content)
    assert tus.delete(old).status == 204
    goes_on(tus, path, content)


def test_a_redis_that_cannot_write_is_one_that_runs(disk: Disk) -> None:
    place = disk.place / "redis"
    with Embedded(place) as first, Redis.from_url(first.url) as client:
        disk.limit(disk.used)
        eventually(lambda: not _writes(client), "disk that is full")
        # Nobody waits for it, at start or at the end, as for one that is not there yet.
        with Embedded(place, deadline=5) as second:
            second.ensure()
        disk.limit(2**40)
        eventually(lambda: _writes(client), "room")


def _writes(client: Redis) -> bool:
    with suppress(ResponseError):
        client.set("key", bytes(10_000))
        return True
    return False


def test_a_thousand_empty_creations_take_no_room_for_what_they_declare(
    new_site: Callable[..., Site],
) -> None:
    site = new_site()
    tus = Tus(site.serve().port)
    with Connection(tus.port) as connection:
        for _ in range(1000):
            headers = {**TUS, "Upload-Length": "500000000"}
            assert connection.request("POST", "/files/", headers).status == 201
    data = [path for path in site.uploads.glob("*") if len(path.name) == 36]
    assert len(data) == 1000
    assert sum(path.stat().st_blocks for path in data) == 0
    journals = sum(path.stat().st_blocks * 512 for path in site.uploads.glob("*.log"))
    assert journals <= 1000 * 16 * 1024


def test_a_sync_that_fails_costs_nothing_that_was_told(disk: Disk, site: Site) -> None:
    server = site.serve()
    tus, content = Tus(server.port), os.urandom(3 * MIB)
    path = tus.create(len(content))
    told = tus.patch(path, 0, content[:MIB]).offset
    disk.fail_syncs(1)
    eventually(lambda: disk.failing == 0 or tus.patch(path, told, content[told : 2 * MIB]), "sync")
    told = max(told, tus.offset(path))
    server.kill9()
    site.kill_redis()
    disk.cut(None)
    tus = Tus(site.serve(port=server.port).port)
    assert tus.offset(path) >= told
    goes_on(tus, path, content)


def fill_and_fail(disk: Disk, site: Site, seed: int, times: int) -> None:
    """Let a crowd upload while there is room, then none, while writes and syncs fail."""
    dice = random.Random(seed)  # noqa: S311  no secret
    server = site.serve()
    with Crowd([server.port], seed) as crowd:
        for _ in range(times):
            crowd.wait_for(dice.randrange(30))
            disk.limit(disk.used + dice.randrange(20 * MIB))
            disk.fail_syncs(dice.choice([0, 1, 5]))
            disk.fail_writes(dice.choice([0, 1, 5]))
            time.sleep(dice.random() / 5)
            crowd.check()
            disk.fail_syncs(0)
            disk.fail_writes(0)
            disk.limit(2**40)
        server.kill9()
        site.kill_redis()
        disk.cut(seed)
        server = site.serve(port=server.port)
        assert crowd.finish()


def test_nothing_acknowledged_is_lost_where_the_disk_is_full_or_fails_at_times(
    disk: Disk, site: Site
) -> None:
    fill_and_fail(disk, site, 1, 6)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_nothing_acknowledged_is_lost_where_the_disk_is_full_or_fails_for_minutes(
    disk: Disk, site: Site
) -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        fill_and_fail(disk, site, seed, 20)
        for process in site.processes:
            process.stop()
        seed += 1
