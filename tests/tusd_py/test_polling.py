"""A poller is answered when there is news, when its time is up, and when nobody can wait longer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request

from tusd_py.headers import Headers
from tusd_py.polling import Polling, Together, parse_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
LONG = 60.0


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["wait=10"], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "Wait = 10"], 10),
        (['wait="10"'], 10),
        (["wait=10; foo=bar, wait=20"], 10),
        (["wait=3600"], 60),
        (["wait=0"], 0),
        (["wait"], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
        (["wait=\u0663"], 0),
        (["await=10"], 0),
        ([], 0),
    ],
)
def test_prefer_wait_is_read_as_in_rfc_7240(lines: list[str], seconds: int) -> None:
    assert parse_wait(Headers((b"prefer", line.encode()) for line in lines)) == seconds


class Bell:
    """Stand for what watches one job."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()


@dataclass(slots=True)
class Place:
    """One job, who watches it, and a client that asks."""

    bell: Bell = field(default_factory=Bell)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    state: str = "old"
    watched: int = 0

    @asynccontextmanager
    async def of(self, job_id: str) -> AsyncIterator[Bell]:
        assert job_id == "job"
        self.watched += 1
        yield self.bell
        self.watched -= 1

    async def look(self) -> str:
        self.waiting.set()
        return self.state

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def poll(self, polling: Polling, seconds: float = LONG) -> asyncio.Task[str]:
        request = Request({"type": "http", "method": "GET", "headers": []}, self.receive)
        return asyncio.create_task(
            polling.until("job", self.look, lambda state: state != "old", seconds, request)
        )


async def test_news_are_told_when_the_watch_wakes_and_other_changes_are_not() -> None:
    place = Place()
    poll = place.poll(Polling(place))
    await place.waiting.wait()
    place.waiting.clear()
    place.bell.ring()
    await place.waiting.wait()
    assert not poll.done()
    place.state = "new"
    place.bell.ring()
    assert await poll == "new"
    assert place.watched == 0


async def test_what_changed_before_the_watch_began_is_told_at_once() -> None:
    place = Place(state="new")
    assert await place.poll(Polling(place)) == "new"


async def test_after_its_time_a_poller_is_told_what_was() -> None:
    place = Place()
    assert await place.poll(Polling(place), seconds=0.01) == "old"


async def test_a_server_that_ends_answers_who_waits_and_who_comes() -> None:
    place = Place()
    polling = Polling(place)
    poll = place.poll(polling)
    await place.waiting.wait()
    polling.stop()
    assert await poll == "old"
    assert await place.poll(polling) == "old"


async def test_a_client_that_went_away_is_not_waited_for() -> None:
    place = Place()
    poll = place.poll(Polling(place))
    await place.waiting.wait()
    place.gone.set()
    assert await poll == "old"
    assert place.watched == 0


async def test_what_many_ask_at_once_is_read_once_and_after_they_asked() -> None:
    begun: list[str] = []
    may_end = asyncio.Event()

    async def read(key: str) -> int:
        begun.append(key)
        await may_end.wait()
        return len(begun)

    together = Together(read)
    first = [asyncio.create_task(together.read("job")) for _ in range(3)]
    while not begun:
        await asyncio.sleep(0)
    # What is on its way may have been read before this one asks.
    late = asyncio.create_task(together.read("job"))
    other = asyncio.create_task(together.read("other"))
    first[0].cancel()
    while len(begun) < 3:
        await asyncio.sleep(0)
    may_end.set()
    assert begun == ["job", "job", "other"]
    assert await asyncio.gather(*first[1:], late, other) == [3, 3, 3, 3]


async def test_an_error_is_everybodys() -> None:
    async def read(key: str) -> int:
        raise LookupError(key)

    together = Together(read)
    asking = [asyncio.create_task(together.read("job")) for _ in range(2)]
    for task in asking:
        with pytest.raises(LookupError, match="job"):
            await task
