"""A disk whose syncs are over when a test says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.durability import Sync
    from storage.syncs import Done


class SlowDisk:
    """Take note of what shall be synced (storage.syncs.Disk)."""

    def __init__(self) -> None:
        self.asked: list[list[Sync]] = []
        self._under_way: list[Done] = []

    def sync(self, syncs: Sequence[Sync]) -> Done:
        self.asked.append(list(syncs))
        self._under_way.append(asyncio.get_running_loop().create_future())
        return self._under_way[-1]

    async def asks(self, groups: int) -> None:
        """Wait until so many groups of syncs were asked for, then let everybody go on."""
        async with asyncio.timeout(60):
            while len(self.asked) < groups:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    def finish(self, error: OSError | None = None) -> None:
        """End the oldest group that is under way."""
        self._under_way.pop(0).set_result(error)

    def close(self) -> None:
        pass
