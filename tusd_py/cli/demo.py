"""`tusd-py demo`: the whole path on this machine: sent, cut, resumed, analysed, shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tusd_py.cli import (
    CommandError,
    Exit,
    Stopped,
    add_settings,
    new_parser,
    read_settings,
    sentence,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from settings import Settings
    from tusd_py.cli.stage import Child

CLIP = Path(__file__).resolve().parent.parent / "demo_clip" / "clip.webm"
CODES = {
    Exit.OK: "the plates were read (of the bundled clip: read right)",
    Exit.FAILED: "the upload or the analysis failed, or a plate of the bundled clip was read wrong",
    Exit.USAGE: "an option or a setting has a bad value",
    Exit.STARTUP: "could not start: no Redis server to run, disk full, a part ended at once",
    Exit.INTERRUPTED: "interrupted before the plates were shown",
}
SETTINGS = (
    "port",
    "plate_reader",
    "alpr_model_dir",
    "plate_model_dir",
    "easyocr_model_dir",
    "easyocr_recog_network",
    "easyocr_gpu",
    "analysis_threads",
    "log_level",
)
# Slow enough to be seen, and to be cut in the middle.
SEND_SECONDS = 3.0
START_SECONDS = 60.0
LISTENING = re.compile(r"Listening on (http://127\.0\.0\.1:(\d+)/files/)")


def main(arguments: Sequence[str]) -> int:
    """Show the main job from end to end."""
    options = _options(arguments)
    settings = read_settings(options)
    video = options.video or CLIP
    if not video.is_file():
        raise CommandError(f"{video}: {'not a regular file' if video.exists() else 'no such file'}")
    # Looked at where it is safe: an exception while a child starts would lose sight of it.
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    try:
        with _directory(options.data, asked) as place:
            return _play(video, place, options, settings)
    except Stopped:
        return Exit.INTERRUPTED


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = new_parser(
        "demo",
        "Run Redis, server, worker and client as separate processes on this machine: a video is\n"
        "sent by tus, the connection is cut midway on purpose, the upload resumes from the offset\n"
        "the server tells, and the plates are shown. Then it keeps serving until Ctrl-C.",
        CODES,
    )
    parser.add_argument("--once", action="store_true", help="end after the plates were shown")
    parser.add_argument(
        "--video", type=Path, metavar="PATH", help="a video of your own [default the bundled clip]"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="keep uploads, results and logs there [default a temporary one, removed at the end]",
    )
    add_settings(parser, SETTINGS)
    return parser.parse_args(arguments)


def _play(video: Path, place: _Place, options: argparse.Namespace, settings: Settings) -> int:
    _need_room(place.path, 2 * video.stat().st_size + settings.min_free_bytes)
    with _company(place, options, settings) as company:
        say(f"Redis, server and worker run as processes of their own: {company.url}")
        code = _show(video, company.send(video), bundled=options.video is None)
        if not options.once:
            company.keep_serving(place.path)
    return code


class _Place:
    """The directory of the demo; whoever holds its pipe open keeps it from being removed."""

    def __init__(self, path: Path, alive: int, asked: threading.Event) -> None:
        self.path = path
        self.alive = alive
        self._asked = asked
        self.uploads = path / "uploads"
        self.logs = path / "logs"

    def go_on(self) -> None:
        """Raise Stopped once a signal has asked to stop."""
        if self._asked.is_set():
            raise Stopped


@contextlib.contextmanager
def _directory(chosen: Path | None, asked: threading.Event) -> Iterator[_Place]:
    """Yield the data directory; a process that outlives us and all children clears it away."""
    from tusd_py.cli.stage import environment  # noqa: PLC0415

    path = chosen.resolve() if chosen else Path(tempfile.mkdtemp(prefix="tusd-py-demo-"))
    reading, alive = os.pipe()
    call = f"from tusd_py.cli.demo import clear; clear({str(path)!r}, kept={chosen is not None})"
    cleaner = subprocess.Popen(  # noqa: S603  our own program
        [sys.executable, "-P", "-c", call],
        stdin=reading,
        env=environment({}),
        start_new_session=True,
    )
    os.close(reading)
    try:
        place = _Place(path, alive, asked)
        for each in (place.uploads, place.logs):
            _make(each)
        yield place
    finally:
        os.close(alive)
        cleaner.wait()


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"{sentence(error)}: choose a directory this user may write, with --data DIR",
            Exit.STARTUP,
        ) from error


def clear(directory: str, *, kept: bool) -> None:
    """Wait until everybody who holds the other end of stdin is gone, then leave nothing behind."""
    sys.stdin.buffer.read()
    import redis  # noqa: PLC0415

    from storage.embedded import Embedded, EmbeddedUnavailable  # noqa: PLC0415

    place = Path(directory, "uploads", "redis")
    with contextlib.suppress(EmbeddedUnavailable, redis.RedisError):
        embedded = Embedded(place)
        with redis.Redis.from_url(embedded.url) as client:
            client.ping()
        # It still runs: its users were killed. Whoever leaves last stops it.
        embedded.start()
        embedded.close()
    if not kept:
        shutil.rmtree(directory, ignore_errors=True)


class _Company:
    """Redis, server and worker at work."""

    def __init__(self, server: Child, worker: Child, env: Mapping[str, str], place: _Place) -> None:
        self._server = server
        self._worker = worker
        self._env = env
        self._place = place
        self.url, self._port = _listening(server, place)

    def send(self, video: Path) -> dict[str, Any]:
        """Send the video through a connection that breaks halfway, and return the job's result."""
        from tusd_py.cli.show import size  # noqa: PLC0415
        from tusd_py.cli.stage import Child, Cutter  # noqa: PLC0415

        length = video.stat().st_size
        cutter = Cutter(
            self._port,
            cut_after=length // 2 + 1,
            rate=max(length, 1) / SEND_SECONDS,
            told=_tell_cut,
        )
        say(f"Sending {video.name} ({size(length)}); the connection will be cut midway")
        sys.stdout.flush()
        words = ("upload", str(video.resolve()), "--json", "--url")
        client = Child(
            (*words, f"http://127.0.0.1:{cutter.port}/files/"),
            {**self._env, "XDG_STATE_HOME": str(self._place.path / "state")},
            self._place.logs / "upload.json",
            alive=self._place.alive,
            stderr=sys.stderr.buffer,
        )
        try:
            while client.code is None:
                self.check()
                time.sleep(0.1)
        finally:
            client.stop()
            cutter.close()
        return _result(client, was_cut=cutter.cut or not length)

    def check(self) -> None:
        """Raise CommandError if server or worker ended, Stopped if a signal asked to stop."""
        self._place.go_on()
        self._server.check()
        self._worker.check()

    def keep_serving(self, data: Path) -> None:
        """Say where, and wait for a signal."""
        say("")
        say(f"Still serving at {self.url} (data in {data}); Ctrl-C ends it. Try:")
        say(f"  tusd-py upload VIDEO --url {self.url}")
        say(f"  curl {self.url.removesuffix('files/')}ready")
        sys.stdout.flush()
        with contextlib.suppress(Stopped):
            while True:
                self.check()
                time.sleep(0.5)


