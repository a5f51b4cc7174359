"""Measurements as they might have been."""

from __future__ import annotations

from benchmarks.measure import Figures


def figures(
    row: str,
    server: str,
    number: int = 0,
    *,
    speed: float = 100.0,
    cpu: float = 1.0,
    peak: int = 1_000_000,
    errors: int = 0,
) -> Figures:
    """Return one measurement: `speed` is in operations and in MB a second, 1 GiB was sent."""
    told = {
        "mode": "bytes" if row.startswith(("big", "parallel")) else row,
        "operations": 800,
        "uncounted": 200,
        "ops_per_s": speed,
        "mb_per_s": speed,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "bytes": 1 << 30,
        "errors": errors,
        "first_error": "PATCH: expected Upload-Offset 7" if errors else "",
    }
    return Figures(row, server, number, told, (("serve", peak), ("redis", peak)), cpu)
