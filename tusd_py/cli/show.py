"""Bars and tables on a terminal, plain lines elsewhere; progress on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MB = 2**20
STEPS = 10
# Of these sentences the first real word tells what kind of news it is.
WORD = re.compile(r"[A-Za-z]{3,}")
COLUMNS = ("Plate", "Confidence", "First seen", "Last seen", "Detections")


class Meter(Protocol):
    """Show how far a piece of work is."""

    def tell(self, label: str, fraction: float, text: str) -> None:
        """Show the share done, 0 to 1, of what `label` names, and a sentence."""

    def say(self, line: str) -> None:
        """Write one line beside the bars."""


class Bars:
    """Show a bar for each label."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def tell(self, label: str, fraction: float, text: str) -> None:
        """Move the bar of this label, or begin it."""
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=1.0, text=text)
        self._progress.update(self._tasks[label], completed=fraction, text=text)

    def say(self, line: str) -> None:
        """Write the line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Lines:
    """Write a line for each tenth, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[int, str]] = {}

    def tell(self, label: str, fraction: float, text: str) -> None:
        """Write the line when another tenth is done, or the work says something of another kind."""
        word = WORD.search(text)
        told = int(fraction * STEPS), word.group() if word else ""
        if self._last.get(label) != told:
            self._last[label] = told
            self.say(f"{label}: {text}")

    def say(self, line: str) -> None:
        """Write the line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def meter() -> Iterator[Meter]:
    """Yield what fits stderr: bars on a terminal, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


def say(line: str) -> None:
    """Write one line of a result, as it is."""
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def show_plates(plates: Iterable[Mapping[str, Any]]) -> None:
    """Print the table of plates."""
    show_table(COLUMNS, [row(plate) for plate in plates])


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose columns of numbers stand right."""
    # Without lines between the columns it fits 80 characters.
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column in columns:
        side: Literal["left", "right"] = "right" if column in COLUMNS[1:] else "left"
        table.add_column(column, justify=side, no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    Console().print(table, markup=False)


def row(plate: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one plate."""
    return (
        str(plate["text"]),
        f"{plate['confidence']:.2f}",
        f"{plate['first_seen']:.1f} s",
        f"{plate['last_seen']:.1f} s",
        str(plate["detections"]),
    )


def show_analysis(analysis: Mapping[str, Any]) -> None:
    """Print the table of plates, what was searched, and which reader ran and why."""
    if analysis["plates"]:
        show_plates(analysis["plates"])
    else:
        say("No plates found.")
    frames, analysed = analysis["frames"], analysis["frames_analysed"]
    say(f"Frames searched: {analysed} of {frames}; detections: {analysis['detections']}.")
    say(reader(analysis))
    for warning in analysis.get("warnings", ()):
        say(f"Note: {warning}.")


def reader(analysis: Mapping[str, Any]) -> str:
    """Say which plate reader ran, and why."""
    reason = analysis.get("reader_reason")
    return f"Plate reader: {analysis['reader']}{f' ({reason})' if reason else ''}."


def size(count: float) -> str:
    """Return bytes as people read them."""
    return f"{count / MB:.1f} MB" if count >= MB else f"{count / 1024:.1f} KB"
