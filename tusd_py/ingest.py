"""uvicorn's HTTP protocol class, with the bound it lacks."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes of a request line and its header fields.
_HEAD_MOST = 64 * 1024
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Tus-Resumable: 1.0.0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuse a request whose head does not end: httptools gathers it in memory without a limit."""

    _head: int | None = 0

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > _HEAD_MOST and not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = self._head or 0

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0
