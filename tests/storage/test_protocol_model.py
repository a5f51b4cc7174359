"""Every order of steps of a few requests, with crashes, lost records and power cuts in between.

Nothing that was told is ever untrue, nor would a power cut make it so. And the model can fail:
without any one of the mechanisms it finds how to lose bytes.
"""

from __future__ import annotations

import pytest

from tests.storage.protocol import Protocol, explore
from tests.storage.protocol_state import Budget

# Steps that nothing comes before, where more requests take part: else there are too many orders.
SYNCS = frozenset(["announce_sync", "announced", "sync", "line_sync", "verify", "name"])
COARSE = SYNCS | frozenset(
    ["settle_found", "store", "settle", "raise", "open", "take", "create", "announce", "line"]
)
SOUND = [
    ("append append", Budget(crashes=1, cuts=1), frozenset[str]()),
    ("append append", Budget(losses=1), frozenset[str]()),
    ("append head", Budget(crashes=1, losses=1, cuts=1), frozenset[str]()),
    ("append head head", Budget(crashes=1), frozenset[str]()),
    ("append delete", Budget(crashes=1, losses=1, cuts=1), frozenset[str]()),
    ("append delete head", Budget(), frozenset[str]()),
    ("append append append", Budget(), COARSE),
]
LARGER = [
    ("append append append", Budget(crashes=1, cuts=1), COARSE),
    ("append append", Budget(crashes=2, losses=1, cuts=1), frozenset[str]()),
    ("fill append", Budget(crashes=1, losses=1, cuts=1), frozenset[str]()),
    ("append append head", Budget(cuts=1), frozenset[str]()),
    ("append append append", Budget(), SYNCS),
    ("append append append", Budget(crashes=1, losses=1), COARSE),
    ("append append head", Budget(crashes=1, losses=1, cuts=1), COARSE),
    ("append append delete", Budget(crashes=1, losses=1, cuts=1), COARSE),
]
# Left out, and the requests and faults that then lose what was told.
BROKEN = {
    "flock": ("append append", Budget()),
    "opened": ("append append", Budget()),
    "token": ("append append", Budget()),
    "order": ("append append", Budget(losses=1)),
    "settle": ("append head", Budget(crashes=1)),
    "name": ("append append", Budget()),
}


def explored(roles: str, budget: Budget, at_once: frozenset[str], most: int) -> None:
    found = explore(Protocol(at_once=at_once), roles, budget, most)
    assert not found.reason, "\n".join([found.reason, *found.way])
    print(f"{roles}, {budget}: {found.states} states")  # noqa: T201  shown by -s and on failure
    assert found.states > 1000


@pytest.mark.parametrize(("roles", "budget", "at_once"), SOUND)
def test_nothing_that_was_told_is_untrue_whatever_comes_when(
    roles: str, budget: Budget, at_once: frozenset[str]
) -> None:
    explored(roles, budget, at_once, 200_000)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("roles", "budget", "at_once"), LARGER)
def test_nothing_that_was_told_is_untrue_with_more_requests_and_faults(
    roles: str, budget: Budget, at_once: frozenset[str]
) -> None:
    explored(roles, budget, at_once, 5_000_000)


@pytest.mark.parametrize("without", BROKEN)
def test_without_any_one_of_the_mechanisms_something_told_is_lost(without: str) -> None:
    roles, budget = BROKEN[without]
    found = explore(Protocol(frozenset([without])), roles, budget, 200_000)
    assert "were told" in found.reason
    # The way there is told step by step.
    assert len(found.way) > 5
