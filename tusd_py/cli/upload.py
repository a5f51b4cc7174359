"""`tusd-py upload`: send files by tus, go on after every interruption, and print their plates."""

from __future__ import annotations

import fcntl
import hashlib
import json
import mimetypes
import os
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit, urlunsplit

from tusd_py.cli import CommandError, Exit, new_parser, sentence

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import TracebackType

    import requests

    from tusd_py.cli.show import Meter
    from tusd_py.cli.transfer import Patience

URL = "http://127.0.0.1:8000/files/"
POLL_SECONDS = 0.3
CODES = {
    Exit.OK: "every file was sent and analysed (with --no-wait: sent)",
    Exit.FAILED: "a file could not be sent, or its analysis failed; the others were done",
    Exit.USAGE: "an option has a bad value",
    Exit.UNREACHABLE: "the server cannot be reached; the same command goes on later",
    Exit.INTERRUPTED: "interrupted; the same command goes on where it stopped",
}


def main(arguments: Sequence[str]) -> int:
    """Send each file and print what came of it."""
    options = _options(arguments)
    code = Exit.OK
    for path in options.files:
        try:
            document = _one(path, options)
        except CommandError as error:
            document = {"error": str(error), "plates": []}
            if error.code is Exit.UNREACHABLE:
                _print(path, document, as_json=options.json)
                return error.code
        except OSError as error:
            document = {"error": sentence(error), "plates": []}
        _print(path, document, as_json=options.json)
        if "error" in document:
            code = Exit.FAILED
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = new_parser(
        "upload",
        "Send videos to a server by tus 1.0.0 and print their plates. It goes on by itself after\n"
        "a lost connection, a restart of the server, or its own: run the same command again.",
        CODES,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="video to send")
    parser.add_argument(
        "--url",
        type=_url,
        default=URL,
        help="where the server creates uploads [default %(default)s]",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="do not wait for the analysis; print the job's URL"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line for each file: file, job_id, status, plates ...",
    )
    parser.add_argument(
        "--retry-seconds",
        type=_seconds,
        default=120,
        metavar="SECONDS",
        help="give up when the server has not answered for so long [default %(default)s; "
        "a server that never answered is given up after 10]",
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    import argparse  # noqa: PLC0415

    with suppress(ValueError):
        if 0 <= float(text) < inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        import argparse  # noqa: PLC0415

        raise argparse.ArgumentTypeError(f"expected http://HOST:PORT/files/, got {text!r}")
    path = parts.path if parts.path.strip("/") else "/files/"
    return urlunsplit(parts._replace(path=path if path.endswith("/") else f"{path}/"))


def _one(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Send one file and return its result."""
    from tusd_py.cli.show import meter  # noqa: PLC0415  requests and rich take their time
    from tusd_py.cli.transfer import Patience, Transfer, new_session  # noqa: PLC0415

    if not path.is_file():
        raise CommandError("not a regular file" if path.exists() else "no such file")
    # Metadata are UTF-8; a name on disk is any bytes.
    name = os.fsencode(path.name).decode(errors="replace")
    metadata = {"filename": name, "filetype": _media_type(path)}
    with new_session() as session, Receipt(path, options.url) as receipt, meter() as shown:
        patience = Patience(options.retry_seconds, shown.say, known=receipt.url is not None)
        try:
            transfer = Transfer(
                session,
                path,
                options.url,
                metadata=metadata,
                receipt=receipt,
                patience=patience,
                shown=shown,
            )
            upload_url = transfer.run()
            job = Job(session, upload_url, options.url, patience, shown)
            document = {"job_id": job.id, "status": "pending", "url": job.url, "plates": []}
            if not options.no_wait:
                document |= job.wait()
        except KeyboardInterrupt:
            shown.say("interrupted: run the same command again to go on from here")
            raise
        receipt.remove()
    return document


def _media_type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


class Job:
    """Watch the job of one upload through `GET /jobs/{id}`."""

    def __init__(
        self,
        session: requests.Session,
        upload_url: str,
        files_url: str,
        patience: Patience,
        shown: Meter,
    ) -> None:
        """Take the URL of the upload, whose last part is the job's id, and of the collection."""
        self.id = urlsplit(upload_url).path.rstrip("/").rpartition("/")[2]
        self.url = urljoin(files_url, f"../jobs/{self.id}")
        self._session = session
        self._patience = patience
        self._shown = shown

    def wait(self) -> dict[str, Any]:
        """Return the analysis, or the sentence of what failed."""
        while True:
            job = self._patience.ask(lambda: self._get(self.url))
            self._shown.tell("Analysis", job["progress"], job["message"])
            if job["status"] == "completed":
                result = self._patience.ask(lambda: self._get(f"{self.url}/result"))
                return {"status": "completed", "message": job["message"], **result}
            if job["status"] in {"failed", "cancelled"}:
                return {"status": job["status"], "error": job["message"]}
            time.sleep(POLL_SECONDS)

    def _get(self, url: str) -> dict[str, Any]:
        from tusd_py.cli.transfer import TIMEOUTS, RefusedError  # noqa: PLC0415

        answer = self._session.get(url, timeout=TIMEOUTS)
        # 410 holds the last state of a job whose upload was removed.
        if answer.status_code == 410 and "status" in answer.json():  # noqa: PLR2004
            return {"status": "cancelled", "progress": 0.0, "message": "The upload was removed"}
        if answer.status_code != 200:  # noqa: PLR2004
            raise RefusedError(answer)
        document: dict[str, Any] = answer.json()
        return document


class Receipt:
    """Keep the URL of an upload in a file while it lasts, so that another run goes on with it."""

    def __init__(self, path: Path, files_url: str) -> None:
        """Take the file and where its upload is created; a changed file is another upload."""
        real, found = path.resolve(), path.stat()
        self._key = [str(real), found.st_size, found.st_mtime_ns, files_url]
        name = hashlib.sha256(json.dumps(self._key).encode()).hexdigest()[:32]
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self._place = Path(state, "tusd-py", f"{name}.json")
        self._fd = -1
        self.url: str | None = None
        self.note: str | None = None

    def __enter__(self) -> Self:
        try:
            self._place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.note = (
                f"a new run could not go on with this upload: {self._place}: {error.strerror}"
            )
            return self
        try:
            # The kernel frees it however this process ends.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise CommandError(f"{self._key[0]} is being sent by another tusd-py") from error
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            if self.url is None:
                self._place.unlink(missing_ok=True)
            os.close(self._fd)

    def _read(self) -> None:
        stored = os.pread(self._fd, 65536, 0)
        if not stored:
            return
        try:
            document = json.loads(stored)
            if document["file"] == self._key:
                self.url = str(document["url"])
        except (ValueError, KeyError, TypeError):
            self.note = f"{self._place} is damaged and was ignored: the upload begins anew"

    def keep(self, url: str) -> None:
        """Remember where the upload is."""
        self.url = url
        if self._fd < 0:
            return
        document = json.dumps({"file": self._key, "url": url}).encode()
        try:
            os.pwrite(self._fd, document, 0)
            os.ftruncate(self._fd, len(document))
        except OSError as error:
            self.note = f"a new run could not go on with this upload: {error.strerror}"

    def remove(self) -> None:
        """Forget it: there is nothing left to go on with."""
        self.url = None


def _print(path: Path, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": str(path), **document}), flush=True)  # noqa: T201
        return
    _print_for_people(path, document)


def _print_for_people(path: Path, document: dict[str, Any]) -> None:
    from tusd_py.cli.show import say, show_analysis  # noqa: PLC0415

    if "error" in document:
        say(f"{path}: {document['error']}")
    elif "reader" in document:
        say(f"{path}: {document['message']}")
        show_analysis(document)
    else:
        say(f"{path}: sent; its job is {document['url']}")
