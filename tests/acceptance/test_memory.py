"""A large upload takes no more memory than a small one."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
