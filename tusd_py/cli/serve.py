"""`tusd-py serve`: the upload server, with a private Redis where none is named."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from tusd_py.cli import (
    CommandError,
    Exit,
    Stopped,
    add_settings,
    need_redis_url,
    new_parser,
    read_settings,
    sentence,
    stop_on,
)
from tusd_py.cli.sockets import listen, multiply, shown

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from settings import Settings

CODES = {
    Exit.OK: "stopped by SIGTERM or Ctrl-C",
    Exit.USAGE: "an option or a setting has a bad value",
    Exit.STARTUP: "could not start: port taken, no Redis server to run, "
    "directory not writable, or a Redis of another directory or of a cluster",
}
# Seconds that one of several processes has beyond its grace to let go of everything.
CLEANUP_SECONDS = 5
# Libraries that others load where they are, to colour tracebacks and to watch source files: 5 MB.
UNWANTED = ("rich", "watchfiles")
ANALYSIS = (
    "plate_reader",
    "alpr_model_dir",
    "plate_model_dir",
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
    "plate_region",
    "max_pixels",
    "processes",
    "stop_grace_seconds",
    "job_memory_bytes",
)


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal asks to stop."""
    for name in UNWANTED:
        # As if it were not installed.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    from settings import Settings  # noqa: PLC0415  pydantic takes a quarter of a second

    parser = new_parser(
        "serve", "Run the upload server: tus 1.0.0 at /files/, jobs at /jobs/.", CODES
    )
    add_settings(parser, [name for name in Settings.model_fields if name not in ANALYSIS])
    settings = read_settings(parser.parse_args(arguments))
    # uvicorn raises the signal again when it has ended; by then everything is done.
    stop_on(signal.SIGTERM, signal.SIGINT)
    with contextlib.suppress(Stopped):
        _serve(settings)
    return Exit.OK


def _serve(settings: Settings) -> None:
    from tusd_py.cli.limits import raise_open_files  # noqa: PLC0415  structlog takes a moment
    from tusd_py.log import configure  # noqa: PLC0415

    configure(settings)
    need_redis_url(settings)
    _need_directory(settings)
    raise_open_files()
    sockets = listen(settings.host, settings.port)
    serving = partial(_say_where, settings, sockets[0].getsockname()[1])
    with _private_redis(settings) as url:
        _need_fit_redis(url, settings)
        if settings.workers > 1:
            _serve_by_many(settings, serving, sockets)
        else:
            from tusd_py.cli.web import serve  # noqa: PLC0415  only the server needs it

            serve(settings, serving, sockets)


def _say_where(settings: Settings, port: int) -> None:
    path = f"{settings.upload_path.rstrip('/')}/"
    url = f"http://{shown(settings.host)}:{port}{path}"
    print(f"Listening on {url} (uploads in {settings.upload_dir})", flush=True)  # noqa: T201


def _serve_by_many(
    settings: Settings, serving: Callable[[], object], sockets: list[socket.socket]
) -> None:
    # Loaded before the fork, all of it is there only once.
    from tusd_py.cli.web import GRACE_SECONDS, serve  # noqa: PLC0415
    from tusd_py.cli.workers import Workers  # noqa: PLC0415

    shares = multiply(sockets, settings.workers)

    def work(number: int, serves: Callable[[], object]) -> None:
        others = [one for share in shares if share is not shares[number] for one in share]
        serve(settings, serves, shares[number], others)

    def close() -> None:
        # Else clients would wait at a door behind which nobody comes any more.
        for one in itertools.chain(*shares):
            one.close()

    grace = GRACE_SECONDS + CLEANUP_SECONDS
    Workers(settings.workers, work, grace=grace).run(serving, close)


@contextlib.contextmanager
def _private_redis(settings: Settings) -> Iterator[str]:
    """Start the private server where no Redis is named: that it cannot is said before we listen.

    Yield where Redis is. The app looks after it from then on.
    """
    if settings.redis_url is not None:
        yield settings.redis_url
        return
    from storage.embedded import Embedded, EmbeddedUnavailable  # noqa: PLC0415

    try:
        embedded = Embedded(settings.upload_dir / "redis")
        embedded.start()
    except EmbeddedUnavailable as error:
        raise CommandError(str(error), Exit.STARTUP) from error
    try:
        yield embedded.url
    finally:
        embedded.close()


def _need_fit_redis(url: str, settings: Settings) -> None:
    """Refuse a Redis that is another directory's or a cluster's; one that is away is waited for."""
    from storage.errors import AnotherDirectory, ClusterRefused, StorageError  # noqa: PLC0415
    from storage.redis_server import examine  # noqa: PLC0415

    try:
        examine(url, settings.upload_dir)
    except (AnotherDirectory, ClusterRefused) as error:
        raise CommandError(str(error), Exit.STARTUP) from error
    except StorageError:
        return


def _need_directory(settings: Settings) -> None:
    place = settings.upload_dir
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    except OSError as error:
        raise CommandError(
            f"UPLOAD_DIR cannot be used: {sentence(error)}. Choose a directory this user may "
            "write, with --upload-dir or UPLOAD_DIR.",
            Exit.STARTUP,
        ) from error
