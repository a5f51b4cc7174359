"""What the model of the protocol looks at: a disk, a Redis, requests, and what was told of them.

One upload of `LENGTH` units, whose value is who wrote them. What a journal says is read by
`storage.journal` itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from storage import journal
from storage.upload import FIRST_SEGMENT, Upload

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

LENGTH = 2
NOBODY = -1
#: The floor of a request that began when it was told to be removed.
REMOVED = 99
Segments = tuple[tuple[int, int], ...]
Cells = tuple[str, ...]
EMPTY: Cells = ("",) * LENGTH
UPLOAD = Upload("6f1c1ad4-6d2c-4b2e-9a53-0f6dbb1c8a11", LENGTH, None, 0.0, 0.0)


class Line(NamedTuple):
    """One line of the journal."""

    kind: str
    token: int
    offset: int
    segments: Segments
    boot: int
    writer: str = ""


class View(NamedTuple):
    """What a journal says, or a record in Redis (without boot and writer)."""

    token: int = 0
    offset: int = 0
    complete: bool = False
    segments: Segments = FIRST_SEGMENT
    boot: int = 0
    writer: str = ""

    def is_behind(self, known: View) -> bool:
        return _upload(self).is_behind(_upload(known))


class Disk(NamedTuple):
    """Files, by their numbers, and the journal: as they are seen, and what of it is stable."""

    cells: tuple[Cells, ...] = (EMPTY,)
    stable: tuple[Cells, ...] = (EMPTY,)
    #: Whose name outlives a power cut, and who has its flock.
    named: tuple[bool, ...] = (True,)
    flocks: tuple[int, ...] = (NOBODY,)
    lines: tuple[Line, ...] = ()
    synced: int = 0
    dead: bool = False
    dead_synced: bool = False
    boot: int = 0


class Redis(NamedTuple):
    record: View | None = View()
    lock: tuple[int, int] | None = None
    outbox: bool = False


class Process(NamedTuple):
    """A request: `at` is the next step; `floor` what was told when it began."""

    role: str
    at: str = "ask"
    view: View = View()
    read: View = View()
    floor: int = NOBODY


class Budget(NamedTuple):
    """How often each may still happen."""

    crashes: int = 0
    losses: int = 0
    cuts: int = 0


class State(NamedTuple):
    disk: Disk
    redis: Redis
    #: What Redis may go back to.
    saved: Redis | None
    processes: tuple[Process, ...]
    budget: Budget
    #: The bytes that any client was told to be here; that all are; that it was removed.
    told: Cells = ()
    ended: bool = False
    gone: bool = False


class Violation(Exception):
    """Something that was told is not so."""


def _upload(view: View) -> Upload:
    return replace(UPLOAD, token=view.token, offset=view.offset, complete=view.complete)


@cache
def parsed(lines: tuple[Line, ...]) -> View:
    """Read lines as the program does."""
    raw = journal.first_lines(UPLOAD, "0")
    for line in lines:
        upload = replace(UPLOAD, token=line.token, offset=line.offset, segments=line.segments)
        if line.kind == "opened":
            raw += journal.opened_line(upload, str(line.boot), line.writer)
        else:
            upload = replace(upload, complete=line.kind == "complete")
            raw += journal.commit_line(upload, str(line.boot))
    read = journal.parse(raw)
    said = read.upload
    where = (said.token, said.offset, said.complete, said.segments)
    return View(*where, int(read.boot), read.writer)


def content(files: tuple[Cells, ...], segments: Segments, length: int) -> Cells:
    """Read the first bytes through segments; what is not there is empty."""
    found = []
    for position in range(length):
        number = next(one for one, start in reversed(segments) if start <= position)
        found.append(files[number][position] if number < len(files) else "")
    return tuple(found)


def check(state: State) -> None:
    """See that what was told is so, and would be after a power cut of any kind."""
    disk = state.disk
    if state.gone:
        demand(disk.dead and disk.dead_synced, "removed, and a power cut brings it back")
        return
    if disk.dead or not state.told:
        return
    _check_view(state, parsed(disk.lines), disk.cells, "now")
    stable = tuple(
        cells if named else EMPTY for cells, named in zip(disk.stable, disk.named, strict=True)
    )
    for kept in range(disk.synced, len(disk.lines) + 1):
        _check_view(state, parsed(disk.lines[:kept]), stable, "after a power cut")


def _check_view(state: State, view: View, files: tuple[Cells, ...], when: str) -> None:
    demand(view.offset >= len(state.told), f"{view.offset} {when}, {state.told} were told")
    found = content(files, view.segments, len(state.told))
    demand(found == state.told, f"{found} {when}, {state.told} were told")
    demand(view.complete or not state.ended, f"not complete {when}, though it was told so")


def demand(true: bool, otherwise: str) -> None:  # noqa: FBT001  what is to be
    if not true:
        raise Violation(otherwise)


def put(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def ended_by_cut(at: str) -> str:
    # Whoever has not begun begins after it.
    return at if at in {"ask", "over"} else "dead"


def cut(disk: Disk) -> Iterator[Disk]:
    """Return what may be found after a power cut."""
    files = zip(disk.cells, disk.stable, disk.named, strict=True)
    choices = [_survivors(*one) for one in files]
    for kept in range(disk.synced, len(disk.lines) + 1):
        for dead in {disk.dead, disk.dead_synced}:
            for cells in product(*choices):
                yield Disk(
                    cells,
                    cells,
                    (True,) * len(cells),
                    (NOBODY,) * len(cells),
                    disk.lines[:kept],
                    kept,
                    dead,
                    dead,
                    disk.boot + 1,
                )


def _survivors(cells: Cells, stable: Cells, named: bool) -> list[Cells]:  # noqa: FBT001  a field
    found = {*product(*({new, old} for new, old in zip(cells, stable, strict=True)))}
    return sorted(found if named else found | {EMPTY})
