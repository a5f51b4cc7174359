"""The web process's share of moving jobs on: drain, reconciler and sweeper in one task."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog
from anyio import to_thread

from storage.errors import StorageError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

# Seconds. A finished upload wakes the drain at once; the rest only mends what went wrong.
_TICK = 1.0
_RECONCILE = 30.0
_SWEEP = 10.0
# How many times longer than it drained it rests then: threads of one process share its time, and
# uploads that come in are more urgent than the start of their analyses.
_REST = 19.0


class Outbox(Protocol):
    """What is scheduled here; each blocks, and raises StorageError."""

    def drain_oldest(self) -> bool:
        """Hand the oldest finished uploads to the queue; tell whether more may wait."""

    def reconcile(self) -> int:
        """Re-drive what was lost on the way."""

    def sweep(self) -> int:
        """Remove what is due."""


class Dispatcher:
    """Schedule an Outbox for as long as the app lives."""

    def __init__(self, outbox: Outbox, revive: Callable[[], None]) -> None:
        """`revive` starts Redis when it is ours and does not answer; it may block."""
        self._outbox = outbox
        self._revive = revive
        self._wake = asyncio.Event()
        self._more: Callable[[], object] = self.wake
        self._reachable = True

    def wake(self) -> None:
        """Drain now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again."""
        loop = asyncio.get_running_loop()
        self._more = partial(loop.call_soon_threadsafe, self.wake)
        reconcile_at = sweep_at = 0.0
        with suppress(StorageError):
            await to_thread.run_sync(self._revive)
        while True:
            now = loop.time()
            done = await self._step(self._drain)
            rest = (loop.time() - now) * _REST
            if done and now >= reconcile_at and await self._step(self._outbox.reconcile):
                reconcile_at = now + _RECONCILE
            if done and now >= sweep_at and await self._step(self._outbox.sweep):
                sweep_at = now + _SWEEP
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(min(rest, _TICK))

    def _drain(self) -> None:
        if self._outbox.drain_oldest():
            self._more()

    async def _step(self, step: Callable[[], object]) -> bool:
        try:
            await to_thread.run_sync(step)
        except StoreUnavailable as error:
            # Once is enough: this goes on every second until it is back.
            if self._reachable:
                log.warning("redis.away", reason=str(error))
            self._reachable = False
            with suppress(StorageError):
                await to_thread.run_sync(self._revive)
            return False
        except Exception:
            # One bad record must not end the task that moves all the others on.
            log.exception("upkeep.failed")
            return True
        if not self._reachable:
            log.info("redis.back")
        self._reachable = True
        return True
