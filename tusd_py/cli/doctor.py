"""`tusd-py doctor`: find what is amiss between UPLOAD_DIR and Redis, and mend it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tusd_py.cli import CommandError, Exit, add_settings, new_parser, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from settings import Settings
    from storage.checkup import Finding
    from storage.filestore import FileStore
    from storage.redis_jobs import RedisJobs

CODES = {
    Exit.OK: "all is well, or was mended; with --dry-run: or can be",
    Exit.FAILED: "something needs a person",
    Exit.USAGE: "an option or a setting has a bad value",
    Exit.STARTUP: "no such directory, no Redis, or the Redis of another directory",
}
SETTINGS = (
    "upload_dir",
    "redis_url",
    "queue",
    "job_timeout_seconds",
    "job_timeout_seconds_per_mb",
    "keep_uploads_seconds",
    "keep_failed_seconds",
    "result_ttl_seconds",
)
WHAT = """Find what is amiss between UPLOAD_DIR and Redis, and mend it.

The journals in UPLOAD_DIR are the truth. Servers and workers may run meanwhile; they mend the same
by themselves, most of it every ten minutes. No file of an upload that has a journal is removed but
of one that has expired or that somebody removed."""
MENDED, WOULD, LEFT, PERSON = "mended", "would be mended", "left", "needs a person"


def main(arguments: Sequence[str]) -> int:
    """Look, mend, and tell in one line each."""
    parser = new_parser("doctor", WHAT, CODES)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--dry-run", action="store_true", help="change nothing, only tell")
    which.add_argument(
        "--adopt",
        action="store_true",
        help="take over a Redis that belongs to another UPLOAD_DIR, whose place this one has taken",
    )
    add_settings(parser, SETTINGS)
    options = parser.parse_args(arguments)
    settings = read_settings(options)
    with _jobs(settings) as jobs:
        if options.adopt:
            jobs.marker.adopt()
        elif not options.dry_run:
            jobs.marker.claim()
        else:
            jobs.marker.known()
        return _check(jobs, dry=options.dry_run, as_json=options.json)


@contextmanager
def _jobs(settings: Settings) -> Iterator[RedisJobs]:
    """Compose the stores; what keeps them from working is told in a sentence."""
    from storage.embedded import Embedded  # noqa: PLC0415  redis takes a moment
    from storage.errors import StorageError  # noqa: PLC0415
    from storage.filestore import FileStore  # noqa: PLC0415
    from tusd_py.log import configure  # noqa: PLC0415

    # What is done is told here already.
    configure(_Quiet())
    if not settings.upload_dir.is_dir():
        raise CommandError(f"UPLOAD_DIR {settings.upload_dir} is no directory", Exit.STARTUP)
    data = FileStore(settings.upload_dir)
    try:
        with ExitStack() as held:
            url = settings.redis_url
            if url is None:
                url = held.enter_context(Embedded(settings.upload_dir / "redis")).url
            yield _connect(url, data, settings)
    except StorageError as error:
        raise CommandError(str(error), Exit.STARTUP) from error


def _connect(url: str, data: FileStore, settings: Settings) -> RedisJobs:
    from storage.redis_jobs import RedisJobs  # noqa: PLC0415

    try:
        return RedisJobs.connect(url, data, settings)
    except ValueError as error:
        raise CommandError(f"REDIS_URL: {error}", Exit.USAGE) from error


class _Quiet:
    log_level = "error"
    log_format = "console"


def _check(jobs: RedisJobs, *, dry: bool, as_json: bool) -> int:
    counts: Counter[str] = Counter()
    for finding in jobs.checkup.examine(thorough=True):
        state, reason = _treat(finding, dry=dry)
        counts[state] += 1
        if as_json:
            _print_json(finding, state, reason)
        else:
            _print(finding, state, reason)
    if as_json:
        summary = {name: counts[name] for name in (MENDED, WOULD, LEFT, PERSON)}
        print(json.dumps({"summary": summary}), flush=True)  # noqa: T201
    else:
        print(_summary(counts), flush=True)  # noqa: T201
    return Exit.FAILED if counts[PERSON] else Exit.OK


def _treat(finding: Finding, *, dry: bool) -> tuple[str, str]:
    """Return what became of a finding, and of a failure the reason."""
    from storage.errors import StorageError, StoreUnavailable  # noqa: PLC0415

    if finding.mend is None:
        return PERSON, ""
    if dry:
        return WOULD, ""
    try:
        return (MENDED if finding.mend() else LEFT), ""
    except StoreUnavailable:
        raise
    except (StorageError, ValueError, KeyError, TypeError) as error:
        return PERSON, str(error)


def _print(finding: Finding, state: str, reason: str) -> None:
    done = {
        MENDED: finding.cure,
        WOULD: f"would be {finding.cure}",
        LEFT: "left, as it is in use or was mended meanwhile",
        PERSON: f"NEEDS YOU: {finding.cure if finding.mend is None else reason}",
    }
    line = f"{finding.kind:<7}  {finding.name}  {finding.what}: {done[state]}"
    print(line, flush=True)  # noqa: T201  a command speaks


def _print_json(finding: Finding, state: str, reason: str) -> None:
    said = {"kind": finding.kind, "name": finding.name, "what": finding.what, "state": state}
    more = {"advice" if finding.mend is None else "cure": finding.cure}
    more |= {"reason": reason} if reason else {}
    print(json.dumps(said | more), flush=True)  # noqa: T201


def _summary(counts: Counter[str]) -> str:
    if not counts.total():
        return "All is well."
    told = [f"{counts[state]} {state}" for state in (MENDED, WOULD, LEFT, PERSON) if counts[state]]
    return f"{counts.total()} found: {', '.join(told)}."
