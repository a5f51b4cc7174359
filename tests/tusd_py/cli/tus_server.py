"""A tus server in a few lines that fails on request: what the client must live with."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PLATE = {"text": "AB12CDE", "confidence": 0.9, "first_seen": 0, "last_seen": 1.5, "detections": 4}
ANALYSIS = {
    "plates": [PLATE],
    "frames": 10,
    "frames_analysed": 5,
    "detections": 4,
    "reader": "rapidocr",
    "reader_reason": "it was chosen by name",
    "warnings": [],
}
COMPLETED = {"status": "completed", "progress": 1.0, "message": "Processed 10/10 frames"}


class TusServer(ThreadingHTTPServer):
    """Keep uploads in memory; `faults` are used up, one for each request of their method."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.uploads: dict[str, bytearray] = {}
        self.lengths: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        # By method: a status to answer with, or the bytes of a body after which to reset.
        self.faults: dict[str, list[Fault]] = {}
        self.jobs: list[dict[str, Any]] = [COMPLETED]
        self.arrived = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/"

    def methods(self, *names: str) -> list[str]:
        return [method for method, _ in self.requests if method in names]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of broken connections: they are the point."""


class Fault:
    """Answer with a status, or reset the connection after some bytes of the body."""

    def __init__(self, status: int = 0, *, after: int = -1, **headers: str) -> None:
        self.status = status
        self.after = after
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TusServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the base's
        """Say nothing."""

    def do_POST(self) -> None:
        if self._fails():
            return
        name = f"00000000-0000-4000-8000-{len(self.server.uploads):012d}"
        self.server.uploads[name] = bytearray()
        self.server.lengths[name] = int(self.headers["Upload-Length"])
        self.server.metadata[name] = self.headers["Upload-Metadata"]
        self._answer(201, Location=f"/files/{name}")

    def do_HEAD(self) -> None:
        if self._fails():
            return
        stored = self.server.uploads.get(self._name)
        if stored is None:
            self._answer(404)
        else:
            self._answer(200, Upload_Offset=str(len(stored)))

    def do_PATCH(self) -> None:
        stored = self.server.uploads.get(self._name)
        left = int(self.headers["Content-Length"])
        if stored is None or int(self.headers["Upload-Offset"]) != len(stored):
            self.close_connection = True
            self._answer(404 if stored is None else 409)
            return
        fault = self._fault()
        if fault is not None and fault.after >= 0:
            stored += self.rfile.read(fault.after)
            self._reset()
            return
        while left and (block := self.rfile.read(min(left, 65536))):
            stored += block
            left -= len(block)
            self.server.arrived.set()
            self.server.hold.wait()
        if fault is not None:
            self._answer(fault.status, **fault.headers)
        else:
            self._answer(204, Upload_Offset=str(len(stored)))

    def do_GET(self) -> None:
        if self._fails():
            return
        if self.path.endswith("/result"):
            self._answer(200, ANALYSIS)
            return
        jobs = self.server.jobs
        self._answer(200, jobs.pop(0) if len(jobs) > 1 else jobs[0])

    @property
    def _name(self) -> str:
        return self.path.rpartition("/")[2]

    def _fault(self) -> Fault | None:
        self.server.requests.append((self.command, self.path))
        waiting = self.server.faults.get(self.command)
        return waiting.pop(0) if waiting else None

    def _fails(self) -> bool:
        fault = self._fault()
        if fault is None:
            return False
        self._answer(fault.status, {"detail": "not now"}, **fault.headers)
        return True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The base has two files on this socket: it is closed when all are.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def _answer(self, status: int, document: Any = None, **headers: str) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[TusServer]:
    with TusServer(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.hold.set()
            server.shutdown()
            thread.join()
