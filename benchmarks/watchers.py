"""`python -m benchmarks.watchers`: let many watch one upload, and see how late each is told.

The events of a job say when it changed (`updated_at`); server and watchers read one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import re
import statistics
import sys
import time
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import look
from benchmarks.servers import ours, place, started

if TYPE_CHECKING:
    from collections.abc import Sequence

_TUS = {"Tus-Resumable": "1.0.0"}
_APPEND = {**_TUS, "Content-Type": "application/offset+octet-stream"}
_CHANGED = re.compile(rb'"bytes":\{"received":(\d+),.*?"updated_at":"([^"]+)"')
_MB = 2**20


class Watcher(asyncio.Protocol):
    """Take events of a job and note how old each was when it came, in seconds."""

    transport: asyncio.WriteTransport

    def __init__(self, path: str, *, socket: bool) -> None:
        self.began = asyncio.Event()
        self.ages: list[float] = []
        self.received = 0
        self._path = path
        self._socket = socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        lines = [f"GET {self._path} HTTP/1.1", "Host: x"]
        if self._socket:
            key = base64.b64encode(os.urandom(16)).decode()
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines += [f"Sec-WebSocket-Key: {key}"]
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  for mypy
        self.transport = transport
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        now = time.time()
        for received, changed in _CHANGED.findall(data):
            self.received = int(received)
            self.began.set()
            if self.received:
                age = now - datetime.fromisoformat(changed.decode()).timestamp()
                self.ages.append(age)


async def watch(port: int, path: str, count: int, *, socket: bool) -> list[Watcher]:
    """Open so many connections, and return when each has its first event."""
    loop = asyncio.get_running_loop()
    watchers = [Watcher(path, socket=socket) for _ in range(count)]
    for watcher in watchers:
        await loop.create_connection(partial(_itself, watcher), "127.0.0.1", port)
    for watcher in watchers:
        await watcher.began.wait()
    return watchers


def _itself(watcher: Watcher) -> Watcher:
    return watcher


def change(port: int, upload: str, count: int, pause: float) -> None:
    """Append a byte again and again."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        for offset in range(count):
            headers = {**_APPEND, "Upload-Offset": str(offset)}
            connection.request("PATCH", upload, b"x", headers)
            connection.getresponse().read()
            time.sleep(pause)


def create(port: int, length: int) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/files/", headers={**_TUS, "Upload-Length": str(length)})
        response = connection.getresponse()
        response.read()
        return response.headers["Location"]


def memory(pid: int) -> float:
    """Return what a process has of memory, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def processor(pid: int) -> float:
    return sum(one.cpu for one in look([pid]))


async def measure(port: int, pid: int, options: argparse.Namespace) -> dict[str, float]:
    """Let them watch, change the job, and return the figures."""
    # One byte more: it is not to be complete.
    upload = await asyncio.to_thread(create, port, options.changes + 1)
    job = upload.rpartition("/")[2]
    path = f"/jobs/{job}/{'ws' if options.socket else 'events'}"
    empty = memory(pid)
    watchers = await watch(port, path, options.watchers, socket=options.socket)
    full, before, began = memory(pid), processor(pid), time.perf_counter()
    await asyncio.to_thread(change, port, upload, options.changes, options.pause)
    deadline = time.perf_counter() + 10
    while not all(one.received == options.changes for one in watchers):
        if time.perf_counter() > deadline:
            raise RuntimeError("not every watcher has seen the last change")
        await asyncio.sleep(0.05)
    for one in watchers:
        one.transport.close()
    ages = sorted(age * 1000 for one in watchers for age in one.ages)
    centiles = statistics.quantiles(ages, n=100)
    return {
        "watchers": options.watchers,
        "changes": options.changes,
        "told": len(ages),
        "rss_without_mb": round(empty, 1),
        "rss_mb": round(max(full, memory(pid)), 1),
        "p50_ms": round(centiles[49], 1),
        "p99_ms": round(centiles[98], 1),
        "most_ms": round(ages[-1], 1),
        "processor": round((processor(pid) - before) / (time.perf_counter() - began), 3),
    }


def main(words: Sequence[str]) -> int:
    """Start a server, measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watchers", description=__doc__)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two (0.1)")
    parser.add_argument("--socket", action="store_true", help="by WebSockets")
    options = parser.parse_args(words)
    with place(None) as directory, started([ours("none")], directory) as [server]:
        assert server.pid is not None  # noqa: S101  for mypy
        figures = asyncio.run(measure(server.port, server.pid, options))
    print(json.dumps(figures))  # noqa: T201  talks to people
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
