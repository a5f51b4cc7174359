"""A bare ASGI app: what uvicorn leaves to any server in Python, as receiver.c is for any at all.

It does what that does: POST makes a file, PATCH writes into it, HEAD tells its size; no checks, no
locks, no journal, no log.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_RESUMABLE = (b"tus-resumable", b"1.0.0")


class App:
    """Receive uploads into one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        method, name = scope["method"], scope["path"].rpartition("/")[2]
        if method == "POST":
            name = str(next(self._numbers))
            size = await self._write(name, os.O_CREAT | os.O_WRONLY, 0, receive)
            fields = [(b"location", f"/files/{name}".encode()), (b"upload-offset", b"%d" % size)]
            await _answer(send, 201, fields)
        elif method == "PATCH":
            at = int(dict(scope["headers"])[b"upload-offset"])
            size = await self._write(name, os.O_WRONLY, at, receive)
            await _answer(send, 204, [(b"upload-offset", b"%d" % size)])
        elif method == "HEAD":
            size = os.stat(f"{self._directory}/{name}").st_size  # noqa: PTH116  a path costs more
            await _answer(send, 200, [(b"upload-offset", b"%d" % size)])
        else:
            await _answer(send, 204, [])

    async def _write(self, name: str, flags: int, at: int, receive: Receive) -> int:
        fd = os.open(f"{self._directory}/{name}", flags, 0o640)
        try:
            more = True
            while more:
                message = await receive()
                at += os.pwrite(fd, message.get("body", b""), at)
                more = message.get("more_body", False)
        finally:
            os.close(fd)
        return at


async def _answer(send: Send, status: int, fields: list[tuple[bytes, bytes]]) -> None:
    length = [] if status == 204 else [(b"content-length", b"0")]  # noqa: PLR2004
    headers = [_RESUMABLE, *fields, *length]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})


app = App(os.environ["UPLOAD_DIR"])
