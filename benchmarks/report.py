"""What is said of the results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.tables import by_server, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Figures
    from benchmarks.rows import Row
    from benchmarks.tables import Results

LIMIT = "splice"


def summary(results: Results, rows: Sequence[Row]) -> str:
    """Return the tables that are printed: medians, and ratios with their spread."""
    parts = [_medians(results, rows)]
    if LIMIT in results.servers():
        parts.append(_ratios(results, rows))
    if wrong := results.errors():
        parts.append("\n".join(_error(one) for one in wrong))
    return "\n\n".join(parts)


def _medians(results: Results, rows: Sequence[Row]) -> str:
    figure = {row.name: row for row in rows}
    titles = {row.name: f"{row.title}, {row.unit}" for row in rows}
    small = {row.name: f"{row.title}, p99 ms" for row in rows if row.group == "small"}
    large = {row.name: f"{row.title}, CPU s/GiB" for row in rows if row.group == "large"}
    count = {row.name: f"{row.title}, CPU us each" for row in rows if row.group == "small"}
    peaks = {row.name: f"{row.title}, peak MB" for row in rows}
    tables = [
        by_server(results, titles, lambda one: one.told[figure[one.row].field], digits=1),
        by_server(results, small, lambda one: one.told["p99_ms"], digits=2),
        by_server(results, count, lambda one: one.cpu_per_operation),
        by_server(results, large, lambda one: one.cpu_per_gib, digits=2),
        by_server(results, peaks, lambda one: one.peak and one.peak / 1e6),
    ]
    return "\n\n".join(tables)


def _ratios(results: Results, rows: Sequence[Row]) -> str:
    servers = [server for server in results.servers() if server != LIMIT]
    lines = [[row.title, *[_share(results, row, server) for server in servers]] for row in rows]
    return table([f"of {LIMIT}", *servers], lines)


def _share(results: Results, row: Row, server: str) -> str:
    return str(results.ratio(row.name, server, LIMIT, lambda one: one.told[row.field]) or "-")


def _error(one: Figures) -> str:
    told = one.told
    return f"{one.server}, {one.row}: {told['errors']} wrong answers, first: {told['first_error']}"
