"""One job done in shares: by the worker that runs the job, and by others that help.

The foreman does shares himself until none is left, so that no job waits for a helper: not for one
in a queue that nobody serves, nor for one that died or stands still.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from storage.errors import DiskFailed, StorageFull, StoreUnavailable
from storage.shares import ShareGone, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.shares import Claim, Work

log = structlog.get_logger()

# Seconds.
_LOOK = 0.2
_TELL = 0.5
_CALL = 2.0


class Do(Protocol):
    """Do a share of a job."""

    def __call__(self, number: int, tell: Callable[[Told], None], /) -> Any:
        """Return what was found, fit for JSON; what `tell` raises ends it and goes through."""


class Foreman:
    """Bring all shares of a job together."""

    def __init__(
        self,
        work: Work,
        lengths: Sequence[int],
        do: Do,
        *,
        tell: Callable[[Told], None],
        call: Callable[[int], None],
    ) -> None:
        """`lengths` is what each share counts, `tell` hears of all of them together.

        `call` asks for so many helpers at most; it may be asked again and again.
        """
        self._work = work
        self._lengths = lengths
        self._do = do
        self._tell_all = tell
        self._call = call
        self._own: dict[int, Any] = {}
        self._tell_at = self._call_at = 0.0

    def run(self) -> list[Any]:
        """Return what was found in each share.

        Raises:
            ShareGone: the job has ended, or is done by another plan.
        """
        while missing := [one for one in range(len(self._lengths)) if not self._is_done(one)]:
            self._look_around()
            # What nobody has begun comes first.
            missing.sort(key=self._work.is_begun)
            if not any(self._did(number) for number in missing):
                time.sleep(_LOOK)
        return [self._found(number) for number in range(len(self._lengths))]

    def _found(self, number: int) -> Any:
        if number in self._own:
            return self._own[number]
        found = self._work.brought(number)
        if found is None:
            raise ShareGone("the job has ended")
        return found

    def _is_done(self, number: int) -> bool:
        return number in self._own or self._work.is_done(number)

    def _did(self, number: int) -> bool:
        with self._work.claim(number, fresh=False) as claim:
            # Whoever had it may just have brought it.
            if claim is None or self._is_done(number):
                return False
            self._own[number] = self._do(number, lambda told: self._heard(claim, told))
            with suppress(StorageFull, DiskFailed):
                claim.bring(self._own[number])
            return True

    def _heard(self, claim: Claim, told: Told) -> None:
        with suppress(StorageFull, DiskFailed):
            claim.tell(told)
        self._look_around()

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL
            self._tell_all(self._sum())
        if now >= self._call_at:
            self._call_at = now + _CALL
            idle = [one for one in range(len(self._lengths)) if not self._work.is_begun(one)]
            if idle:
                # It goes on without.
                with suppress(StoreUnavailable):
                    self._call(len(idle))

    def _sum(self) -> Told:
        told = [self._work.told(number) for number in range(len(self._lengths))]
        return Told(
            sum(
                length if self._is_done(number) else min(length, one.done)
                for number, (length, one) in enumerate(zip(self._lengths, told, strict=True))
            ),
            sum(one.detections for one in told),
            tuple(sorted({text for one in told for text in one.texts})),
        )


def help_with(work: Work, count: int, do: Do, is_wanted: Callable[[], bool]) -> int:
    """Do shares that nobody has begun, and return how many; end where it `is_wanted` elsewhere."""
    done = 0
    for number in range(count):
        if is_wanted():
            break
        with work.claim(number, fresh=True) as claim:
            if claim is not None:
                claim.bring(do(number, claim.tell))
                done += 1
    return done
