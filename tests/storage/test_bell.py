"""A bell is an asyncio.Event to everybody who uses it."""

from __future__ import annotations

import asyncio

import pytest

from storage.bell import Bell

pytestmark = pytest.mark.anyio


async def test_all_who_wait_are_told_but_who_was_cancelled() -> None:
    bell = Bell()
    bell.set()
    assert await bell.wait()
    bell.clear()
    waiting = [asyncio.create_task(bell.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.sleep(0)
    assert not any(task.done() for task in (waiting[0], waiting[2]))
    bell.set()
    assert all(await asyncio.gather(waiting[0], waiting[2]))
    assert waiting[1].cancelled()
    assert bell.is_set()


async def test_nobody_need_wait() -> None:
    bell = Bell()
    bell.set()
    bell.clear()
    assert not bell.is_set()
    waiting = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    bell.set()
    await waiting
