"""The dispatcher moves jobs on, whatever fails on the way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from storage.errors import StorageFull, StoreUnavailable
from tusd_py import dispatch
from tusd_py.dispatch import Dispatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Scripted:
    """An outbox whose drain does what the script says, one entry a call."""

    def __init__(self, *script: Exception | bool) -> None:
        self.script = list(script)
        self.calls: list[str] = []

    def drain_oldest(self) -> bool:
        self.calls.append("drain")
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        return bool(step)

    def reconcile(self) -> int:
        self.calls.append("reconcile")
        return 0

    def sweep(self) -> int:
        self.calls.append("sweep")
        return 0

    def revive(self) -> None:
        self.calls.append("revive")


@pytest.fixture
async def start() -> AsyncIterator[Callable[[Scripted], Dispatcher]]:
    tasks = []

    def run(outbox: Scripted) -> Dispatcher:
        dispatcher = Dispatcher(outbox, outbox.revive)
        tasks.append(asyncio.create_task(dispatcher.run()))
        return dispatcher

    yield run
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(outbox: Scripted, what: str, count: int) -> None:
    while outbox.calls.count(what) < count:
        await asyncio.sleep(0.005)


async def test_everything_is_done_once_at_start(start: Callable[[Scripted], Dispatcher]) -> None:
    outbox = Scripted()
    start(outbox)
    await until(outbox, "sweep", 1)
    assert outbox.calls == ["revive", "drain", "reconcile", "sweep"]


async def test_a_finished_upload_is_drained_at_once(
    start: Callable[[Scripted], Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_TICK", 3600)
    outbox = Scripted()
    dispatcher = start(outbox)
    await until(outbox, "sweep", 1)
    dispatcher.wake()
    await until(outbox, "drain", 2)


async def test_what_is_more_than_one_step_takes_is_drained_in_several(
    start: Callable[[Scripted], Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_TICK", 3600)
    outbox = Scripted(True, True, False)
    start(outbox)
    await until(outbox, "drain", 3)


async def test_a_redis_that_is_away_is_started_and_asked_again(
    start: Callable[[Scripted], Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_TICK", 0.01)
    outbox = Scripted(StoreUnavailable("away"), StoreUnavailable("away"))
    start(outbox)
    await until(outbox, "sweep", 1)
    steps = ["revive", "drain", "revive", "drain", "revive", "drain", "reconcile", "sweep"]
    assert outbox.calls == steps


@pytest.mark.parametrize("error", [StorageFull("full"), RuntimeError("a bug")])
async def test_what_goes_wrong_otherwise_stops_nothing(
    start: Callable[[Scripted], Dispatcher], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(dispatch, "_TICK", 0.01)
    outbox = Scripted(error, error)
    start(outbox)
    await until(outbox, "drain", 4)
    assert outbox.calls.count("revive") == 1
    assert "sweep" in outbox.calls
