from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from processing.ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_their_order(depth: int) -> None:
    with ahead(range(100), depth) as items:
        assert list(items) == list(range(100))


@pytest.mark.parametrize("depth", [0, 2])
def test_what_the_iteration_raises_comes_after_its_items(depth: int) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with ahead(broken(), depth) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = threading.Event()

    def work() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    with ahead(work(), 1) as items:
        assert next(items) == 1
        assert made.wait(PATIENCE)


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []
    third = threading.Event()

    def count() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    with ahead(count(), 2) as items:
        next(items)
        assert third.wait(PATIENCE)
    # One is used, two wait, and one more is made before there is no room for it.
    assert len(made) <= 5


def test_the_thread_ends_with_the_block_whatever_is_left() -> None:
    before = threading.active_count()
    with ahead(iter(range(10_000)), 2) as items:
        next(items)
    assert threading.active_count() == before
