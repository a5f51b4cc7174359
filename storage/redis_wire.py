"""One connection to Redis with many commands on the way: what redis-py's pool costs ten times.

It has the few commands that the hot path and watchers need, under redis-py's names and with its
errors, so a store takes either client. What is asked in one turn of the event loop leaves in few
writes.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as Late

from storage.redis_address import Address

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

# Seconds.
_CONNECT = 1.0
_ANSWER = 3.0
# Commands that leave together, before the turn is over: Redis works while we do.
_TOGETHER = 4


class RedisWire:
    """Speak to one Redis; a connection that broke is made again by the next command."""

    def __init__(self, url: str, *, connect: float = _CONNECT, answer: float = _ANSWER) -> None:
        """Take a URL (storage.redis_address); wait so many seconds at most."""
        address = Address.parse(url)
        self._options, self._primary = address.options, address.primary()
        self._tls = address.tls
        self._connect_seconds = connect
        self._answer_seconds = answer
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    def evalsha(self, sha: str, numkeys: int, *args: str | float) -> Coroutine[Any, Any, Any]:
        """Run a script that the server knows by this digest; raise NoScriptError."""
        return self._command("EVALSHA", sha, numkeys, *args)

    def eval(self, script: str, numkeys: int, *args: str | float) -> Coroutine[Any, Any, Any]:
        """Run a script."""
        return self._command("EVAL", script, numkeys, *args)

    async def smembers(self, name: str) -> set[str]:
        """Return the members of a set."""
        return set(await self._command("SMEMBERS", name))

    async def hgetall(self, name: str) -> Mapping[str, str]:
        """Return the fields of a hash."""
        flat = await self._command("HGETALL", name)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def lrange(self, name: str, start: int, end: int) -> Coroutine[Any, Any, list[str]]:
        """Return elements of a list, `end` included."""
        return self._command("LRANGE", name, start, end)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._line is not None:
            self._line.lose(Disconnected("this client was closed"))

    async def _command(self, *args: str | float) -> Any:
        packed = hiredis.pack_command(args)  # type: ignore[arg-type]  # the stub means any tuple
        line = self._line
        if line is not None and line.lost is None:
            try:
                return await line.ask(packed)
            except Disconnected:
                # Once more on a fresh connection: the server may have been restarted meanwhile.
                pass
        line = await self._connected()
        return await line.ask(packed)

    async def _connected(self) -> _Line:
        if self._line is not None and self._line.lost is None:
            return self._line
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        # Many may wait for it, and one that is cancelled takes it from nobody.
        return await asyncio.shield(self._connecting)

    def _has_connected(self, task: asyncio.Task[_Line]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._line = task.result()

    async def _connect(self) -> _Line:
        line = _Line(self._answer_seconds)
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._open(line)
                for command in self._greeting():
                    await line.ask(hiredis.pack_command(command))  # type: ignore[arg-type]
        except BaseException as error:
            line.lose(Disconnected(f"Redis cannot be reached: {error}"))
            if isinstance(error, TimeoutError):
                raise Late("Redis cannot be reached in time") from None
            raise
        return line

    async def _open(self, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = dict(self._options)
        options.pop("connection_class", None)
        if "path" in options:
            await loop.create_unix_connection(lambda: line, options["path"])
            return
        tls = SSLConnection(**options).ssl_context.get() if self._tls else None
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        if self._primary is not None:
            host, port = await self._primary.get_master_address()
        await loop.create_connection(lambda: line, host, port, ssl=tls)

    def _greeting(self) -> list[tuple[str, ...]]:
        options: dict[str, Any] = dict(self._options)
        greeting: list[tuple[str, ...]] = []
        if password := options.get("password"):
            user = options.get("username")
            greeting.append(("AUTH", user, password) if user else ("AUTH", password))
        if number := options.get("db"):
            greeting.append(("SELECT", str(number)))
        return greeting


class _Line(asyncio.Protocol):
    """Carry commands and their answers, first come, first served."""

    def __init__(self, answer: float) -> None:
        self.lost: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._transport: asyncio.WriteTransport | None = None
        # Where what is written is what is sent.
        self._socket: int | None = None
        self._reader = hiredis.Reader(encoding="utf-8", replyError=_refused)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Send a packed command; the future is its answer."""
        if self.lost is not None:
            raise self.lost
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((future, self._loop.time() + self._answer))
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        if len(self._outgoing) >= _TOGETHER:
            self._flush()
        if self._watch is None:
            self._watch = self._loop.call_later(self._answer, self._look)
        return future

    def lose(self, error: Exception) -> None:
        """End the connection; who waits is told why."""
        if self.lost is not None:
            return
        self.lost = error
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def _flush(self) -> None:
        data, self._outgoing = b"".join(self._outgoing), []
        if data and self._transport is not None and self.lost is None:
            rest = data[self._send(data) :]
            if rest:
                self._transport.write(rest)

    def _send(self, data: bytes) -> int:
        """Send at once what the kernel takes, which uvloop would do when the turn is over."""
        if self._socket is None or self._waits_to_write():
            return 0
        with suppress(OSError):
            return os.write(self._socket, data)
        # Of what is wrong the transport will tell.
        return 0

    def _waits_to_write(self) -> bool:
        return self._transport is None or self._transport.get_write_buffer_size() > 0

    def _look(self) -> None:
        """See whether the oldest command has been answered in time."""
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][1] - self._loop.time()
        if left <= 0:
            self.lose(Late("Redis does not answer in time"))
        else:
            self._watch = self._loop.call_later(left, self._look)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        if transport.get_extra_info("ssl_object") is None:
            self._socket = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not False:
                future, _ = waiting.popleft()
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                    if isinstance(answer, Disconnected):
                        self.lose(answer)
                else:
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError, UnicodeDecodeError) as error:
            self.lose(Disconnected(f"this is not what Redis says: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(Disconnected(f"the connection to Redis was lost: {exc or 'it was closed'}"))


def _refused(text: str) -> ResponseError | Disconnected:
    if text.startswith("READONLY"):
        # The primary has become a replica: another one is to be asked for.
        return Disconnected(text)
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)
