"""An event that hardly costs anything as long as nobody waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal


class Bell(asyncio.Event):
    """Be an asyncio.Event whose list of who waits is made by the first who does.

    Each request and each open upload has several, and that list would be most of their memory.
    """

    def __init__(self) -> None:
        """Begin unset."""
        self._value = False
        # Nobody is told of nothing either way.
        self._waiters = ()  # type: ignore[assignment]

    async def wait(self) -> Literal[True]:
        """Wait until it is set."""
        if not self._waiters:
            self._waiters = deque()
        return await super().wait()
