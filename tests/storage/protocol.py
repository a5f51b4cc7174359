"""The protocol of lock, commit and recovery as a model: small enough to try every order of steps.

Each request takes one step at a time, and any other may come in between: so anybody may sleep
anywhere. A lease may run out at any moment. Processes crash, Redis forgets or goes back to what it
was, the power is cut. The steps are those of the code.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.storage.protocol_state import (
    EMPTY,
    LENGTH,
    NOBODY,
    REMOVED,
    Budget,
    Disk,
    Line,
    Process,
    Redis,
    State,
    Violation,
    check,
    content,
    cut,
    demand,
    ended_by_cut,
    parsed,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Protocol:
    """Say what may happen next.

    `without` names what is left out of the protocol, `at_once` steps that nothing comes before.
    """

    without: frozenset[str] = frozenset()
    at_once: frozenset[str] = frozenset()

    def next(self, state: State) -> Iterator[tuple[str, State]]:
        """Return what may happen, and the states that follow."""
        for pid, process in enumerate(state.processes):
            if process.at not in {"over", "dead"}:
                for after in self._step(state, pid, process):
                    yield f"{process.role} {pid}: {process.at}", after
                if state.budget.crashes:
                    yield f"{process.role} {pid} crashes", _crash(state, pid)
        yield from self._faults(state)

    def _faults(self, state: State) -> Iterator[tuple[str, State]]:
        redis, budget = state.redis, state.budget
        if redis.lock is not None:
            yield "the lease runs out", state._replace(redis=redis._replace(lock=None))
        if budget.losses:
            left = budget._replace(losses=budget.losses - 1)
            yield "Redis is emptied", state._replace(redis=Redis(None), saved=None, budget=left)
            if state.saved is None and redis.record is not None:
                yield "Redis is saved", state._replace(saved=redis)
            elif state.saved is not None and state.saved != redis:
                yield (
                    "Redis goes back",
                    state._replace(redis=state.saved, saved=None, budget=left),
                )
        if budget.cuts:
            left = budget._replace(cuts=budget.cuts - 1)
            for disk in cut(state.disk):
                dead = tuple(one._replace(at=ended_by_cut(one.at)) for one in state.processes)
                yield "the power is cut", state._replace(disk=disk, processes=dead, budget=left)

    def _step(self, state: State, pid: int, me: Process) -> Iterator[State]:
        step = getattr(self, f"_{me.at}")
        found: Iterable[State] = step(state, pid, me)
        for after in found:
            if after.processes[pid].at in self.at_once:
                yield from self._step(after, pid, after.processes[pid])
            else:
                yield after

    # --- Redis

    def _ask(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """ACQUIRE, or for HEAD the same without taking it; whoever waits is not run."""
        redis = state.redis
        if me.floor == NOBODY:
            me = me._replace(floor=REMOVED if state.gone else len(state.told))
        if redis.record is None:
            return [_go(state, pid, me, "recover")]
        if redis.lock is not None:
            return []
        record = redis.record
        if me.role == "head":
            after = "look" if me.at == "ask" else "decide"
            return [_go(state, pid, me._replace(view=record), after)]
        record = record._replace(token=record.token + 1)
        state = state._replace(redis=redis._replace(record=record, lock=(pid, record.token)))
        first = "bury" if me.role == "delete" else "open"
        return [_go(state, pid, me._replace(view=record), first)]

    _ask_again = _ask

    def _recover(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Read the journal of an upload that Redis lacks."""
        if state.disk.dead:
            return [_go(state, pid, me, "entomb")]
        return [_go(state, pid, me._replace(read=parsed(state.disk.lines)), "settle_found")]

    def _settle_found(self, state: State, pid: int, me: Process) -> Iterable[State]:
        return [_go(self._settled(state), pid, me, "store")]

    def _store(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """STORE a record that was rebuilt, unless there is one."""
        if state.redis.record is None:
            record = me.read._replace(boot=0, writer="")
            redis = state.redis._replace(record=record, outbox=record.complete)
            state = state._replace(redis=redis)
        # Of a commit that found the record missing nothing is told: the lock is lost as well.
        after = "finish" if me.view.token else "ask"
        return [_go(state, pid, me, after)]

    def _raise(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """RAISE, which does nothing while somebody holds the lock."""
        redis, read = state.redis, me.read
        record = redis.record
        if record is not None and redis.lock is None:
            knows = record.offset > read.offset or (
                record.offset == read.offset and (record.complete or not read.complete)
            )
            token = max(record.token, read.token) + 1
            if record.token == read.token and knows:
                state = state._replace(redis=redis._replace(record=record._replace(token=token)))
            elif not (record.token > read.token and knows):
                raised = read._replace(token=token, boot=0, writer="")
                redis = redis._replace(record=raised, outbox=redis.outbox or raised.complete)
                state = state._replace(redis=redis)
        after = "ask_again" if me.role == "head" and me.at == "raise" else "over"
        return [_go(state, pid, me, after)]

    def _commit(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """COMMIT."""
        redis = state.redis
        if redis.record is None:
            return [_go(state, pid, me, "recover")]
        if redis.record.token != me.view.token and "token" not in self.without:
            return [_go(state, pid, me, "finish")]
        record = me.view._replace(token=redis.record.token, boot=0, writer="")
        outbox = redis.outbox or (record.complete and not redis.record.complete)
        state = state._replace(redis=redis._replace(record=record, outbox=outbox))
        return [_go(state, pid, me, "tell")]

    def _finish(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Close the files, then RELEASE."""
        state = _unlock(state, pid)
        if state.redis.lock == (pid, me.view.token):
            state = state._replace(redis=state.redis._replace(lock=None))
        return [_go(state, pid, me, "over")]

    # --- files

    def _open(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Read the journal before anything is touched."""
        disk = state.disk
        if disk.dead:
            return [_go(state, pid, me, "entomb")]
        if me.view.complete:
            return [_go(state, pid, me, "tell")]
        read = parsed(disk.lines)
        me = me._replace(read=read)
        if 0 < read.token == me.view.token or me.view.is_behind(read):
            return [_go(state, pid, me, "give_up")]
        return [_go(state, pid, me, "take")]

    def _take(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Take the flock of the last segment, or see that somebody else may still write it."""
        disk, number = state.disk, me.view.segments[-1][0]
        free = number < len(disk.cells) and (
            disk.flocks[number] == NOBODY or "flock" in self.without
        )
        if not free or me.read.boot != disk.boot:
            return [_go(state, pid, me, "create")]
        disk = disk._replace(flocks=put(disk.flocks, number, pid))
        return [_go(state._replace(disk=disk), pid, me, self._announcement)]

    @property
    def _announcement(self) -> str:
        return "write" if "opened" in self.without else "announce"

    def _create(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Begin a new segment, which is nobody else's."""
        disk, (_, start) = state.disk, me.view.segments[-1]
        number = len(disk.cells)
        disk = disk._replace(
            cells=(*disk.cells, EMPTY),
            stable=(*disk.stable, EMPTY),
            named=(*disk.named, False),
            flocks=(*disk.flocks, pid),
        )
        segments = me.view.segments[:-1] if start == me.view.offset else me.view.segments
        view = me.view._replace(segments=(*segments, (number, me.view.offset)))
        after = self._announcement if "name" in self.without else "name"
        return [_go(state._replace(disk=disk), pid, me._replace(view=view), after)]

    def _name(self, state: State, pid: int, me: Process) -> Iterable[State]:
        disk = state.disk._replace(named=(True,) * len(state.disk.named))
        return [_go(state._replace(disk=disk), pid, me, self._announcement)]

    def _announce(self, state: State, pid: int, me: Process) -> Iterable[State]:
        view = me.view
        name = f"{pid}.{view.token}"
        line = Line("opened", view.token, view.offset, view.segments, state.disk.boot, name)
        return [_go(_append(state, line), pid, me, "announce_sync")]

    def _announce_sync(self, state: State, pid: int, me: Process) -> Iterable[State]:
        return [_go(_sync_lines(state), pid, me, "announced")]

    def _announced(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """See that this writer is the right one."""
        if state.disk.dead:
            return [_go(state, pid, me, "entomb")]
        read, view = parsed(state.disk.lines), me.view
        mine = (read.token, read.offset, read.segments) == (view.token, view.offset, view.segments)
        if read.writer == f"{pid}.{view.token}" and mine:
            return [_go(state, pid, me, "write")]
        return [_go(state, pid, me._replace(read=read), "give_up")]

    def _write(self, state: State, pid: int, me: Process) -> Iterable[State]:
        disk, view = state.disk, me.view
        number = view.segments[-1][0]
        cells = put(disk.cells[number], view.offset, str(pid))
        disk = disk._replace(cells=put(disk.cells, number, cells))
        offset = view.offset + 1
        view = view._replace(offset=offset, complete=offset == LENGTH)
        after = "line" if "order" in self.without else "sync"
        return [_go(state._replace(disk=disk), pid, me._replace(view=view), after)]

    def _sync(self, state: State, pid: int, me: Process) -> Iterable[State]:
        disk, number = state.disk, me.view.segments[-1][0]
        disk = disk._replace(stable=put(disk.stable, number, disk.cells[number]))
        after = "verify" if "order" in self.without else "line"
        return [_go(state._replace(disk=disk), pid, me, after)]

    def _line(self, state: State, pid: int, me: Process) -> Iterable[State]:
        view, kind = me.view, "complete" if me.view.complete else "offset"
        line = Line(kind, view.token, view.offset, view.segments, state.disk.boot)
        return [_go(_append(state, line), pid, me, "line_sync")]

    def _line_sync(self, state: State, pid: int, me: Process) -> Iterable[State]:
        after = "sync" if "order" in self.without else "verify"
        return [_go(_sync_lines(state), pid, me, after)]

    def _verify(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """See that nobody has opened it under a newer token."""
        if state.disk.dead:
            return [_go(state, pid, me, "entomb")]
        lost = parsed(state.disk.lines).token > me.view.token and "token" not in self.without
        return [_go(state, pid, me, "finish" if lost else "commit")]

    def _give_up(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Let go of everything, and then mend the record."""
        state = next(iter(self._finish(state, pid, me)))
        return [_go(state, pid, me, "settle")]

    def _settle(self, state: State, pid: int, me: Process) -> Iterable[State]:
        return [_go(self._settled(state), pid, me, "raise")]

    def _settled(self, state: State) -> State:
        return state if "settle" in self.without else _sync_lines(state)

    # --- HEAD and DELETE

    def _look(self, state: State, pid: int, me: Process) -> Iterable[State]:
        if state.disk.dead:
            return [_go(state, pid, me, "entomb")]
        me = me._replace(read=parsed(state.disk.lines))
        return [_go(state, pid, me, "settle" if me.view.is_behind(me.read) else "tell")]

    def _decide(self, state: State, pid: int, me: Process) -> Iterable[State]:
        return [_go(state, pid, me, "over" if me.view.is_behind(me.read) else "tell")]

    def _bury(self, state: State, pid: int, me: Process) -> Iterable[State]:
        return [_go(state._replace(disk=state.disk._replace(dead=True)), pid, me, "entomb")]

    def _entomb(self, state: State, pid: int, me: Process) -> Iterable[State]:
        """Make sure of the tombstone: whoever wrote it may have died."""
        if me.role == "delete" or "settle" not in self.without:
            state = state._replace(disk=state.disk._replace(dead=True, dead_synced=True))
        after = "terminate" if me.role == "delete" and me.view.token else "tell_gone"
        return [_go(state, pid, me, after)]

    def _terminate(self, state: State, pid: int, me: Process) -> Iterable[State]:
        record = state.redis.record
        if record is not None and record.token != me.view.token:
            return [_go(state, pid, me, "finish")]
        state = state._replace(redis=state.redis._replace(record=None, outbox=False))
        return [_go(state, pid, me, "tell_gone")]

    # --- what is told

    def _tell(self, state: State, pid: int, me: Process) -> Iterable[State]:
        view = me.view
        demand(me.floor != REMOVED, "an offset of what had been told to be removed")
        demand(view.offset >= me.floor, f"{view.offset}, after {me.floor} had been told")
        found = content(state.disk.cells, view.segments, view.offset)
        demand("" not in found, f"{view.offset}, and {found} are there")
        known = min(len(found), len(state.told))
        demand(found[:known] == state.told[:known], f"{found} after {state.told}")
        told = max(found, state.told, key=len)
        state = state._replace(told=told, ended=state.ended or view.complete)
        if me.role == "head":
            return [_go(state, pid, me, "over")]
        more = [_go(state, pid, me, "write")] if me.role == "fill" and not view.complete else []
        return [_go(state, pid, me, "finish"), *more]

    def _tell_gone(self, state: State, pid: int, me: Process) -> Iterable[State]:
        return [_go(state._replace(gone=True), pid, me, "finish")]


def _go(state: State, pid: int, me: Process, at: str) -> State:
    return state._replace(processes=put(state.processes, pid, me._replace(at=at)))


def _append(state: State, line: Line) -> State:
    return state._replace(disk=state.disk._replace(lines=(*state.disk.lines, line)))


def _sync_lines(state: State) -> State:
    return state._replace(disk=state.disk._replace(synced=len(state.disk.lines)))


def _unlock(state: State, pid: int) -> State:
    flocks = tuple(NOBODY if one == pid else one for one in state.disk.flocks)
    return state._replace(disk=state.disk._replace(flocks=flocks))


def _crash(state: State, pid: int) -> State:
    budget = state.budget._replace(crashes=state.budget.crashes - 1)
    state = _unlock(state._replace(budget=budget), pid)
    return _go(state, pid, state.processes[pid], "dead")


@dataclass(slots=True)
class Found:
    """What an exploration came to: how many states, and the way to a violation."""

    states: int
    reason: str = ""
    way: list[str] = field(default_factory=list)


def explore(protocol: Protocol, roles: str, budget: Budget, most: int) -> Found:
    """Try every order of steps of these requests, the shortest ways first."""
    processes = tuple(Process(role) for role in roles.split())
    first = State(Disk(), Redis(), None, processes, budget)
    came: dict[State, tuple[State | None, str]] = {first: (None, "")}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        label = ""
        try:
            for label, after in protocol.next(state):
                if after not in came:
                    came[after] = state, label
                    waiting.append(after)
                    check(after)
        except Violation as violation:
            return Found(len(came), str(violation), [*_way(came, state), label])
        if len(came) > most:
            raise AssertionError(f"more than {most} states")
    return Found(len(came))


def _way(came: Mapping[State, tuple[State | None, str]], state: State) -> list[str]:
    way: list[str] = []
    at: State | None = state
    while at is not None:
        at, label = came[at]
        way.append(label)
    return way[-2::-1]
