"""`tusd-py work`: workers of this machine that analyse finished videos."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tusd_py.cli import (
    CommandError,
    Exit,
    Stopped,
    add_settings,
    need_redis_url,
    new_parser,
    read_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from settings import Settings

CODES = {
    Exit.OK: "stopped by SIGTERM or Ctrl-C",
    Exit.USAGE: "an option or a setting has a bad value",
    Exit.STARTUP: "could not start: no Redis server to run, directory not writable, "
    "or the Redis of another directory",
}
SETTINGS = (
    "upload_dir",
    "redis_url",
    "queue",
    "processes",
    "stop_grace_seconds",
    "job_timeout_seconds",
    "job_timeout_seconds_per_mb",
    "job_memory_bytes",
    "plate_reader",
    "alpr_model_dir",
    "plate_model_dir",
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
    "plate_region",
    "max_pixels",
    "max_file_size",
    "analysis_segment_seconds",
    "keep_uploads_seconds",
    "keep_failed_seconds",
    "result_ttl_seconds",
    "log_level",
    "log_format",
)
WHAT = """Run workers that analyse finished videos, one at a time each (--processes for more).

SIGTERM or Ctrl-C lets a running job go on for --stop-grace-seconds; then it is put back into the
queue. A second one, a second later at the earliest, does that at once."""
# Seconds that one of several processes has beyond its grace to give its job back.
_CLEANUP = 15.0


def main(arguments: Sequence[str]) -> int:
    """Work until a signal asks to stop."""
    parser = new_parser("work", WHAT, CODES)
    add_settings(parser, SETTINGS)
    settings = read_settings(parser.parse_args(arguments))
    need_redis_url(settings)

    import worker  # noqa: PLC0415  computer vision takes a second
    from storage.errors import StorageError  # noqa: PLC0415
    from tusd_py.log import configure  # noqa: PLC0415

    configure(settings)
    try:
        if settings.processes == 1:
            return worker.main(settings)
        with worker.ready(settings):
            return _work_by_many(settings, worker.work)
    except StorageError as error:
        raise CommandError(str(error), Exit.STARTUP) from error


def _work_by_many(settings: Settings, work: Callable[[Settings], None]) -> int:
    from tusd_py.cli.workers import Workers  # noqa: PLC0415  structlog takes a moment

    def serve(_: int, serves: Callable[[], object]) -> None:
        serves()
        work(settings)

    def nothing() -> None:
        """Share no socket."""

    grace = settings.stop_grace_seconds + _CLEANUP
    with suppress(Stopped):
        Workers(settings.processes, serve, grace=grace).run(nothing, nothing)
    return Exit.OK
