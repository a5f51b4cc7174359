"""How much memory uploads take: large ones no more than small ones, many not much."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.process import eventually, rss_peak
from tests.acceptance.raw import Tus

if TYPE_CHECKING:
    from tests.acceptance.process import Server, Site

MB = 10**6
MIB = 2**20
# The default of MAX_FILE_SIZE: nothing larger is taken.
LARGE = 524_288_000
SMALL = 5 * MIB


def peak_after(server: Server, length: int) -> int:
    """Send an upload in one PATCH, remove it, and return the server's peak RSS in bytes."""
    tus, buffer = Tus(server.port), memoryview(bytes(MIB))
    upload = tus.create(length)
    with tus.begin_patch(upload, 0, length) as connection:
        for start in range(0, length, MIB):
            connection.send(buffer[: length - start])
        response = connection.receive()
    assert (response.status, response.offset) == (204, length)
    assert tus.delete(upload).status == 204
    return server.rss_peak()


def test_500_mb_leave_the_server_under_100_mb_and_within_16_mb_of_what_5_mb_leave(
    site: Site,
) -> None:
    small = peak_after(site.serve(), SMALL)
    large = peak_after(site.serve(), LARGE)
    assert large < 100 * MB
    assert large - small < 16 * MB


def test_server_and_redis_stay_under_80_mb_through_many_uploads_at_once(
    site: Site, server: Server, tus: Tus
) -> None:
    for _ in range(100):
        tus.upload(bytes(10_000))
    paths = [tus.create(4 * MIB) for _ in range(32)]
    with ExitStack() as opened:
        bodies = [opened.enter_context(tus.begin_patch(path, 0, 4 * MIB)) for path in paths]
        for _ in range(4):
            for body in bodies:
                body.send(bytes(MIB))
        assert {body.receive().status for body in bodies} == {204}
    redis = site.redis_pid()
    assert redis is not None
    assert server.rss_peak() + rss_peak(redis) < 80 * MB


def test_an_open_upload_takes_less_than_40_kb(server: Server, tus: Tus) -> None:
    count = 400
    tus.upload(bytes(10_000))
    before = server.rss_peak()
    paths = [tus.create(MIB) for _ in range(count)]
    with ExitStack() as opened:
        for path in paths:
            opened.enter_context(tus.begin_patch(path, 0, MIB)).send(bytes(1000))
        # Connection, file and journal of each.
        files = Path(f"/proc/{server.pid}/fd")
        eventually(lambda: sum(1 for _ in files.iterdir()) > 3 * count, "open files")
        assert server.rss_peak() - before < count * 40_000
