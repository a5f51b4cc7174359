"""What is measured: one row of the tables each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024
GIB = 1024 * MIB
SMALL = 10 * 1024
# Operations of a small row: enough to count, few enough files to remove.
MOST = 15_000

Unit = Literal["ops/s", "MB/s", "ms"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: the words for the load generator, and the figure that counts."""

    name: str
    title: str
    #: Rows of one group share a server; each group gets a fresh one.
    group: Literal["small", "large", "trickle"]
    unit: Unit
    words: tuple[str, ...]
    #: One that takes long is not measured as often.
    rounds: int = 99

    @property
    def field(self) -> str:
        """Return the name of its figure in what the load generator tells."""
        return {"ops/s": "ops_per_s", "MB/s": "mb_per_s", "ms": "p99_ms"}[self.unit]


def rows(seconds: float = 1.5, scale: float = 1.0) -> list[Row]:
    """Return all rows; the small ones take `seconds`, the large ones `scale` times 1 GiB."""
    size = round(GIB * scale)
    return [*_small(seconds), *_large(size), *_trickle(5 if scale == 1 else 3)]


def _small(seconds: float) -> list[Row]:
    return [
        *[_timed("create_patch", "create + PATCH 10 KiB", seconds, n) for n in (1, 16, 64)],
        *[
            _timed("creation_with_upload", "creation-with-upload 10 KiB", seconds, n)
            for n in (1, 16, 64)
        ],
        _timed("head", "HEAD", seconds, 16),
    ]


def _timed(mode: str, title: str, seconds: float, connections: int) -> Row:
    words = (mode, "--connections", str(connections), "--size", str(SMALL))
    times = ("--seconds", str(seconds), "--warm", str(round(seconds / 5, 2)), "--most", str(MOST))
    name, shown = f"{mode}_{connections}", f"{title}, {connections} conn."
    return Row(name, shown, "small", "ops/s", (*words, *times))


def _large(size: int) -> list[Row]:
    whole = f"{size // MIB:,} MiB" if size < GIB else "1 GiB"
    return [
        _sent("big", f"{whole} in one PATCH", 1, size, size),
        _sent("big_8m", f"{whole} in PATCHes of 8 MiB", 1, size, 8 * MIB),
        _sent("big_1m", f"{whole} in PATCHes of 1 MiB", 1, size, MIB),
        _sent("parallel_8", f"8 uploads at once, {whole} in all", 8, size // 8, size),
        _sent("parallel_32", f"32 uploads at once, {whole} in all", 32, size // 32, size),
    ]


def _sent(name: str, title: str, uploads: int, size: int, piece: int) -> Row:
    words = ("bytes", "--connections", str(uploads), "--size", str(size), "--piece", str(piece))
    return Row(name, title, "large", "MB/s", words)


def _trickle(seconds: int) -> list[Row]:
    return [
        Row(
            f"trickle_{uploads}",
            f"HEAD beside {uploads:,} trickling uploads, p99",
            "trickle",
            "ms",
            ("trickle", "--connections", str(uploads), "--seconds", str(seconds)),
            rounds=1,
        )
        for uploads in (1000, 5000)
    ]
