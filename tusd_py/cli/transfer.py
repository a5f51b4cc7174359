"""One file to a tus server by tuspy, whatever happens to the connection, the server or us.

tuspy asks without a time limit, ignores the status of a HEAD and tells nothing within a chunk: its
requests are replaced here, its headers, metadata and chunks are used.
"""

from __future__ import annotations

import io
import socket
import time
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.uploader.uploader import Uploader
from urllib3.connection import HTTPConnection

from tusd_py.cli import CommandError, Exit
from tusd_py.cli.show import size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tusd_py.cli.show import Meter
    from tusd_py.cli.upload import Receipt

T = TypeVar("T")

CHUNK = 8 * 2**20
# Seconds to connect, or to send a block; and to wait for an answer.
TIMEOUTS = (30, 60)
# The progress shown is what left this machine: no more than this waits unsent in the kernel.
UNSENT = 128 * 1024
LONGEST_PAUSE = 8.0
FIRST_CONTACT_SECONDS = 10.0
# These pass: a timeout, a lock held elsewhere, too many requests, a server that is starting.
PASSING = {408, 409, 423, 425, 429, 500, 502, 503, 504}
GONE = {403, 404, 410}
MOST_BEGINNINGS = 3


class RefusedError(TusCommunicationError):
    """Tell what the server answered instead of what was asked for."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__(_said(answer), answer.status_code)  # type: ignore[no-untyped-call]
        wait = answer.headers.get("Retry-After", "")
        self.retry_after = float(wait) if wait.isdigit() else 0.0


def _said(answer: requests.Response) -> str:
    """Return the server's own sentence with its status."""
    text = answer.text.strip()
    try:
        document = answer.json()
        text = str(document.get("detail") or document.get("title") or text)
    except (ValueError, AttributeError):
        pass
    return f"the server answered {answer.status_code}{f': {text}' if text else ''}"


class Patience:
    """Say how long to go on after failures in a row, and pause between them."""

    def __init__(self, seconds: float, say: Callable[[str], None], *, known: bool) -> None:
        """Take the longest silence in seconds, and whether the server is known to be there."""
        self._seconds = seconds
        self._say = say
        self._known = known
        self._since: float | None = None
        self._failures = 0
        self._told = ""

    def restore(self) -> None:
        """Begin anew: the server answered as it should."""
        self._known = True
        self._since = None
        self._failures = 0
        self._told = ""

    def spend(self, error: Exception, *, silently: bool = False) -> None:
        """Pause after a failure, telling of it unless somebody else will.

        Raises:
            CommandError: it will not pass, or has gone on for too long.
        """
        status = getattr(error, "status_code", None)
        if status is not None and status not in PASSING:
            raise CommandError(_capital(str(error))) from error
        now = time.monotonic()
        self._since = self._since or now
        limit = self._seconds if self._known else min(self._seconds, FIRST_CONTACT_SECONDS)
        if now - self._since >= limit:
            raise CommandError(
                f"No success for {limit:.0f} s: {reason(error)}", Exit.UNREACHABLE
            ) from error
        if reason(error) != self._told and not silently:
            self._told = reason(error)
            self._say(f"{self._told}; trying again")
        pause = min(LONGEST_PAUSE, 0.25 * 2**self._failures)
        self._failures += 1
        time.sleep(min(max(pause, getattr(error, "retry_after", 0.0)), max(limit, 0.25)))

    def ask(self, question: Callable[[], T]) -> T:
        """Ask until there is an answer."""
        while True:
            try:
                answer = question()
            except (TusCommunicationError, requests.RequestException) as error:
                self.spend(error)
            else:
                self.restore()
                return answer


def reason(error: Exception) -> str:
    """Say in a few words why nothing came."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, requests.ConnectTimeout | requests.ReadTimeout):
        return "the server does not answer in time"
    if isinstance(error, requests.ConnectionError) and "refused" in str(error).lower():
        return "the server does not listen"
    return "the connection was lost"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Adapter(HTTPAdapter):
    """Hold back in the kernel only what the network is about to take."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # Linux's number where this Python has no name for it.
        option = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
        options = [*HTTPConnection.default_socket_options, (socket.IPPROTO_TCP, option, UNSENT)]
        super().init_poolmanager(*args, **kwargs, socket_options=options)


