"""Large bodies on their way from a connection into a file, past the objects of Python.

The event loop waits. A thread, of a bounded number, serves a body only while much of it can be
read: thousands of slow uploads take none.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tusd_py.exchange import BodyEnd
from tusd_py.vessels import Pipe, Ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.interfaces import FileSink, Writes
    from tusd_py.vessels import Vessel

T = TypeVar("T")

# Bytes that shall be readable before anybody is woken: to be woken costs more than to move them.
_LOW_WATER = 512 * 1024
# The same where the disk is waited for, so that the peer sends on meanwhile: the kernel makes room
# for twice as much.
_LOW_WATER_DIRECT = 2**20
# What is not more than this is taken without a thread.
_LITTLE = 64 * 1024
# What is here already and less than this waits in memory for what comes.
_APART = 16 * 1024
# Seconds after which bytes that trickle in are taken, so that progress shows.
_PULSE = 1.0
# Seconds for which a thread waits for a body that brings nothing, and serves one that goes on.
_DRY = 0.005
_TURN = 0.05
# How long, and for how much, a body that was told to stop may still end by itself.
_GRACE_SECONDS = 0.03
_GRACE_BYTES = 2**20


class Receiver:
    """Receive bodies on behalf of one event loop."""

    def __init__(
        self,
        threads: int | None = None,
        most: int = sys.maxsize,
        *,
        writes: Callable[[], Writes] | None = None,
    ) -> None:
        """Serve so many at once, by default two a processor, and `most` in turns.

        Each connection takes a descriptor more. Blocks are written by what `writes` returns, or
        where that is refused (OSError) while the thread waits.
        """
        #: Connections that are received from.
        self.peers = 0
        self._most_peers = most
        self._most = threads or max(4, 2 * (os.cpu_count() or 1))
        self._threads = ThreadPoolExecutor(self._most, "receiver")
        self._served = 0
        self._pipes: list[Pipe] = []
        self._rings: list[Ring] = []
        self._writes = writes

    @property
    def has_room(self) -> bool:
        """Tell whether another connection may be received from."""
        return self.peers < self._most_peers

    def close(self) -> None:
        """Give everything back once no body is on its way any more."""
        self._threads.shutdown()
        for vessels in (self._pipes, self._rings):
            while vessels:
                vessels.pop().close()

    async def receive(
        self,
        peer: Peer,
        sink: FileSink,
        limit: int,
        stop: asyncio.Event,
        stall: float,
        *,
        here: bytes = b"",
    ) -> BodyEnd:
        """Move up to `limit` bytes to the sink: what is `here` already, the rest from the peer.

        All of them have to be the body's, and nobody else may read the socket meanwhile. The answer
        is MORE when they have come, or some have and a second is over; STALLED after `stall`
        seconds without any; DISCONNECTED when all was taken that came. What is told to `stop` but
        comes to its limit within a moment is MORE, else STOPPED. Every byte that was taken was
        written then, and no system call is running; so it is after a cancellation. Errors of the
        sink come through; what was taken and does not fit is lost to the connection.
        """
        peer.begin(sink, limit, here)
        peer.heed(stop)
        return await self._receive(peer, stop, stall)

    async def _receive(self, peer: Peer, stop: asyncio.Event, stall: float) -> BodyEnd:
        loop = asyncio.get_running_loop()
        pulse, late = loop.time() + _PULSE, loop.time() + stall
        while peer.left and not stop.is_set():
            if loop.time() >= (pulse if peer.moved else late):
                return BodyEnd.MORE if peer.moved else BodyEnd.STALLED
            ready = await peer.wait(pulse if peer.moved else min(loop.time() + _PULSE, late))
            if end := await self._take(peer, ready=ready):
                return end
        return await self._end_late(peer) if peer.left else BodyEnd.MORE

    async def _take(self, peer: Peer, *, ready: bool) -> BodyEnd | None:
        """Take what can be read, and more while it comes fast."""
        readable = 0 if peer.flows else peer.count_readable()
        if peer.flows or readable > _LITTLE:
            dry = _DRY if self._served < self._most else 0.0
            return await self._in_thread(peer, lambda: self._pour(peer, dry, _TURN))
        if not readable and not ready:
            return None
        piece = peer.read(_LITTLE)
        if piece and not peer.sink.take([piece]):
            await self._in_thread(peer, lambda: peer.sink.write([piece]))
        return BodyEnd.DISCONNECTED if piece == b"" else None

    async def _end_late(self, peer: Peer) -> BodyEnd:
        """Take what is here already or comes in a moment."""
        goal = peer.begin_grace()
        end = await self._in_thread(peer, lambda: self._pour(peer, _GRACE_SECONDS, _GRACE_SECONDS))
        return end or (BodyEnd.MORE if peer.sink.offset == goal else BodyEnd.STOPPED)

    async def _in_thread(self, peer: Peer, step: Callable[[], T]) -> T:
        """Run a step to its end, whoever is cancelled meanwhile."""
        self._served += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, step)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            peer.interrupt()
            while not running.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            # Looked at, lest it be called lost.
            _ = running.exception()
            raise
        finally:
            self._served -= 1

    def _pour(self, peer: Peer, dry: float, turn: float) -> BodyEnd | None:
        if peer.sink.direct:
            return self._pour_blocks(peer, dry, turn)
        pipe = _taken(self._pipes, Pipe)
        try:
            end = peer.pour(pipe, dry, turn)
        except BaseException:
            # What it holds is nobody's any more.
            pipe.close()
            raise
        self._pipes.append(pipe)
        return end

    def _pour_blocks(self, peer: Peer, dry: float, turn: float) -> BodyEnd | None:
        ring = _taken(self._rings, self._make_ring)
        # Of many some write while others are read.
        ring.use(whole=self._served == 1)
        try:
            return peer.pour(ring, dry, turn)
        finally:
            ring.settle()
            if self._served > 1:
                # It may wait for long, beside others.
                ring.use(whole=False)
            self._rings.append(ring)

    def _make_ring(self) -> Ring:
        with suppress(OSError):
            return Ring(self._writes and self._writes())
        return Ring(None)


def _taken(idle: list[T], make: Callable[[], T]) -> T:
    try:
        return idle.pop()
    except IndexError:
        return make()


class Peer:
    """A connection whose body is received; at most one thread works on it, and the loop waits."""

    sink: FileSink

    def __init__(self, connection: int) -> None:
        """Use a non-blocking socket; whoever closes it meanwhile takes it from nobody."""
        self._socket = socket.socket(fileno=os.dup(connection))
        self._begin = self._end = 0
        self._here = b""
        #: Whether much came when it was looked at last: no need then to look first.
        self.flows = False
        self._low_water = 1
        self._interrupted = self._in_grace = False
        self._woken: asyncio.Future[bool] | None = None
        self._stop: asyncio.Event | None = None
        self._stopped: asyncio.Task[Any] | None = None
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def close(self) -> None:
        """Leave the socket as it was; idempotent."""
        if self._stopped is not None:
            self._stopped.cancel()
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self._socket.close()

    def begin(self, sink: FileSink, limit: int, here: bytes) -> None:
        """Move so many bytes from now on, those first that are `here`."""
        self.sink = sink
        self._begin, self._end = sink.offset, sink.offset + limit
        # What is past the page cache need not be synced out of it.
        apart = sink.direct and len(here) >= _APART
        if here and (apart or not sink.take([here])):
            self._here, self.flows = here, True
        self._interrupted = self._in_grace = False

    def heed(self, stop: asyncio.Event) -> None:
        """Come back soon once this is set."""
        if stop is not self._stop:
            self._stop, self._stopped = stop, asyncio.create_task(stop.wait())
            self._stopped.add_done_callback(self._be_stopped)

    def _be_stopped(self, _: object) -> None:
        if not self._in_grace:
            self.interrupt()

    @property
    def moved(self) -> int:
        return self.sink.offset - self._begin

    @property
    def left(self) -> int:
        return self._end - self.sink.offset

    def count_readable(self) -> int:
        count: int = struct.unpack("i", fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)))[0]
        return count

    async def wait(self, until: float) -> bool:
        """Wait until much can be read, or the end; False: it is `until`, or it was interrupted."""
        if self.flows:
            return True
        most = _LOW_WATER_DIRECT if self.sink.direct else _LOW_WATER
        # Above what will come nobody would ever be woken.
        self._set_low_water(min(most, self.left))
        if self.count_readable() >= self._low_water:
            return True
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        loop.add_reader(self._socket, self._wake, True)
        timer = loop.call_at(until, self._wake, False)
        try:
            return await self._woken
        finally:
            timer.cancel()
            loop.remove_reader(self._socket)

    def _wake(self, ready: bool) -> None:  # noqa: FBT001  what the event loop calls
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(ready)

    def interrupt(self) -> None:
        """Have whoever waits or works for this come back soon."""
        self._interrupted = True
        self._wake(False)

    def begin_grace(self) -> int:
        """Go on to a nearer end; return the one that was to be reached."""
        goal = self._end
        self._in_grace, self._interrupted = True, False
        self._end = min(goal, self.sink.offset + _GRACE_BYTES)
        return goal

    def read(self, most: int) -> bytes | None:
        """Return what is there, at most that much; None: nothing yet, b"": nothing any more."""
        try:
            return self._socket.recv(min(most, self.left))
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._low_water = count

    def pour(self, vessel: Vessel, dry: float, turn: float) -> BodyEnd | None:
        """Move what comes within `turn` seconds, unless for `dry` seconds it is not much."""
        until = time.monotonic() + turn
        end, left, more = None, self.left - len(self._here), True
        vessel.begin(self.sink)
        if self._here:
            vessel.put(self._here, self.sink)
            self._here = b""
        self.flows = False
        while more and left and not self._interrupted:
            self._set_low_water(min(left, vessel.low_water))
            # What trickles is taken, and then left to the event loop.
            self.flows = bool(self._poll.poll(dry * 1000))
            end, count = self._fill(vessel, left)
            left -= count
            more = self.flows and end is None
            if vessel.full:
                # Never else, so that the next piece begins with a page again.
                more = more and time.monotonic() < until
                vessel.empty(self.sink)
        vessel.finish(self.sink)
        return end

    def _fill(self, vessel: Vessel, most: int) -> tuple[BodyEnd | None, int]:
        try:
            count = vessel.fill(self._socket, most)
        except BlockingIOError:
            return None, 0
        except OSError:
            return BodyEnd.DISCONNECTED, 0
        return (None, count) if count else (BodyEnd.DISCONNECTED, 0)
