"""One connection, many commands: order, errors, and what happens when Redis goes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as Late

from storage import redis_schema as schema
from storage.errors import StoreUnavailable
from storage.redis_info import call
from storage.redis_wire import RedisWire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

pytestmark = pytest.mark.anyio
ECHO = "return ARGV[1]"
ADD = schema.Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run under both event loops."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[RedisWire]:
    wire = RedisWire(redis_url)
    yield wire
    await wire.aclose()


@asynccontextmanager
async def silent(path: Path) -> AsyncIterator[str]:
    """Run a server that takes commands and says nothing."""
    taken: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        with suppress(OSError):
            await reader.read()

    server = await asyncio.start_unix_server(take, path)
    try:
        yield f"unix://{path}"
    finally:
        for writer in taken:
            writer.close()
        server.close()


async def test_many_commands_at_once_get_each_its_own_answer(wire: RedisWire) -> None:
    said = [f"word {number}" for number in range(500)]
    assert await asyncio.gather(*(wire.eval(ECHO, 0, word) for word in said)) == said


async def test_a_script_that_the_server_does_not_know_is_sent_in_full(
    wire: RedisWire, redis: Redis
) -> None:
    await redis.script_flush()
    with pytest.raises(NoScriptError):
        await wire.evalsha(ADD.sha, 1, "sum", 1)
    assert await call(wire, ADD, ["sum"], [2]) == 2
    assert await call(wire, ADD, ["sum"], [3]) == 5


async def test_an_error_of_one_command_is_nobody_elses(wire: RedisWire, redis: Redis) -> None:
    await redis.set("text", "no hash")
    answers = await asyncio.gather(
        wire.eval(ECHO, 0, "before"),
        wire.hgetall("text"),
        wire.eval(ECHO, 0, "after"),
        return_exceptions=True,
    )
    assert answers[0] == "before"
    assert isinstance(answers[1], ResponseError)
    assert answers[2] == "after"


async def test_hashes_and_sets_are_read_as_redis_py_reads_them(
    wire: RedisWire, redis: Redis
) -> None:
    await redis.hset("hash", mapping={"name": "naïve", "size": "7"})
    await redis.sadd("set", "a", "b")
    assert await wire.hgetall("hash") == await redis.hgetall("hash")
    assert await wire.smembers("set") == await redis.smembers("set")
    assert await wire.hgetall("nothing") == {}


async def test_a_cancelled_command_takes_no_answer_from_another(wire: RedisWire) -> None:
    await wire.eval(ECHO, 0, "connected")
    first = asyncio.create_task(wire.eval(ECHO, 0, "first"))
    second = asyncio.create_task(wire.eval(ECHO, 0, "second"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "second"
    assert await wire.eval(ECHO, 0, "third") == "third"


async def test_a_connection_that_was_closed_is_made_again(wire: RedisWire, redis: Redis) -> None:
    assert await wire.eval(ECHO, 0, "one") == "one"
    await redis.client_kill_filter(_type="normal", skipme=True)
    assert await wire.eval(ECHO, 0, "two") == "two"


async def test_a_server_that_does_not_answer_is_given_up_and_asked_anew(tmp_path: Path) -> None:
    async with silent(tmp_path / "redis") as url:
        wire = RedisWire(url, answer=0.05)
        waiting = [asyncio.create_task(wire.eval(ECHO, 0, "x")) for _ in range(3)]
        for task in waiting:
            with pytest.raises(Late):
                await task
        with pytest.raises(Late):
            await wire.eval(ECHO, 0, "x")
        await wire.aclose()


async def test_a_server_that_is_not_there_is_unavailable_and_may_come_later(
    tmp_path: Path,
) -> None:
    wire = RedisWire(f"unix://{tmp_path}/redis", answer=0.05)
    with pytest.raises(StoreUnavailable):
        await call(wire, ADD, ["sum"], [1])
    async with silent(tmp_path / "redis"):
        with pytest.raises(Late):
            await wire.eval(ECHO, 0, "x")
    await wire.aclose()


async def test_who_waits_is_told_when_the_client_is_closed(tmp_path: Path) -> None:
    async with silent(tmp_path / "redis") as url:
        wire = RedisWire(url)
        waiting = asyncio.create_task(wire.eval(ECHO, 0, "x"))
        while wire._line is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await wire.aclose()
        with pytest.raises((Disconnected, OSError)):
            await waiting


async def test_a_password_and_a_database_are_told_first(redis_url: str, redis: Redis) -> None:
    separator = "&" if "?" in redis_url else "?"
    wire = RedisWire(f"{redis_url}{separator}db=1")
    await call(wire, ADD, ["only-here"], [1])
    assert await redis.get("only-here") is None
    await wire.aclose()
