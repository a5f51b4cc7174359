"""One measurement after the other: every server in turn, row by row, round by round."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

from benchmarks import processes
from benchmarks.rows import GIB
from benchmarks.servers import started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.rows import Row
    from benchmarks.servers import Kind, Running

# Seconds. What the last one has left to do is not to be measured with the next one.
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Figures:
    """What one measurement gave: the load generator's figures, and what the server took."""

    row: str
    server: str
    round: int
    told: dict[str, Any]
    #: Peak of memory in bytes of each process.
    peaks: tuple[tuple[str, int], ...]
    #: Processor time in seconds, of all its processes.
    cpu: float

    @property
    def peak(self) -> int | None:
        """Return the sum of the peaks of its processes in bytes; None where they are not known."""
        return sum(peak for _, peak in self.peaks) or None

    @property
    def cpu_per_gib(self) -> float | None:
        """Return seconds of processor time per GiB; None where there were few bytes."""
        large = self.told["bytes"] > GIB / 64
        return self.cpu / self.told["bytes"] * GIB if large and self.peaks else None

    @property
    def cpu_per_operation(self) -> float | None:
        """Return microseconds of processor time per operation."""
        # Those that only warmed it up took their time too.
        count = self.told["operations"] + self.told["uncounted"]
        return self.cpu / count * 1e6 if count and self.peaks else None


@dataclass(frozen=True, slots=True)
class Bench:
    """Measure these servers in these rows."""

    load: Path
    kinds: Sequence[Kind]
    rows: Sequence[Row]
    #: Where servers get their directories.
    below: Path
    #: When to stop, by the monotonic clock: what was not measured by then is not measured.
    until: float
    tell: Callable[[str], None]
    #: Seconds. Nothing that is measured takes so long, but a server that hangs.
    patience: float = 150

    def rounds(self, count: int) -> Iterator[Figures]:
        """Measure everything `count` times, each time with fresh servers, while there is time."""
        for number in range(count):
            if time.monotonic() > self.until:
                return
            kinds = [kind for kind in self.kinds if number < kind.rounds]
            # Whoever is first is not always the same.
            turn = number % max(1, len(kinds))
            for _, group in groupby(self.rows, key=lambda row: row.group):
                yield from self._group([*kinds[turn:], *kinds[:turn]], list(group), number)

    def _group(self, kinds: Sequence[Kind], rows: Sequence[Row], number: int) -> Iterator[Figures]:
        due = [row for row in rows if number < row.rounds]
        wanted = [kind for kind in kinds if any(_has(kind, row) for row in due)]
        with started([kind for kind in wanted if not kind.instant], self.below) as lasting:
            for row, kind in product(due, wanted):
                if _has(kind, row) and time.monotonic() < self.until:
                    yield self._in_turn(kind, lasting, row, number)

    def _in_turn(self, kind: Kind, lasting: Sequence[Running], row: Row, number: int) -> Figures:
        running = [server for server in lasting if server.kind is kind]
        if running:
            return self.once(running[0], row, number)
        with started([kind], self.below) as [fresh]:
            return self.once(fresh, row, number)

    def once(self, server: Running, row: Row, number: int) -> Figures:
        """Measure one server in one row."""
        pids = server.family()
        processes.forget_peaks(pids)
        before = {process.pid: process.cpu for process in processes.look(pids)}
        told = self._load(server, row)
        after = processes.look(server.family())
        cpu = sum(process.cpu - before.get(process.pid, 0) for process in after)
        peaks = tuple((process.name, process.peak) for process in after)
        figures = Figures(row.name, server.kind.name, number, told, peaks, cpu)
        self.tell(_line(figures, row))
        server.clear()
        time.sleep(_PAUSE)
        return figures

    def _load(self, server: Running, row: Row) -> dict[str, Any]:
        """Run the load generator and return what it tells; that it tells nothing is an error."""
        where = ("--port", str(server.port), "--path", server.kind.path)
        command = [str(self.load), *row.words, *where]
        try:
            done = subprocess.run(  # noqa: S603  our own program
                command, stdout=subprocess.PIPE, timeout=self.patience, check=True, text=True
            )
        except subprocess.SubprocessError as error:
            return _nothing(row, str(error))
        told: dict[str, Any] = json.loads(done.stdout)
        return told


def _nothing(row: Row, error: str) -> dict[str, Any]:
    """Return what would have been told of a measurement that did not come to an end."""
    zeros = (
        "operations",
        "uncounted",
        "ops_per_s",
        "p50_ms",
        "p99_ms",
        "bytes",
        "mb_per_s",
        "client_cpu_s",
    )
    return dict.fromkeys(zeros, 0) | {"mode": row.words[0], "errors": 1, "first_error": error}


def _has(kind: Kind, row: Row) -> bool:
    return kind.rows is None or row.name in kind.rows


def _line(figures: Figures, row: Row) -> str:
    told = figures.told
    peak = f"{figures.peak / 1e6:6.0f} MB" if figures.peak else ""
    wrong = f"  {told['errors']} errors: {told['first_error']}" if told["errors"] else ""
    return (
        f"{row.name:<24} {figures.server:<14} {told[row.field]:>10,.1f} {row.unit:<6}"
        f" p50 {told['p50_ms']:8.2f} p99 {told['p99_ms']:8.2f} ms  cpu {figures.cpu:5.2f} s"
        f" (client {told['client_cpu_s']:.2f}){peak}{wrong}"
    )
