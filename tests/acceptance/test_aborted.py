"""Clients that vanish leave nothing open; those who wait for a stalled one interrupt it once."""

from __future__ import annotations

import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.model import Dialect
from tests.acceptance.process import Site, eventually
from tests.acceptance.raw import Connection, Tus

if TYPE_CHECKING:
    from tests.acceptance.process import Server

MIB = 2**20
LENGTH = 200_000


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def idle(server: Server) -> int:
    """Return how many files are open once nothing is at hand any more of what was uploaded."""
    place = Path(f"/proc/{server.pid}/fd")

    def look() -> int | None:
        with suppress(FileNotFoundError):
            names = [one.readlink().name for one in place.iterdir()]
            return None if any(name.endswith(".log") for name in names) else len(names)
        return None

    return eventually(look, "end of what is kept at hand")


def memory(server: Server) -> int:
    """Return the memory that a server has now, in bytes (proc(5), VmRSS)."""
    found = re.search(
        r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE
    )
    assert found
    return int(found[1]) * 1024


def abort(port: int, dice: random.Random) -> None:
    """Create an upload, begin to send it, and vanish: in the head, in the body or behind it."""
    dialect = Dialect(dice.choice([None, 8]))
    body = bytes(dice.choice([0, 1, 1000, 100_000]))
    sized = {"Content-Length": str(LENGTH)}
    with Connection(port) as connection, suppress(ConnectionError):
        if dice.random() < 0.3:
            headers = dialect.create(LENGTH, ends=False) | sized
            connection.begin("POST", "/files/", headers)
        else:
            made = connection.request("POST", "/files/", _empty(dialect))
            path = made.headers["location"]
            connection.begin("PATCH", path, dialect.append(0, ends=False) | sized)
        connection.send(body)
        if dice.random() < 0.5:
            connection.reset()


def _empty(dialect: Dialect) -> dict[str, str]:
    made = dialect.create(LENGTH, ends=False)
    return {name: value for name, value in made.items() if name != "Content-Type"}


def abort_many(server: Server, count: int, seed: int) -> None:
    """Abort so many uploads, a few at a time, and wait until all of them were let go of."""
    # A few more connections to Redis may be kept.
    before = idle(server) + 16
    with ThreadPoolExecutor(8) as pool:
        dice = [random.Random(1000 * seed + number) for number in range(count)]  # noqa: S311  no secret
        list(pool.map(lambda one: abort(server.port, one), dice))
    eventually(lambda: open_files(server) <= before, f"no more than {before} open files")


def test_aborted_uploads_leave_nothing_open(server: Server) -> None:
    Tus(server.port).upload(bytes(LENGTH))
    abort_many(server, 20, 0)
    used = memory(server)
    abort_many(server, 300, 1)
    assert memory(server) < used + 16 * MIB


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_aborted_uploads_leave_nothing_open(server: Server) -> None:
    seed = int(os.environ["SOAK_SEED"])
    abort_many(server, 2_000, seed)
    used = memory(server)
    abort_many(server, 10_000, seed + 1)
    assert memory(server) < used + 16 * MIB


@pytest.mark.parametrize("elsewhere", [False, True])
def test_ten_who_ask_for_a_stalled_upload_are_all_answered_and_interrupt_it_once(
    site: Site, server: Server, *, elsewhere: bool
) -> None:
    other = site.serve() if elsewhere else server
    tus = Tus(other.port)
    path = Tus(server.port).create(LENGTH)
    with Tus(server.port).begin_patch(path, 0, LENGTH) as stalled:
        stalled.send(bytes(1000))
        eventually(lambda: site.stored(path).stat().st_size >= 1000 or None, "bytes in the file")
        with ThreadPoolExecutor(10) as pool:
            answers = [*pool.map(tus.head, [path] * 10)]
        # All of them were answered before the client that stalled sent another byte.
        answer = stalled.final()
    assert [(one.status, one.offset) for one in answers] == [(200, 1000)] * 10
    assert (answer.status, answer.offset) == (423, 1000)
    assert tus.patch(path, 1000, bytes(LENGTH - 1000)).status == 204
