"""TLS before a Redis that speaks none: what a client sees is a rediss:// server."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Signed by itself, for localhost, for the tests alone.
CERTIFICATE = Path(__file__).parent / "tls" / "cert.pem"
_KEY = CERTIFICATE.with_name("key.pem")


@contextmanager
def tls_before(path: str) -> Iterator[int]:
    """Take TLS connections for the server at a Unix socket; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, _KEY)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_accept, args=(listening, context, path), daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listening: socket.socket, context: ssl.SSLContext, path: str) -> None:
    while True:
        try:
            plain, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(plain, context, path), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, path: str) -> None:
    # A client that does not believe the certificate goes away.
    with (
        suppress(OSError),
        closing(plain),
        context.wrap_socket(plain, server_side=True) as client,
        socket.socket(socket.AF_UNIX) as server,
    ):
        server.connect(path)
        _pump(client, server)


def _pump(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Carry bytes both ways in one thread: a TLS connection is no thing for two."""
    client.settimeout(0.0)
    server.settimeout(0.0)
    ways = ((client, server), (server, client))
    while True:
        for source, sink in ways:
            try:
                data = source.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            if not data:
                return
            _send_all(sink, data)
        _wait(client, server)


def _send_all(sink: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sink.send(rest) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            select.select([], [sink], [], 1.0)


def _wait(client: ssl.SSLSocket, server: socket.socket) -> None:
    if not client.pending():
        select.select([client, server], [], [], 1.0)
