"""`tusd-py work`: a worker of this machine that analyses finished videos, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusd_py.cli import CommandError, Exit, add_settings, new_parser, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    "job_timeout_seconds",
    "plate_reader",
    "alpr_model_dir",
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
    "keep_uploads_seconds",
    "keep_failed_seconds",
    "result_ttl_seconds",
    "log_level",
    "log_format",
)
WHAT = """Run a worker that analyses finished videos, one at a time.

SIGTERM or Ctrl-C lets the running job finish first: give the worker as long before you kill it.
A second one, a second later at the earliest, ends that job; another worker runs it again."""


def main(arguments: Sequence[str]) -> int:
    """Work until a signal asks to stop."""
    parser = new_parser("work", WHAT, CODES)
    add_settings(parser, SETTINGS)
    settings = read_settings(parser.parse_args(arguments))

    import worker  # noqa: PLC0415  computer vision takes a second
    from storage.errors import StorageError  # noqa: PLC0415
    from tusd_py.log import configure  # noqa: PLC0415

    configure(settings)
    try:
        return worker.main(settings)
    except StorageError as error:
        raise CommandError(str(error), Exit.STARTUP) from error