@contextlib.contextmanager
def _company(place: _Place, options: argparse.Namespace, settings: Settings) -> Iterator[_Company]:
    """Start Redis, server and worker, and stop them in the reverse order."""
    from storage.embedded import Embedded, EmbeddedUnavailable  # noqa: PLC0415
    from tusd_py.cli.stage import Child  # noqa: PLC0415

    try:
        embedded = Embedded(place.uploads / "redis")
        embedded.start()
    except EmbeddedUnavailable as error:
        raise CommandError(str(error), Exit.STARTUP) from error
    given = {name: value for name, value in vars(options).items() if name in SETTINGS}
    env = {
        **{name.upper(): str(value) for name, value in given.items()},
        "HOST": "127.0.0.1",
        "PORT": str(_port(settings, once=options.once)),
        "UPLOAD_DIR": str(place.uploads),
        "REDIS_URL": embedded.url,
    }
    with contextlib.ExitStack() as stack:
        stack.callback(embedded.close)

        def started(verb: str) -> Child:
            child = Child((verb,), env, place.logs / f"{verb}.log", alive=place.alive)
            stack.callback(child.stop)
            return child

        yield _Company(started("serve"), started("work"), env, place)


def _port(settings: Settings, *, once: bool) -> int:
    """Return the port asked for where it is free, else 0: any."""
    from tusd_py.cli.sockets import listen  # noqa: PLC0415

    if once or settings.port == 0:
        return 0
    try:
        for one in listen("127.0.0.1", settings.port):
            one.close()
    except CommandError:
        say(f"Port {settings.port} is taken: the demo takes a free one.")
        return 0
    return settings.port


