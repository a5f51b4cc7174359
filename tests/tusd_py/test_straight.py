"""A body goes straight to its file behind what a parser has of it already."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.tusd_py.test_receiver import DEADLINE, MIB, Bodies, no_two_alike
from tusd_py import receiver
from tusd_py.exchange import BodyEnd
from tusd_py.straight import Straight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.tusd_py.test_receiver import Body


class Straights:
    """Begin bodies of which a parser has something already."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self.begun: list[Straight] = []

    def begin(self, body: Body, here: bytes, length: int, stall: float = DEADLINE) -> Straight:
        connection = body.ours.fileno()
        self.begun.append(
            Straight(self.bodies.receiver, connection, bytearray(here), length, stall)
        )
        return self.begun[-1]


@pytest.fixture
async def bodies(tmp_path: Path) -> AsyncIterator[Bodies]:
    bodies = Bodies(tmp_path)
    yield bodies
    await bodies.aclose()


@pytest.fixture
def straights(bodies: Bodies) -> Iterator[Straights]:
    straights = Straights(bodies)
    yield straights
    for straight in straights.begun:
        straight.close()


@pytest.mark.parametrize("here", [0, 5, 100_000, 300_000])
@pytest.mark.parametrize("limit", [7_000, 250_000, 10 * MIB])
async def test_what_is_here_comes_before_what_is_to_come(
    bodies: Bodies, straights: Straights, here: int, limit: int
) -> None:
    body, content = bodies.begin(), no_two_alike(400_000)
    straight = straights.begin(body, content[:here], len(content))
    body.send(content[here:] + b"next")
    ends = []
    while BodyEnd.DONE not in ends:
        before = body.sink.offset
        ends.append(await straight.move(body.sink, limit, body.stop))
        assert body.sink.offset - before <= limit
    assert set(ends) <= {BodyEnd.MORE, BodyEnd.DONE}
    await body.sending[0]
    assert body.ours.recv(100) == b"next"
    body.sink.commit(body.sink.upload)
    assert body.content == content


async def test_what_was_here_is_handed_on_by_the_pulse_though_nothing_follows(
    bodies: Bodies, straights: Straights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "_PULSE", 0.01)
    body = bodies.begin()
    straight = straights.begin(body, b"here", MIB)
    async with asyncio.timeout(DEADLINE / 2):
        assert await straight.move(body.sink, MIB, body.stop) is BodyEnd.MORE
    assert body.sink.offset == 4


async def test_a_body_that_ends_early_is_disconnected_and_one_that_stops_coming_stalls(
    bodies: Bodies, straights: Straights
) -> None:
    silent, gone = bodies.begin(), bodies.begin()
    straight = straights.begin(silent, b"", 3, stall=0.05)
    assert await straight.move(silent.sink, 3, silent.stop) is BodyEnd.STALLED
    gone.send(b"ab", then_close=True)
    straight = straights.begin(gone, b"", 3)
    assert await straight.move(gone.sink, 3, gone.stop) is BodyEnd.DISCONNECTED
    assert gone.sink.offset == 2


async def test_a_limit_of_nothing_finds_out_whether_there_is_more(
    bodies: Bodies, straights: Straights
) -> None:
    body = bodies.begin()
    straight = straights.begin(body, b"ab", 3)
    assert await straight.move(body.sink, 0, body.stop) is BodyEnd.MORE
    body.send(b"c")
    assert await straight.move(body.sink, 3, body.stop) is BodyEnd.DONE
    assert await straight.move(body.sink, 0, body.stop) is BodyEnd.DONE


async def test_the_connection_is_left_as_it_was(bodies: Bodies, straights: Straights) -> None:
    body = bodies.begin()
    straight = straights.begin(body, b"", MIB)
    body.send(b"x" * 300_000)
    assert await straight.move(body.sink, 300_000, body.stop) is BodyEnd.MORE
    straight.close()
    body.send(b"y")
    await body.sending[1]
    # One byte is enough again to wake whoever waits.
    await asyncio.get_running_loop().sock_recv(body.ours, 1)
    assert body.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
