"""`python -m benchmarks`: measure our server beside bare receivers and other servers."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import measure
from benchmarks.peers import PEERS, peers
from benchmarks.programs import LOAD, RECEIVER, CannotBuild, build
from benchmarks.report import document, summary
from benchmarks.rows import rows
from benchmarks.servers import DoesNotStart, Kind, Running, bare, bare_asgi, ours, place
from benchmarks.tables import Results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.rows import Row

POLICIES = ("none", "request", "interval")
KNOWN = ("splice", "recv", "bare-asgi", "ours", "ours-request", "ours-interval", *PEERS)


def main(words: Sequence[str]) -> int:
    """Measure what was asked for, and print the tables."""
    options = parser().parse_args(words)
    # What was started and written is ended and removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        results = Results(measured(options), KNOWN)
    except (CannotBuild, DoesNotStart) as error:
        print(error, file=sys.stderr)  # noqa: T201  talks to people
        return 1
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in results.figures], indent=1))
    print(summary(results, chosen_rows(options)))  # noqa: T201  talks to people
    if options.results:
        place = options.directory or Path(tempfile.gettempdir())
        options.results.write_text(document(results, chosen_rows(options), place))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--rows", help="names, beginnings of names or groups, separated by commas")
    made.add_argument(
        "--servers", help="which, by commas; all by default, none for --command alone"
    )
    made.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    made.add_argument("--minutes", type=float, default=7.5, help="how long it measures (7.5)")
    made.add_argument("--quick", action="store_true", help="one short round, 128 MiB for 1 GiB")
    made.add_argument("--seconds", type=float, default=1.5, help="length of a small row (1.5)")
    made.add_argument("--command", help="also this server: words with {port} and {directory}")
    made.add_argument("--port", type=int, help="only the server that runs on this port")
    made.add_argument("--path", default="/files/", help="where it takes uploads (/files/)")
    made.add_argument("--directory", type=Path, help="where servers get their directories")
    made.add_argument("--results", type=Path, help="write the tables there, in Markdown")
    made.add_argument("--json", type=Path, help="write every single measurement there")
    return made


def measured(options: argparse.Namespace) -> list[measure.Figures]:
    """Measure, and return what came of it."""
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731, T201
    kinds = [] if options.port else chosen_kinds(options, tell)
    rounds = 1 if options.quick else options.rounds
    until = time.monotonic() + 60 * options.minutes
    with place(options.directory) as below:
        bench = measure.Bench(build(LOAD), kinds, chosen_rows(options), below, until, tell)
        if not options.port:
            return list(bench.rounds(rounds))
        there = Running(Kind("running", (), path=options.path), options.port)
        return [bench.once(there, row, number) for number in range(rounds) for row in bench.rows]


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    """Return the rows that were asked for."""
    every = rows(0.6, 1 / 8) if options.quick else rows(options.seconds)
    names = tuple(options.rows.split(",")) if options.rows else ("",)
    return [row for row in every if row.name.startswith(names) or row.group in names]


def chosen_kinds(options: argparse.Namespace, tell: Callable[[str], None]) -> list[Kind]:
    """Return the servers that were asked for."""
    receiver = build(RECEIVER)
    names = options.servers.split(",") if options.servers else None
    every = [bare("splice", receiver), bare("recv", receiver), bare_asgi(), *map(ours, POLICIES)]
    every += peers(lambda name: names is None or name in names, tell)
    other = [Kind("other", options.command.split())] if options.command else []
    if names is None:
        return every + other
    if unknown := set(names) - {"none", *KNOWN}:
        parser().error(f"--servers: expected {', '.join(KNOWN)} or none, got {min(unknown)!r}")
    return [replace(kind, rows=None, rounds=99) for kind in every if kind.name in names] + other


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