def _listening(server: Child, place: _Place) -> tuple[str, int]:
    """Return the URL and the port the server says it listens on."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if found := LISTENING.search(server.said()):
            return found[1], int(found[2])
        server.check()
        place.go_on()
        time.sleep(0.05)
    raise CommandError(
        f"The server does not listen after {START_SECONDS:.0f} s. The end of {server.log}:\n"
        f"{server.tail()}",
        Exit.STARTUP,
    )


def _need_room(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path).free
    if free < wanted:
        raise CommandError(
            f"The disk of {path} has {free / 2**20:.0f} MB free, the demo needs "
            f"{wanted / 2**20:.0f} MB: make room, or choose another with --data DIR or TMPDIR.",
            Exit.STARTUP,
        )


def _tell_cut(passed: int) -> None:
    from tusd_py.cli.show import size  # noqa: PLC0415

    # On a terminal the client's bar is on this line: it draws it again below.
    clear_line = "\r\x1b[2K" if sys.stderr.isatty() else ""
    line = f"{clear_line}--- the connection is cut on purpose after {size(passed)} ---\n"
    sys.stderr.write(line)
    sys.stderr.flush()


def _result(client: Child, *, was_cut: bool) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(client.said().splitlines()[-1])
    except (ValueError, IndexError):
        raise CommandError(f"The client ended with {client.code}: {client.tail()}") from None
    if "error" in document:
        raise CommandError(str(document["error"]))
    if not was_cut:
        raise CommandError("The connection was never cut: the upload took another way.")
    return document


def _show(video: Path, document: Mapping[str, Any], *, bundled: bool) -> int:
    """Print the plates, beside the truth where it is known; return the exit code."""
    from tusd_py.cli.show import COLUMNS, reader, show_analysis, show_table  # noqa: PLC0415

    if not bundled:
        show_analysis(document)
        return Exit.OK
    truth = json.loads(video.with_suffix(".json").read_text())["plates"]
    expected = [one if isinstance(one, str) else str(one["text"]) for one in truth]
    rows = compare(expected, document["plates"])
    show_table(("Expected", "Got", *COLUMNS[1:], "Verdict"), rows)
    say(reader(document))
    wrong = [cells for cells in rows if cells[-1] != "right"]
    if wrong:
        say(f"{len(wrong)} of {len(rows)} plates were not read right.")
        return Exit.FAILED
    say(f"All {len(rows)} plates of the clip were read right.")
    return Exit.OK


def compare(expected: Sequence[str], plates: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return rows: expected, got, its numbers, and right, wrong, missing or extra."""
    from tusd_py.cli.show import row  # noqa: PLC0415

    missing = list(expected)
    rows: list[tuple[str, ...]] = []
    unclear = []
    for plate in plates:
        if plate["text"] in missing:
            missing.remove(plate["text"])
            rows.append((plate["text"], *row(plate), "right"))
        else:
            unclear.append(plate)
    for plate in unclear:
        near = _nearest(plate["text"], missing)
        if near is not None:
            missing.remove(near)
        rows.append((near or "-", *row(plate), "wrong" if near else "extra"))
    return rows + [(text, "-", "-", "-", "-", "-", "missing") for text in missing]


def _nearest(text: str, among: Sequence[str]) -> str | None:
    """Return the one this may be a wrong reading of."""
    alike = {other: SequenceMatcher(None, text, other).ratio() for other in among}
    best = max(alike, key=lambda other: alike[other], default=None)
    return best if best is not None and alike[best] >= 0.5 else None  # noqa: PLR2004  half of it


def say(line: str) -> None:
    """Write one line at once: the children write to the same terminal."""
    print(line, flush=True)  # noqa: T201
