"""A body on its way from the connection itself, past the parser and all that holds bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusd_py.exchange import BodyEnd
from tusd_py.receiver import Peer

if TYPE_CHECKING:
    import asyncio

    from storage.interfaces import FileSink
    from tusd_py.receiver import Receiver


class Straight:
    """Move one body of known length."""

    def __init__(
        self, receiver: Receiver, connection: int, here: bytearray, length: int, stall: float
    ) -> None:
        """Take what is `here` first, which is taken out; all else of `length` bytes is to come.

        Nobody else may read the socket `connection` before this is closed.
        """
        self._receiver = receiver
        self._peer = Peer(connection)
        self._closed = False
        receiver.peers += 1
        self._here = here
        self._left = length
        self._stall = stall

    def close(self) -> None:
        """Leave the connection as it was; idempotent."""
        self._peer.close()
        self._receiver.peers -= not self._closed
        self._closed = True

    async def move(self, sink: FileSink, limit: int, stop: asyncio.Event) -> BodyEnd:
        """Move up to `limit` bytes (tusd_py.exchange.Exchange.move_body)."""
        limit = min(limit, self._left)
        begin, end = sink.offset, BodyEnd.MORE
        here = bytes(self._here[:limit])
        del self._here[:limit]
        if limit:
            end = await self._receiver.receive(
                self._peer, sink, limit, stop, self._stall, here=here
            )
        self._left -= sink.offset - begin
        return end if self._left else BodyEnd.DONE
