"""From single measurements to medians, ratios with their spread, and tables in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.measure import Figures


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, with the least and the most of what it is made of."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of these values, None where there are none."""
        known = list(values)
        return cls(median(known), min(known), max(known)) if known else None

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}..{self.most:.2f})"


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured."""

    figures: Sequence[Figures]

    #: The servers in the order of their columns; others come after them.
    order: Sequence[str] = ()

    def servers(self) -> list[str]:
        """Return the servers that were measured."""
        measured = dict.fromkeys(figures.server for figures in self.figures)
        known = [server for server in self.order if server in measured]
        return known + [server for server in measured if server not in known]

    def values(
        self, row: str, server: str, take: Callable[[Figures], float | None]
    ) -> dict[int, float]:
        """Return one figure of a server by round; rounds without it are left out."""
        here = [one for one in self.figures if one.row == row and one.server == server]
        return {one.round: value for one in here if (value := take(one)) is not None}

    def median(
        self, row: str, server: str, take: Callable[[Figures], float | None]
    ) -> float | None:
        """Return the median over the rounds."""
        spread = Spread.of(self.values(row, server, take).values())
        return None if spread is None else spread.median

    def ratio(
        self, row: str, server: str, of: str, take: Callable[[Figures], float | None]
    ) -> Spread | None:
        """Return how many times `of`'s figure a server has.

        Compared round by round, as the machine is not the same in each; where the other was
        measured in fewer rounds, with its median.
        """
        ours, theirs = self.values(row, server, take), self.values(row, of, take)
        usual = self.median(row, of, take)
        others = {number: theirs.get(number, usual) for number in ours}
        return Spread.of(ours[number] / other for number, other in others.items() if other)

    def is_wrong(self, row: str, server: str) -> bool:
        """Tell whether a server's answers in a row were wrong."""
        return any(one.row == row and one.server == server for one in self.errors())

    def errors(self) -> list[Figures]:
        """Return the measurements in which answers were wrong."""
        return [one for one in self.figures if one.told["errors"]]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; the first column is words, the others figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def shown(value: float | None, digits: int = 0) -> str:
    """Return a figure as a table holds it."""
    return "-" if value is None else f"{value:,.{digits}f}"


def by_server(
    results: Results,
    rows: Mapping[str, str],
    take: Callable[[Figures], float | None],
    *,
    digits: int = 0,
    servers: Sequence[str] | None = None,
) -> str:
    """Return a table of medians: rows by their titles, a column for each server."""
    columns = servers or results.servers()
    lines = [
        [title, *[shown(results.median(row, server, take), digits) for server in columns]]
        for row, title in rows.items()
    ]
    return table(["", *columns], lines)
