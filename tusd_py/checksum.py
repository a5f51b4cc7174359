"""Digests of bodies while they pass through to the file."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Protocol

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.interfaces import Buffer, Sink


class Digest(Protocol):
    """What hashlib's objects are, and those made here for what it lacks."""

    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """Compute a 32-bit CRC, told most significant byte first."""

    def __init__(self, extend: Callable[[int, bytes], int]) -> None:
        self._extend = extend
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._extend(self._value, bytes(data))

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def new_digest(algorithm: str) -> Digest:
    """Start a digest of one of `tus.ALGORITHMS`."""
    if algorithm == "crc32":
        return _Crc(lambda value, data: zlib.crc32(data, value))
    if algorithm == "crc32c":
        return _Crc(google_crc32c.extend)
    return hashlib.new(algorithm, usedforsecurity=False)


class DigestingSink:
    """Write through to another sink and digest what passes (storage.interfaces.Sink)."""

    def __init__(self, sink: Sink, digest: Digest) -> None:
        self._sink = sink
        self._digest = digest

    @property
    def offset(self) -> int:
        return self._sink.offset

    def write(self, buffers: Sequence[Buffer]) -> None:
        self._sink.write(buffers)
        for buffer in buffers:
            self._digest.update(buffer)

    def take(self, buffers: Sequence[bytes]) -> bool:
        taken = self._sink.take(buffers)
        for buffer in buffers if taken else ():
            self._digest.update(buffer)
        return taken
