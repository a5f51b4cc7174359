"""A TCP proxy that breaks connections on purpose, as a bad network does."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from types import TracebackType

_RST = struct.pack("ii", 1, 0)
_PIECE = 16 * 1024


class Proxy:
    """Pass bytes to a server on this machine until `after` of them have gone there.

    Then either reset both sides, and again after as many more bytes, `times` times over all
    connections; or hold: swallow what else comes on that connection, and let both sides wait.
    The event `reached` tells of it.
    """

    def __init__(
        self, port: int, *, after: int, then: Literal["reset", "hold"] = "reset", times: int = 1
    ) -> None:
        self._upstream = port
        self._after = after
        self._then = then
        self._left = times
        self._count = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.reached = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    @property
    def url(self) -> str:
        """Return where the server creates uploads, seen through this proxy."""
        return f"http://127.0.0.1:{self.port}/files/"

    @property
    def cuts_left(self) -> int:
        return self._left

    def _start(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with suppress(OSError):
                    self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        self._sockets.add(client)
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream))
        except OSError:
            self._reset(client)
            raise
        self._sockets.add(server)
        self._start(self._to_server, client, server)
        self._start(self._to_client, server, client)

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_PIECE):
                fits, cut = self._counted(len(data))
                server.sendall(data[:fits])
                if cut and self._then == "reset":
                    self._reset(client, server)
                elif cut:
                    _swallow(client)
            server.shutdown(socket.SHUT_WR)

    def _counted(self, length: int) -> tuple[int, bool]:
        """Count bytes towards the server; return how many may pass, and if that is the limit."""
        with self._lock:
            if not self._left or self._count + length < self._after:
                self._count += length
                return length, False
            fits = self._after - self._count
            self._count = 0
            self._left -= 1
            self.reached.set()
            return fits, True

    def _to_client(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(_PIECE):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            # The server was killed: its kernel reset what it had not read.
            self._reset(client)

    def _reset(self, *both: socket.socket) -> None:
        for one in both:
            self._sockets.discard(one)
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                # Wakes whoever reads it in another thread, before its number may be another's.
                one.shutdown(socket.SHUT_RD)
            one.close()

    def close(self) -> None:
        """Reset what is open and end."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self._reset(*tuple(self._sockets))
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _swallow(client: socket.socket) -> None:
    while client.recv(_PIECE):
        pass