def new_session() -> requests.Session:
    """Return a session whose connections are kept and show how much was really sent."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Told(io.BytesIO):
    """A chunk that tells how much of it was taken to be sent."""

    def __init__(self, chunk: bytes, tell: Callable[[int], None]) -> None:
        super().__init__(chunk)
        self._tell = tell

    def read(self, count: int | None = -1, /) -> bytes:
        # Whoever asks for more has sent what it had.
        self._tell(self.tell())
        return super().read(count)


class _Uploader:
    """Make tuspy's requests with limits of time, with progress, and with their status checked."""

    def __init__(
        self,
        session: requests.Session,
        stream: BinaryIO,
        files_url: str,
        metadata: Mapping[str, str],
        tell: Callable[[int], None],
    ) -> None:
        # Any: what tuspy's annotations say does not hold.
        self._tuspy: Any = Uploader(
            file_stream=stream,
            client=TusClient(files_url),
            metadata=dict(metadata),
            chunk_size=CHUNK,
        )
        self._session = session
        self._files_url = files_url
        self._tell = tell
        self.length: int = self._tuspy.stop_at
        self.url: str | None = None
        self.offset = 0

    def create(self) -> str:
        """Create the upload and return its URL."""
        headers = self._tuspy.get_url_creation_headers()
        answer = self._session.post(self._files_url, headers=headers, timeout=TIMEOUTS)
        if answer.status_code != requests.codes.created or "Location" not in answer.headers:
            raise RefusedError(answer)
        return urljoin(self._files_url, answer.headers["Location"])

    def ask_offset(self) -> int:
        """Return how far the server has it."""
        headers = self._tuspy.get_headers()
        return self._offset(self._session.head(str(self.url), headers=headers, timeout=TIMEOUTS))

    def send_chunk(self) -> None:
        """Send the chunk at the offset and move it on."""
        self._tuspy.offset = start = self.offset
        stream = self._tuspy.get_file_stream()
        stream.seek(start)
        wanted = self._tuspy.get_request_length()
        chunk = stream.read(wanted)
        if len(chunk) < wanted:
            raise CommandError(f"{stream.name} became shorter while it was sent")
        answer = self._session.patch(
            str(self.url),
            data=_Told(chunk, lambda sent: self._tell(start + sent)),
            headers={
                **self._tuspy.get_headers(),
                "Upload-Offset": str(start),
                "Content-Type": "application/offset+octet-stream",
            },
            timeout=TIMEOUTS,
        )
        self.offset = self._offset(answer)
        self._tell(self.offset)

    def _offset(self, answer: requests.Response) -> int:
        if not answer.ok or "Upload-Offset" not in answer.headers:
            raise RefusedError(answer)
        return int(answer.headers["Upload-Offset"])


class Transfer:
    """Send one file to its end."""

    def __init__(
        self,
        session: requests.Session,
        path: Path,
        files_url: str,
        *,
        metadata: Mapping[str, str],
        receipt: Receipt,
        patience: Patience,
        shown: Meter,
    ) -> None:
        self._session = session
        self._path = path
        self._files_url = files_url
        self._metadata = metadata
        self._receipt = receipt
        self._patience = patience
        self._shown = shown
        self._length = 0
        self._sent = 0
        self._reached = 0
        self._begun = 0
        self._start = (time.monotonic(), 0)

    def run(self) -> str:
        """Return the URL of the upload once the server has all bytes.

        Raises:
            CommandError: the server refuses the file, or is silent for too long.
            OSError: the file cannot be read.
        """
        if self._receipt.note:
            self._shown.say(f"Note: {self._receipt.note}")
        with self._path.open("rb") as stream:
            uploader = _Uploader(self._session, stream, self._files_url, self._metadata, self._tell)
            self._length = uploader.length
            uploader.url = self._receipt.url
            self._send(uploader)
            return str(uploader.url)

    def _send(self, uploader: _Uploader) -> None:
        why = "continuing the upload of an earlier run" if uploader.url else ""
        while True:
            try:
                self._locate(uploader, why)
                why = ""
                while uploader.offset < self._length:
                    uploader.send_chunk()
                    self._patience.restore()
            except (TusCommunicationError, requests.RequestException) as error:
                why = self._lost(uploader, error) or why
            else:
                return

    def _locate(self, uploader: _Uploader, why: str) -> None:
        """Create the upload, or ask how far it is."""
        if uploader.url is None:
            uploader.url = uploader.create()
            self._receipt.keep(uploader.url)
            uploader.offset = 0
        else:
            uploader.offset = uploader.ask_offset()
            if why:
                self._shown.say(f"{why}; resuming at {size(uploader.offset)}")
            # A try that brought the upload forward was no failure.
            if uploader.offset > self._reached:
                self._patience.restore()
            self._reached = uploader.offset
        self._start = time.monotonic(), uploader.offset
        self._tell(uploader.offset)

    def _lost(self, uploader: _Uploader, error: Exception) -> str:
        """Prepare another try, and return what to say when it begins, if there is news."""
        status = getattr(error, "status_code", None)
        if uploader.url is not None and status in GONE:
            self._shown.say("the server no longer has this upload; it begins anew")
            uploader.url = None
            self._receipt.remove()
            self._begun += 1
            if self._begun > MOST_BEGINNINGS:
                raise CommandError(_capital(str(error))) from error
            return ""
        sent, self._sent = self._sent, 0
        self._patience.spend(error, silently=sent > 0)
        if not sent:
            return ""
        what = error if isinstance(error, RefusedError) else "connection lost"
        return f"{what} at {size(sent)}"

    def _tell(self, sent: int) -> None:
        self._sent = sent
        fraction = sent / self._length if self._length else 1.0
        text = f"{size(sent)} of {size(self._length)}"
        began, first = self._start
        elapsed = time.monotonic() - began
        if elapsed > 1:
            text += f" at {size((sent - first) / elapsed)}/s"
        self._shown.tell(f"Upload {self._path.name}", fraction, text)
