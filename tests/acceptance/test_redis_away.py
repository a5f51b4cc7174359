"""While Redis is dead or stands still everything is answered, and what arrives is kept."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from storage.embedded import Embedded
from tests.acceptance.crowd import digest
from tests.acceptance.process import eventually
from tests.acceptance.raw import TUS, Connection, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.process import Site

MIB = 2**20


class Away:
    """A Redis that is taken away, and comes back."""

    def __init__(self, redis: Embedded, how: str) -> None:
        self._redis = redis
        self._how = how
        self._pid = 0

    @property
    def url(self) -> str:
        return self._redis.url

    def go(self) -> None:
        with Redis.from_url(self.url) as client:
            self._pid = client.info("server")["process_id"]
        os.kill(self._pid, signal.SIGSTOP if self._how == "stopped" else signal.SIGKILL)

    def come_back(self) -> None:
        if self._how == "stopped":
            os.kill(self._pid, signal.SIGCONT)
        self._redis.ensure()


@pytest.fixture(params=["stopped", "killed"])
def redis(request: pytest.FixtureRequest, new_site: Callable[..., Site]) -> Iterator[Away]:
    with Embedded(new_site().directory / "redis") as embedded:
        away = Away(embedded, request.param)
        yield away
        if away._pid:
            away.come_back()


def is_sent_away(answer: Response) -> bool:
    """Tell whether a client is asked to come again, without a word of what ails us."""
    assert b"Traceback" not in answer.body
    return answer.status == 503 and int(answer.headers["retry-after"]) > 0


def test_everything_is_answered_while_redis_is_away_and_goes_on_when_it_is_back(
    redis: Away, new_site: Callable[..., Site]
) -> None:
    site = new_site(REDIS_URL=redis.url, KEEP_UPLOADS_SECONDS="-1")
    first, second = site.serve(), site.serve()
    tus, content = Tus(first.port), os.urandom(4 * MIB)
    begun = tus.create(len(content))
    # Of these the other server has something at hand, and this one nothing.
    others = [Tus(second.port).create(10) for _ in range(4)]
    with tus.begin_patch(begun, 0, len(content)) as stalled:
        stalled.send(content[:MIB])
        eventually(lambda: site.stored(begun).stat().st_size >= MIB or None, "bytes in the file")
        redis.go()
        for _ in range(20):
            # Who goes away meanwhile leaves nothing behind either.
            with Connection(tus.port) as gone:
                gone.begin("HEAD", others[0], TUS)
        with ThreadPoolExecutor(110) as pool:
            ready = pool.submit(tus.request, "GET", "/ready")
            head = pool.submit(tus.head, others[0])
            refused = [
                pool.submit(tus.post, 10),
                pool.submit(tus.patch, others[1], 0, bytes(10)),
                pool.submit(tus.delete, others[2]),
                pool.submit(tus.request, "GET", f"/jobs/{others[3].rpartition('/')[2]}"),
            ]
            many = [pool.submit(tus.post, 10) for _ in range(100)]
            assert head.result().status == 423
            assert all(is_sent_away(one.result()) for one in (*refused, *many))
            # Who asks whether all is well is not kept longer than who asks twice for something.
            assert is_sent_away(tus.post(10))
            assert ready.done()
        assert ready.result().status == 503
        assert tus.request("GET", "/health").status == 200
        # A body in flight goes on, or ended with what had come.
        with suppress(ConnectionError):
            stalled.send(content[MIB : 2 * MIB])
        redis.come_back()
    eventually(lambda: tus.head(begun).status == 200, "offset")
    assert MIB <= tus.offset(begun) <= 2 * MIB
    at = tus.offset(begun)
    eventually(lambda: tus.patch(begun, at, content[at:]).status == 204, "end of the upload")
    assert digest(tus.request("GET", begun).body) == digest(content)
    for one in others:
        eventually(lambda: Tus(second.port).head(one).status in {200, 410}, "answer")  # noqa: B023  called here
    assert first.running
    assert second.running


def test_a_body_that_ends_while_redis_is_away_is_answered_and_all_of_it_is_kept(
    redis: Away, new_site: Callable[..., Site]
) -> None:
    site = new_site(REDIS_URL=redis.url)
    tus, content = Tus(site.serve().port), os.urandom(2 * MIB)
    path = tus.create(len(content) + 1)
    with tus.begin_patch(path, 0, len(content)) as connection:
        connection.send(content[:MIB])
        eventually(lambda: site.stored(path).stat().st_size >= MIB or None, "bytes in the file")
        redis.go()
        connection.send(content[MIB:])
        assert is_sent_away(connection.final())
    redis.come_back()
    eventually(lambda: tus.head(path).status == 200, "offset")
    assert tus.offset(path) == len(content)
