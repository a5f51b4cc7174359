"""A tus client of bare sockets: it sends what it is told and keeps what it opened."""

from __future__ import annotations

import base64
import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from tests.acceptance.process import DEADLINE, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Document = dict[str, Any]

TUS = {"Tus-Resumable": "1.0.0"}
APPEND = {"Content-Type": "application/offset+octet-stream"}
TERMINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Response:
    """Hold one response; names of `headers` are in lower case, equal ones joined."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def offset(self) -> int:
        return int(self.headers["upload-offset"])

    def json(self) -> Document:
        document: Document = json.loads(self.body)
        return document


class Connection:
    """One TCP connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, data: bytes | memoryview) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Send the head of a request; its body is left to the caller."""
        lines = [f"{method} {path} HTTP/1.1", "Host: acceptance"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Send a whole request and return its response."""
        length = {"Content-Length": str(len(body))} if body or method in {"POST", "PATCH"} else {}
        self.begin(method, path, {**headers, **length})
        self.send(body)
        return self.receive(head=method == "HEAD")

    def receive(self, *, head: bool = False) -> Response:
        """Return the next response, an interim one too; `head` tells that it answers HEAD.

        Raises:
            ConnectionError: the server closed or reset instead.
        """
        text = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = text.split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            joined = [*filter(None, [headers.get(name.lower())]), value.strip()]
            headers[name.lower()] = ", ".join(joined)
        status = int(first.split(" ")[1])
        empty = head or status in {204, 304} or status < 200
        return Response(status, headers, b"" if empty else self._body(headers))

    def final(self, *, head: bool = False) -> Response:
        """Return the next response that is no interim one."""
        while (response := self.receive(head=head)).status < 200:
            pass
        return response

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._rest()
        body = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            body += self._take(size)
            self._take(2)
        self._until(b"\r\n")
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._more()
        found, _, self._received = self._received.partition(end)
        return found

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _rest(self) -> bytes:
        with suppress(ConnectionError):
            while True:
                self._more()
        return self._take(len(self._received))

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed after {self._received!r}")
        self._received += data

    def end(self) -> None:
        """Say that nothing more will come, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST, as a connection ends whose peer has vanished."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close with FIN."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Tus:
    """Speak tus to one server; each request has a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send a request as it is and return its response."""
        with Connection(self.port) as connection:
            return connection.request(method, path, headers or {}, body)

    def post(self, length: int, metadata: Mapping[str, str] | None = None) -> Response:
        """Ask for a new upload."""
        headers = {**TUS, "Upload-Length": str(length)}
        if metadata:
            headers["Upload-Metadata"] = ",".join(
                f"{name} {base64.b64encode(value.encode()).decode()}"
                for name, value in metadata.items()
            )
        return self.request("POST", "/files/", headers)

    def create(self, length: int, metadata: Mapping[str, str] | None = None) -> str:
        """Create an upload and return the path of its URL."""
        response = self.post(length, metadata)
        assert response.status == 201, response
        return urlsplit(response.headers["location"]).path

    def head(self, path: str) -> Response:
        """Ask where an upload stands."""
        return self.request("HEAD", path, TUS)

    def offset(self, path: str) -> int:
        """Return where an upload stands."""
        response = self.head(path)
        assert response.status == 200, response
        return response.offset

    def patch(self, path: str, offset: int, body: bytes) -> Response:
        """Append bytes."""
        headers = {**TUS, **APPEND, "Upload-Offset": str(offset)}
        return self.request("PATCH", path, headers, body)

    def begin_patch(self, path: str, offset: int, length: int) -> Connection:
        """Open a PATCH that announces `length` bytes, and leave it to the caller to send them."""
        connection = Connection(self.port)
        headers = {"Upload-Offset": str(offset), "Content-Length": str(length)}
        connection.begin("PATCH", path, {**TUS, **APPEND, **headers})
        return connection

    def delete(self, path: str) -> Response:
        """Remove an upload."""
        return self.request("DELETE", path, TUS)

    def upload(self, content: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Create an upload, send it whole and return the path of its URL."""
        path = self.create(len(content), metadata)
        response = self.patch(path, 0, content)
        assert response.status == 204, response
        assert response.offset == len(content)
        return path

    def job(self, path: str) -> Document:
        """Return the job of an upload."""
        response = self.request("GET", self._job_path(path))
        assert response.status in {200, 410}, response
        return response.json()

    def result(self, path: str) -> Document:
        """Return the analysis of an upload."""
        response = self.request("GET", f"{self._job_path(path)}/result")
        assert response.status == 200, response
        return response.json()

    def wait_for_job(self, path: str, *states: str, more_than: float = -1) -> Document:
        """Return the job once it is in one of the states, by default an end.

        With `more_than` its progress there is to be more than that. A server that is away for a
        while is waited for.
        """
        wanted = states or TERMINAL
        last: Document = {}

        def look() -> Document | None:
            with suppress(OSError):
                response = self.request("GET", self._job_path(path))
                if response.status == 503:
                    return None
                assert response.status in {200, 410}, response
                last.update(response.json())
                if last["status"] in wanted:
                    return last if last["progress"] > more_than else None
                assert last["status"] not in TERMINAL, last
            return None

        try:
            return eventually(look, f"job that is {' or '.join(wanted)}")
        except AssertionError as error:
            error.add_note(f"the job was last seen as {last}")
            raise

    @staticmethod
    def _job_path(path: str) -> str:
        return f"/jobs/{path.rpartition('/')[2]}"


def plates(result: Document) -> list[str]:
    """Return the texts of an analysis, sorted."""
    return sorted(plate["text"] for plate in result["plates"])
