"""A server that was paused in the middle of a body, and wakes when another has the upload."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from redis import Redis

from storage import redis_schema as schema
from tests.acceptance.crowd import digest
from tests.acceptance.process import DEADLINE, Server, Site, eventually
from tests.acceptance.raw import Response, Tus

MIB = 2**20
LENGTH = 24 * MIB
PIECE = 32 * 1024


@pytest.fixture
def servers(site: Site) -> tuple[Server, Server]:
    """Run two servers on one directory."""
    return site.serve(), site.serve()


class Sleeper:
    """A client of a server that will be paused: it sends the end of its body only after that."""

    def __init__(self, server: Server, upload: str, content: bytes) -> None:
        self._server = server
        self._upload = upload
        self._content = content
        self._awake = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._answer = self._pool.submit(self._send)

    def _send(self) -> Response | None:
        with Tus(self._server.port).begin_patch(self._upload, 0, LENGTH) as connection:
            with suppress(ConnectionError):
                for start in range(0, LENGTH, PIECE):
                    if start + PIECE >= LENGTH:
                        assert self._awake.wait(DEADLINE)
                    connection.send(self._content[start : start + PIECE])
            with suppress(ConnectionError):
                return connection.final()
        return None

    def finish(self) -> Response | None:
        """Send what is left, and return the answer, or None where the connection ended."""
        self._awake.set()
        answer = self._answer.result(DEADLINE)
        self._pool.shutdown()
        return answer


def take_over_from_a_sleeper(
    site: Site, sleeping: Server, other: Server, dice: random.Random, *, expires: bool
) -> None:
    """Pause a server in mid-body, go on at another one, and wake it."""
    theirs, ours = dice.randbytes(LENGTH), dice.randbytes(LENGTH)
    tus = Tus(other.port)
    upload = tus.create(LENGTH)
    sleeper = Sleeper(sleeping, upload, theirs)
    least, stored = dice.randrange(LENGTH // 2), site.stored(upload)
    eventually(lambda: stored.stat().st_size >= least or None, f"{least} bytes")
    # At any point of its loop.
    time.sleep(dice.random() / 100)
    sleeping.signal(signal.SIGSTOP)
    try:
        if not expires:
            with Redis.from_url(site.redis_url) as client:
                client.delete(schema.lock_key(upload.rpartition("/")[2]))
        eventually(lambda: tus.head(upload).status == 200, "lock of a holder that sleeps")
        at = tus.offset(upload)
        middle = dice.randrange(at, LENGTH)
        assert tus.patch(upload, at, ours[at:middle]).offset == middle
    finally:
        sleeping.signal(signal.SIGCONT)
    answer = sleeper.finish()
    assert answer is None or answer.status in {409, 423, 503}, answer
    assert Tus(sleeping.port).offset(upload) == tus.offset(upload) == middle
    assert tus.patch(upload, middle, ours[middle:]).status == 204
    found = tus.request("GET", upload).body
    assert digest(found) == digest(theirs[:at] + ours[at:])


def test_a_holder_that_slept_until_its_lease_ran_out_changes_no_byte(
    site: Site, servers: tuple[Server, Server]
) -> None:
    dice = random.Random(1)  # noqa: S311  no secret
    take_over_from_a_sleeper(site, *servers, dice, expires=True)


def test_a_holder_whose_lock_was_forgotten_in_its_sleep_changes_no_byte(
    site: Site, servers: tuple[Server, Server]
) -> None:
    for seed in range(3):
        dice = random.Random(seed)  # noqa: S311  no secret
        take_over_from_a_sleeper(site, *servers, dice, expires=False)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_holder_that_slept_changes_no_byte_for_minutes(
    site: Site, servers: tuple[Server, Server]
) -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        dice = random.Random(seed)  # noqa: S311  no secret
        take_over_from_a_sleeper(site, *servers, dice, expires=seed % 8 == 0)
        seed += 1
