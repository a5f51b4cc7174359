"""`tusd-py serve`: the upload server, with a private Redis where none is named."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

from tusd_py.cli import (
    CommandError,
    Exit,
    Stopped,
    add_settings,
    new_parser,
    read_settings,
    sentence,
    stop_on,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from starlette.applications import Starlette

    from settings import Settings

CODES = {
    Exit.OK: "stopped by SIGTERM or Ctrl-C",
    Exit.USAGE: "an option or a setting has a bad value",
    Exit.STARTUP: "could not start: port taken, no Redis server to run, "
    "directory not writable, or the Redis of another directory",
}
# What is asked to stop answers within a moment; only a stuck client is waited for so long.
GRACE_SECONDS = 10
# No honest client takes so long to say what it wants.
HEAD_SECONDS = 60
ANALYSIS = (
    "plate_reader",
    "alpr_model_dir",
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
)


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal asks to stop."""
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
    _need_directory(settings)
    sockets = listen(settings.host, settings.port)
    port = sockets[0].getsockname()[1]
    with _private_redis(settings) as url:
        _need_own_redis(url, settings)
        path = f"{settings.upload_path.rstrip('/')}/"
        _run(settings, sockets, f"http://{_shown(settings.host)}:{port}{path}")


def _run(settings: Settings, sockets: list[socket.socket], url: str) -> None:
    import uvicorn  # noqa: PLC0415  only the server needs it

    from tusd_py.app import create_app  # noqa: PLC0415
    from tusd_py.ingest import HttpProtocol  # noqa: PLC0415
    from tusd_py.log import configure  # noqa: PLC0415

    class Server(uvicorn.Server):
        """Say when the server listens, and tell running requests when it is to stop."""

        loop: asyncio.AbstractEventLoop | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            self.loop = asyncio.get_running_loop()
            await super().startup(sockets)
            print(f"Listening on {url} (uploads in {settings.upload_dir})", flush=True)  # noqa: T201

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            # uvicorn waits for running requests before it ends the lifespan: a body would go on.
            if self.loop is not None:
                self.loop.call_soon_threadsafe(app.state.shutdown)

    configure(settings)
    app: Starlette = create_app(settings)
    head_timeout = min(HEAD_SECONDS, settings.upload_timeout_seconds)
    config = uvicorn.Config(
        app,
        # uvicorn only calls it.
        http=partial(HttpProtocol, head_timeout=head_timeout),  # type: ignore[arg-type]
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config).run(sockets)


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


def _need_own_redis(url: str, settings: Settings) -> None:
    """Refuse the Redis of another directory; one that is away is waited for, and looked at then."""
    from storage.errors import AnotherDirectory, StorageError  # noqa: PLC0415
    from storage.marker import Marker  # noqa: PLC0415
    from storage.redis_sync import clients  # noqa: PLC0415

    text, _ = clients(url)
    try:
        Marker(text, settings.upload_dir).claim()
    except AnotherDirectory as error:
        raise CommandError(str(error), Exit.STARTUP) from error
    except StorageError:
        return
    finally:
        text.close()


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


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host to one port; port 0 takes a free one.

    Raises:
        CommandError: the host has no address here, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CommandError(
            f"HOST: expected an address of this machine, got {host!r} ({error.strerror})",
            Exit.STARTUP,
        ) from error
    bound: list[socket.socket] = []
    refused: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        taken = bound[0].getsockname()[1] if bound else port
        try:
            bound.append(_bound(socket.socket(family, kind, protocol), (address[0], taken)))
        except OSError as error:
            # A name may stand for an address this machine lacks, as localhost for ::1.
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and bound:
                for other in bound:
                    other.close()
                raise _unavailable(host, port, error) from error
            refused = refused or error
    if not bound and refused is not None:
        raise _unavailable(host, port, refused) from refused
    return bound


def _bound(one: socket.socket, address: tuple[str | int, int]) -> socket.socket:
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        # Bound alone, two with SO_REUSEADDR may share a port; listening says whose it is.
        one.listen(2048)
    except OSError:
        one.close()
        raise
    return one


def _unavailable(host: str, port: int, error: OSError) -> CommandError:
    choose = "choose another with --port or PORT (0 takes a free one)"
    says = {
        errno.EADDRINUSE: f"Port {port} on {host} is taken: stop that program, or {choose}",
        errno.EACCES: f"Port {port} needs the rights of root: {choose}",
        errno.EADDRNOTAVAIL: f"HOST: expected an address of this machine, got {host!r}",
    }
    said = says.get(error.errno or 0, f"{host}:{port} cannot be listened on: {error.strerror}")
    return CommandError(said, Exit.STARTUP)


def _shown(host: str) -> str:
    """Return a host as a URL holds it; every interface is reached on this machine's own."""
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
