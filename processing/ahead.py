"""Decode ahead: the next frames are decoded while one is analysed."""

from __future__ import annotations

import contextlib
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


@contextmanager
def ahead(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Iterate in a thread of its own, at most `depth` items ahead; 0 does without.

    What the iteration raises is raised where the items are taken. When the block is left the thread
    has ended, whatever is left of the items.
    """
    if not depth:
        yield iter(items)
        return
    made: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, made, stopped), daemon=True)
    thread.start()
    try:
        yield _taken(made)
    finally:
        stopped.set()
        _drain(made)
        thread.join()


class _End:
    """Mark the end, with what ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _fill(items: Iterable[T], made: queue.Queue[T | _End], stopped: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            if stopped.is_set():
                return
            made.put(item)
    except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
        end = _End(error)
    if not stopped.is_set():
        made.put(end)


def _taken(made: queue.Queue[T | _End]) -> Iterator[T]:
    while True:
        item = made.get()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item


def _drain(made: queue.Queue[T | _End]) -> None:
    # Room for whatever the thread is about to put.
    with contextlib.suppress(queue.Empty):
        while True:
            made.get_nowait()
