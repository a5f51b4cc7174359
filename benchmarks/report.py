"""What is said of the results: on the terminal, and in RESULTS.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.machine import describe
from benchmarks.tables import by_server, table
from benchmarks.targets import cpu_per_gib, p99, peak, speed, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.measure import Figures
    from benchmarks.rows import Row
    from benchmarks.tables import Results

LIMIT = "splice"
OURS = ("ours", "ours-request", "ours-interval")
METHOD = """\
`ours` is `tusd-py serve` with one web process, its private Redis and `DURABILITY=none`, which is
what the other servers do; `ours-request` and `ours-interval` are the policies that promise more.
`splice` and `recv` are bare receivers in C (`receiver.c`): a thread a connection, no checks, bytes
from the socket into a file by splice with `SO_RCVLOWAT` or by recv + pwrite, answers of tus.
`bare-asgi` does the same in Python (`bare_asgi.py`): no checks, no locks, no journal, one ASGI
callable on uvicorn with uvloop and httptools: what these leave to any server that stands on them.
The client (`load.c`) checks every status and `Upload-Offset`; it shares the cores with the server.

Servers take turns in each row, and rounds have fresh servers in fresh directories. A figure is the
median of the rounds; a ratio is taken within each round, and given as median (least..most). Only
ratios carry over to other machines. CPU and memory are those of all processes of a server, its
Redis too: VmHWM summed, started anew for each row; jobs that nobody takes stay in that Redis.
"""


def summary(results: Results, rows: Sequence[Row]) -> str:
    """Return the tables that are printed."""
    parts = [lines for _, lines in _tables(results, rows)]
    return "\n\n".join([*parts, *_wrong(results)])


def document(results: Results, rows: Sequence[Row], directory: Path) -> str:
    """Return RESULTS.md."""
    parts = ["# Results", describe(directory), METHOD]
    parts += ["## What is aimed at", verdicts(results)]
    for title, lines in _tables(results, rows):
        parts += [f"## {title}", lines]
    return "\n\n".join(part.strip() for part in [*parts, *_wrong(results)]) + "\n"


def _tables(results: Results, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return each table with its title; what was not measured is left out."""
    fast = [row for row in rows if row.group != "trickle"]
    small = [row for row in rows if row.group == "small"]
    large = [row for row in rows if row.group == "large"]
    found = [
        ("Speed", _speeds(results, rows)),
        ("99 of 100 operations take at most, ms", _table(results, small, p99, 2)),
        (f"Share of {LIMIT}", _ratios(results, fast, LIMIT)),
        *[(f"Times {peer}", _ratios(results, fast, peer, OURS)) for peer in _peers(results)],
        ("What a policy costs: share of DURABILITY=none", _ratios(results, fast, "ours", OURS[1:])),
        ("Processor time, s per GiB", _table(results, large, cpu_per_gib, 2)),
        ("Processor time, us per operation", _table(results, small, _per_operation)),
        ("Peak of memory, MB", _table(results, rows, _megabytes)),
    ]
    return [(title, lines) for title, lines in found if lines.count("\n") > 1]


def _peers(results: Results) -> list[str]:
    return [name for name in results.servers() if name not in {LIMIT, "recv", "bare-asgi", *OURS}]


def _per_operation(figures: Figures) -> float | None:
    return figures.cpu_per_operation


def _megabytes(figures: Figures) -> float | None:
    found = peak(figures)
    return None if found is None else found / 1e6


def _speeds(results: Results, rows: Sequence[Row]) -> str:
    fields = {row.name: row.field for row in rows}
    titles = {row.name: f"{row.title}, {row.unit}" for row in rows}
    return by_server(results, titles, lambda one: float(one.told[fields[one.row]]), digits=1)


def _table(
    results: Results,
    rows: Sequence[Row],
    take: Callable[[Figures], float | None],
    digits: int = 0,
) -> str:
    return by_server(results, _titles(rows), take, digits=digits)


def _titles(rows: Sequence[Row]) -> Mapping[str, str]:
    return {row.name: row.title for row in rows}


def _ratios(
    results: Results, rows: Sequence[Row], of: str, servers: Sequence[str] | None = None
) -> str:
    measured = results.servers()
    columns = [one for one in servers or measured if one != of and one in measured]
    ratios = {
        row.title: [results.ratio(row.name, server, of, speed) for server in columns]
        for row in rows
    }
    lines = [
        [title, *[str(ratio or "-") for ratio in found]]
        for title, found in ratios.items()
        if any(found)
    ]
    return table(["", *columns], lines)


def _wrong(results: Results) -> list[str]:
    lines = [
        f"- {one.server}, {one.row}, round {one.round + 1}: {one.told['errors']} "
        f"({one.told['first_error']})"
        for one in results.errors()
    ]
    return ["## Wrong answers", "\n".join(lines)] if lines else []
