"""What many clients at once may take, and clients that do nothing: files, connections, room."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import Server, Site, eventually
from tests.acceptance.raw import TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost:"


def serve_with_files(site: Site, limit: str) -> Server:
    """Start a server under a limit of open files, as `ulimit` sets it."""
    command = [sys.executable, "-m", "tusd_py", "serve"]
    words = ["bash", "-c", f'ulimit {limit} && exec "$@"', "-", *command]
    return site.run_python("serve", words, kind=Server, PORT="0").listen()


@pytest.fixture
def many_files() -> Iterator[int]:
    """Let this process have as many files open as it can; yield how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def idle(port: int, count: int) -> Iterator[None]:
    """Hold so many connections open that have begun to say something, and go no further."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(Connection(port)).send(HALF_A_HEAD)
        yield


def test_as_many_files_as_the_system_allows_may_be_open(site: Site) -> None:
    server = serve_with_files(site, "-Sn 300")
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    found = re.search(r"Max open files +(\d+) +(\d+)", limits)
    assert found
    assert int(found[1]) == int(found[2]) > 300


def test_idle_connections_beyond_all_limits_keep_nobody_out(site: Site) -> None:
    server = serve_with_files(site, "-n 200")
    server.wait_for("files.few.*200")
    with idle(server.port, 300):
        tus = Tus(server.port)
        path = tus.upload(b"bytes")
        assert tus.offset(path) == 5
    assert server.log.count("connections.full") == 1
    assert "Traceback" not in server.log


def test_watchers_beyond_all_limits_keep_nobody_from_uploading(site: Site) -> None:
    server = serve_with_files(site, "-n 200")
    tus = Tus(server.port)
    job = tus.create(10).rpartition("/")[2]
    with ExitStack() as opened:
        for _ in range(300):
            watcher = opened.enter_context(Connection(server.port))
            watcher.begin("GET", f"/jobs/{job}/events", {})
            # The newest is let in: the oldest make place.
            assert b" 200 " in watcher._until(b"\r\n\r\n")
        path = tus.upload(b"bytes")
        assert tus.offset(path) == 5
    assert "Traceback" not in server.log


def test_five_thousand_idle_connections_are_in_nobodys_way(
    server: Server, tus: Tus, many_files: int
) -> None:
    count = min(5_000, many_files // 2)
    with idle(server.port, count):
        path = tus.upload(bytes(MIB))
        assert tus.offset(path) == MIB
        # None was sent away for it.
        files = Path(f"/proc/{server.pid}/fd")
        eventually(lambda: sum(1 for _ in files.iterdir()) >= count, "all the connections")
    assert "connections.full" not in server.log


def test_two_hundred_bodies_in_flight_are_cut_where_they_can_go_on(
    site: Site, server: Server, tus: Tus
) -> None:
    paths = [tus.create(2 * MIB) for _ in range(200)]
    with ExitStack() as opened:
        writers = [opened.enter_context(tus.begin_patch(path, 0, 2 * MIB)) for path in paths]
        for writer in writers:
            writer.send(bytes(10_000))
        for path in paths:
            eventually(lambda: site.stored(path).stat().st_size, "first bytes")  # noqa: B023
        server.terminate()
        answers = [writer.receive() for writer in writers]
    assert {answer.status for answer in answers} <= {423, 503}
    assert server.wait() == 0
    # What uvicorn says where somebody has not ended in time.
    assert "timeout graceful shutdown exceeded" not in server.log
    again = Tus(site.serve(port=server.port).port)
    offsets = [answer.offset for answer in answers]
    assert [again.offset(path) for path in paths] == offsets
    assert all(0 < offset <= 10_000 for offset in offsets)


@pytest.mark.parametrize(
    "headers",
    [{**TUS, "Upload-Length": "5"}, {"Upload-Complete": "?0"}],
    ids=["tus", "ietf"],
)
def test_a_creation_below_the_floor_of_free_space_is_told_what_is_free(
    site: Site, headers: dict[str, str]
) -> None:
    tus = Tus(site.serve(MIN_FREE_BYTES=str(2**60)).port)
    answer = tus.request("POST", "/files/", headers)
    assert answer.status == 507
    assert re.search(rb"the disk has no room: \d+ bytes are free", answer.body)
