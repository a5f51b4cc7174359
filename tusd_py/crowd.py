"""How many connections a process may have: they come out of the same limit as its files."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection

log = structlog.get_logger()

# One of so many goes at once, so that not every newcomer looks at all the others.
_SHARE = 16


class Use(IntEnum):
    """Say what a connection that is not at work is good for, the least first."""

    NOTHING = 0
    #: It has had an answer, and may ask again.
    ANSWERED = 1
    #: Somebody watches, who comes again by itself.
    WATCHED = 2


class Guest(Protocol):
    """A connection."""

    @property
    def idle(self) -> tuple[Use, float] | None:
        """What it is good for, and since when it is here; None if it is at work."""

    def leave(self) -> None:
        """End it."""


class Crowd:
    """Bound the connections of one process: where there are too many, those who ask nothing go.

    Then those who watch: nobody shall be kept from uploading by who only looks on.
    """

    def __init__(self, most: int) -> None:
        """Let `most` stay."""
        self._most = most
        self._told = False

    def admits(self, newcomer: Guest, guests: Collection[Guest]) -> bool:
        """Tell whether the newcomer, who is one of the guests, may stay."""
        if len(guests) <= self._most:
            self._told = self._told and len(guests) > self._most // 2
            return True
        self._tell()
        ranked = [(one.idle, one) for one in guests if one is not newcomer]
        idle = sorted(((rank, one) for rank, one in ranked if rank), key=lambda pair: pair[0])
        for _, one in idle[: 1 + self._most // _SHARE]:
            one.leave()
        return bool(idle)

    def _tell(self) -> None:
        """Say it once until the crowd has gone."""
        if not self._told:
            reason = "the idle ones are closed; the limit of open files bounds them"
            log.warning("connections.full", most=self._most, reason=reason)
        self._told = True
