"""How a poller waits for news instead of asking again and again (RFC 7240, `Prefer: wait`)."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request

    from tusd_py.headers import Headers

K = TypeVar("K")
T = TypeVar("T")

# Seconds; what clients and proxies between take for a connection that is dead is longer.
MOST_SECONDS = 60
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)


class Watch(Protocol):
    """Wait for changes of one job."""

    async def wait(self) -> None:
        """Return when the job may have changed, since it was read last or the watch began."""


class Watches(Protocol):
    """Watch jobs (storage.watch)."""

    def of(self, job_id: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a job as long as this is entered."""


def parse_wait(headers: Headers) -> int:
    """Return for how many seconds the client would rather wait, 60 at most; 0: not at all.

    A preference that cannot be read is none (RFC 7240, section 2).
    """
    for preference in (headers.joined("prefer") or "").split(","):
        if found := _WAIT.fullmatch(preference):
            return min(int(found[1]), MOST_SECONDS)
    return 0


class Together(Generic[K, T]):
    """Read once for all who ask at the same moment, as those do who were woken together."""

    def __init__(self, read: Callable[[K], Awaitable[T]]) -> None:
        self._read = read
        self._coming: dict[K, asyncio.Task[T]] = {}

    async def read(self, key: K) -> T:
        """Return what was read after this was called."""
        task = self._coming.get(key)
        if task is None:
            task = self._coming[key] = asyncio.create_task(self._begin(key))
        # One that is cancelled takes it from nobody.
        return await asyncio.shield(task)

    async def _begin(self, key: K) -> T:
        # The others of this turn of the loop join; who comes later reads anew.
        await asyncio.sleep(0)
        del self._coming[key]
        return await self._read(key)


class Polling:
    """Wait while the client is there, and the server is not about to end."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._closing = asyncio.Event()

    def stop(self) -> None:
        """Let everybody be answered at once, now and from now on."""
        self._closing.set()

    async def until(
        self,
        job_id: str,
        look: Callable[[], Awaitable[T]],
        is_news: Callable[[T], bool],
        seconds: float,
        request: Request,
    ) -> T:
        """Look at a job until there is news, or for so many seconds; return what was seen last."""
        deadline = asyncio.get_running_loop().time() + seconds
        ends = [asyncio.create_task(self._closing.wait()), asyncio.create_task(_gone(request))]
        try:
            async with self._watches.of(job_id) as watch:
                # Read after the watch began: what changes from then on wakes it.
                found = await look()
                while not is_news(found) and await _woken(watch, ends, deadline):
                    found = await look()
                return found
        finally:
            for task in ends:
                task.cancel()


async def _woken(watch: Watch, ends: list[asyncio.Task[bool]], deadline: float) -> bool:
    """Wait for a change; False when it is time to answer without one."""
    change = asyncio.create_task(watch.wait())
    left = deadline - asyncio.get_running_loop().time()
    try:
        await asyncio.wait(
            {change, *ends}, timeout=max(0, left), return_when=asyncio.FIRST_COMPLETED
        )
        return change.done() and left > 0 and not any(end.done() for end in ends)
    finally:
        change.cancel()


async def _gone(request: Request) -> bool:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return True
