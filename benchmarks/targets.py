"""What is aimed at: ratios in one interleaved run on two cores, and bounds of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measure import Figures
    from benchmarks.tables import Results, Spread

PEAK = 80e6
PER_OPEN_UPLOAD = 40e3


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of a server, as a share of another one's in the same row."""

    title: str
    row: str
    server: str
    of: str
    bound: float
    take: Callable[[Figures], float | None]
    at_most: bool = False

    def cells(self, results: Results) -> list[str]:
        """Return its line of the table."""
        ratio = results.ratio(self.row, self.server, self.of, self.take)
        sign = "<=" if self.at_most else ">="
        wanted = f"{sign} {self.bound:g} x {self.of}"
        wrong = results.is_wrong(self.row, self.server)
        verdict = "wrong answers" if wrong else self._verdict(ratio)
        return [self.title, wanted, str(ratio) if ratio else "-", verdict]

    def _verdict(self, ratio: Spread | None) -> str:
        if ratio is None:
            return "not measured"
        good = ratio.median <= self.bound if self.at_most else ratio.median >= self.bound
        return "reached" if good else "missed"


def speed(figures: Figures) -> float | None:
    """Return operations per second, or bytes per second where bodies are large."""
    large = figures.told["mode"] == "bytes"
    return float(figures.told["mb_per_s" if large else "ops_per_s"]) or None


def p99(figures: Figures) -> float | None:
    """Return the time in ms that one operation in a hundred exceeds."""
    return float(figures.told["p99_ms"]) or None


def cpu_per_gib(figures: Figures) -> float | None:
    """Return seconds of processor time per GiB."""
    return figures.cpu_per_gib


def peak(figures: Figures) -> float | None:
    """Return the peak of memory in bytes."""
    return figures.peak


def targets() -> list[Target]:
    """Return what is aimed at without syncs, as the peers run, and with the default policy."""
    return [
        *_large("1 GiB in one PATCH", "big", {"splice": 0.85, "tusd": 2, "@tus/server": 4}),
        *_large("8 uploads at once", "parallel_8", {"splice": 0.85, "tusd": 1.8}),
        *_small(
            "create + PATCH", "create_patch_16", {"splice": 0.42, "tusd": 3, "@tus/server": 20}
        ),
        Target("its p99", "create_patch_16", "ours", "tusd", 0.3, p99, at_most=True),
        *_small("creation-with-upload", "creation_with_upload_16", {"splice": 0.6, "tusd": 2.5}),
        *_small("HEAD", "head_16", {"splice": 0.6, "tusd": 5}),
        Target("CPU s per GiB", "big", "ours", "splice", 1.2, cpu_per_gib, at_most=True),
        Target("CPU s per GiB", "big", "ours", "tusd", 0.4, cpu_per_gib, at_most=True),
        *_durable("1 GiB in one PATCH", "big", 0.8),
        *_durable("8 uploads at once", "parallel_8", 0.8),
        *_durable("create + PATCH", "create_patch_16", 0.5),
        *_durable("creation-with-upload", "creation_with_upload_16", 0.5),
    ]


def verdicts(results: Results) -> str:
    """Return the table of what was aimed at and what was measured."""
    lines = [target.cells(results) for target in targets()]
    lines += [
        _memory(results, "peak memory, 1 GiB in one PATCH", "big", PEAK),
        _memory(results, "peak memory, 32 uploads at once", "parallel_32", PEAK),
        _memory(results, "peak memory, create + PATCH", "create_patch_16", PEAK),
        # Jobs that no worker takes lie in Redis by then.
        _memory(results, "peak memory, HEAD after all small rows", "head_16", PEAK),
    ]
    for count in (1000, 5000):
        title, bound = f"peak memory, {count:,} trickling", PEAK + count * PER_OPEN_UPLOAD
        lines.append(_memory(results, title, f"trickle_{count}", bound))
    return table(["", "wanted", "measured", ""], lines)


def _large(title: str, row: str, bounds: dict[str, float]) -> list[Target]:
    return [Target(title, row, "ours", of, bound, speed) for of, bound in bounds.items()]


def _small(title: str, row: str, bounds: dict[str, float]) -> list[Target]:
    return _large(f"{title}, 16 conn.", row, bounds)


def _durable(title: str, row: str, bound: float) -> list[Target]:
    shown = f"{title}, DURABILITY=request"
    return [
        Target(shown, row, "ours-request", "ours", bound, speed),
        Target(shown, row, "ours-request", "tusd", 1, speed),
    ]


def _memory(results: Results, title: str, row: str, bound: float) -> list[str]:
    found = results.median(row, "ours", peak)
    wanted = f"< {bound / 1e6:.0f} MB"
    if found is None:
        return [title, wanted, "-", "not measured"]
    return [title, wanted, f"{found / 1e6:.0f} MB", "reached" if found < bound else "missed"]
