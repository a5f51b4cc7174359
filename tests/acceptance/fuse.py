"""Serve a forgetful disk to the kernel: the protocol of /dev/fuse, as far as our servers need it.

`python -m tests.acceptance.fuse PLACE` mounts it there and obeys one JSON document a line. It needs
no library, but the right to mount. Nothing is cached by the kernel but pages that were read.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import select
import stat
import struct
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.acceptance.forgetful import PAGE, ROOT, ForgetfulDisk, Node

if TYPE_CHECKING:
    from collections.abc import Callable

# include/uapi/linux/fuse.h
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_WRITE = struct.Struct("<QQIIQII")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_STATFS = struct.Struct("<QQQQQIIII24x")
_MOST = 2**20
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_SET_MODE, _SET_SIZE = 1, 8
_FORGET, _BATCH_FORGET, _INTERRUPT, _FSYNC, _FSYNCDIR = 2, 42, 36, 20, 30
_DETACH = 2


class Fuse:
    """Answer the kernel's requests for one disk."""

    def __init__(self, disk: ForgetfulDisk, place: str) -> None:
        self._disk = disk
        self._place = place.encode()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        self._buffer = bytearray(_MOST + PAGE)
        #: How many syncs still pass before the others wait; None for all.
        self.passing: int | None = None
        self.held: list[int] = []
        self._answers: dict[int, Callable[[Node, memoryview], bytes]] = {
            1: self._look_up,
            3: lambda node, _: self._attributes(node),
            4: self._set_attributes,
            8: lambda node, data: self._make(node, data, 16),
            9: self._make_directory,
            10: self._unlink,
            11: self._unlink,
            12: lambda node, data: self._rename(node, data, 8),
            13: self._link,
            14: lambda *_: struct.pack("<QII", 0, 0, 0),
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: lambda *_: b"",
            _FSYNC: self._sync,
            25: lambda *_: b"",
            26: self._init,
            27: lambda *_: struct.pack("<QII", 0, 0, 0),
            28: self._list,
            29: lambda *_: b"",
            _FSYNCDIR: self._sync,
            34: lambda *_: b"",
            35: self._create,
            43: self._allocate,
            45: lambda node, data: self._rename(node, data, 16),
        }

    def mount(self) -> None:
        """Mount the disk; raise OSError where that is not allowed."""
        # A request may be taken back after it was announced, when whoever asked is killed.
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        kind = b"fuse"
        if self._libc.mount(b"forgetful", self._place, kind, 0, options.encode()):
            number = ctypes.get_errno()
            raise OSError(number, f"mount: {os.strerror(number)}")

    def unmount(self) -> None:
        """Take it away from whoever still uses it."""
        self._libc.umount2(self._place, _DETACH)
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def serve(self) -> None:
        """Answer one request."""
        try:
            count = os.readv(self._fd, [self._buffer])
        except OSError as error:
            # Interrupted, or taken back meanwhile.
            if error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}:
                return
            raise
        request = memoryview(self._buffer)[:count]
        _, code, unique, number, *_ = _IN.unpack_from(request)
        data = request[_IN.size :]
        if code in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
            self._forget(code, number, data)
            return
        if code in {_FSYNC, _FSYNCDIR} and self._holds():
            self.held.append(unique)
            return
        refused, answer = 0, b""
        try:
            answer = self._answers.get(code, _unknown)(self._node(number), data)
        except OSError as error:
            refused = error.errno or errno.EIO
        self._respond(unique, refused, answer)

    def _respond(self, unique: int, refused: int, answer: bytes = b"") -> None:
        # Whoever asked may have been killed.
        with suppress(FileNotFoundError):
            os.writev(self._fd, [_OUT.pack(_OUT.size + len(answer), -refused, unique), answer])

    def _holds(self) -> bool:
        if self.passing:
            self.passing -= 1
            return False
        return self.passing is not None

    def let_go(self) -> None:
        """Hold no syncs any more; those that were held have not taken place."""
        for unique in self.held:
            self._respond(unique, errno.EINTR)
        self.passing, self.held = None, []

    def _node(self, number: int) -> Node:
        # The first request is about no node.
        return self._disk.nodes[number or ROOT]

    def _forget(self, code: int, number: int, data: memoryview) -> None:
        pairs = []
        if code == _FORGET:
            pairs = [(number, *struct.unpack_from("<Q", data))]
        elif code == _BATCH_FORGET:
            count = struct.unpack_from("<I", data)[0]
            pairs = list(struct.iter_unpack("<QQ", data[8 : 8 + 16 * count]))
        for one, times in pairs:
            if one != ROOT and one in self._disk.nodes:
                self._disk.forget(self._disk.nodes[one], times)

    def _init(self, _: Node, data: memoryview) -> bytes:
        major, minor, ahead, flags = struct.unpack_from("<IIII", data)
        wanted = flags & (_BIG_WRITES | _MAX_PAGES)
        return _INIT_OUT.pack(major, min(minor, 31), ahead, wanted, 16, 12, _MOST, 1, 256, 0, 0)

    # --- attributes

    @staticmethod
    def _attribute(node: Node) -> bytes:
        size, blocks, now = len(node.content), PAGE // 512 * len(node.placed), int(time.time())
        times = (now, now, now, 0, 0, 0)
        return _ATTR.pack(
            node.number, size, blocks, *times, node.mode, max(0, node.links), 0, 0, 0, PAGE, 0
        )

    def _attributes(self, node: Node) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attribute(node)

    def _entry(self, node: Node) -> bytes:
        node.known += 1
        return _ENTRY.pack(node.number, 0, 0, 0, 0, 0) + self._attribute(node)

    def _set_attributes(self, node: Node, data: memoryview) -> bytes:
        valid, _, _, size, *_, mode, _, _, _, _ = _SETATTR.unpack_from(data)
        if valid & _SET_SIZE:
            self._disk.truncate(node, size)
        if valid & _SET_MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return self._attributes(node)

    def _statfs(self, *_: object) -> bytes:
        disk = self._disk
        total, free = disk.capacity // PAGE, disk.free // PAGE
        return _STATFS.pack(total, free, free, 2**20, 2**20, PAGE, 255, PAGE, 0)

    # --- names

    def _look_up(self, node: Node, data: memoryview) -> bytes:
        return self._entry(self._disk.look_up(node, _names(data)[0]))

    def _make(self, node: Node, data: memoryview, skip: int) -> bytes:
        mode = struct.unpack_from("<I", data)[0]
        return self._entry(self._disk.make(node, _names(data[skip:])[0], mode))

    def _make_directory(self, node: Node, data: memoryview) -> bytes:
        mode = struct.unpack_from("<I", data)[0] | stat.S_IFDIR
        return self._entry(self._disk.make(node, _names(data[8:])[0], mode))

    def _create(self, node: Node, data: memoryview) -> bytes:
        mode = struct.unpack_from("<II", data)[1]
        made = self._disk.make(node, _names(data[16:])[0], mode)
        return self._entry(made) + struct.pack("<QII", 0, 0, 0)

    def _link(self, directory: Node, data: memoryview) -> bytes:
        node = self._node(struct.unpack_from("<Q", data)[0])
        self._disk.link(directory, _names(data[8:])[0], node)
        return self._entry(node)

    def _unlink(self, directory: Node, data: memoryview) -> bytes:
        self._disk.unlink(directory, _names(data)[0])
        return b""

    def _rename(self, source: Node, data: memoryview, skip: int) -> bytes:
        target = self._node(struct.unpack_from("<Q", data)[0])
        old, new = _names(data[skip:])[:2]
        self._disk.rename(source, old, target, new)
        return b""

    def _list(self, directory: Node, data: memoryview) -> bytes:
        _, start, most = struct.unpack_from("<QQI", data)
        answer = b""
        for place, (name, node) in enumerate(list(directory.entries.items())[start:], start + 1):
            raw = name.encode()
            entry = struct.pack("<QQII", node.number, place, len(raw), stat.S_IFMT(node.mode) >> 12)
            entry += raw + bytes(-len(raw) % 8)
            if len(answer) + len(entry) > most:
                break
            answer += entry
        return answer

    # --- bytes

    def _read(self, node: Node, data: memoryview) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", data)
        return bytes(node.content[offset : offset + size])

    def _write(self, node: Node, data: memoryview) -> bytes:
        _, offset, size, *_ = _WRITE.unpack_from(data)
        written = self._disk.write(node, offset, data[_WRITE.size : _WRITE.size + size])
        return struct.pack("<II", written, 0)

    def _allocate(self, node: Node, data: memoryview) -> bytes:
        _, offset, length, mode = struct.unpack_from("<QQQI", data)
        if mode & ~1:
            raise OSError(errno.EOPNOTSUPP, "only KEEP_SIZE")
        self._disk.allocate(node, offset, length)
        if not mode and offset + length > len(node.content):
            self._disk.truncate(node, offset + length)
        return b""

    def _sync(self, node: Node, _: memoryview) -> bytes:
        self._disk.sync(node)
        return b""


def _unknown(*_: object) -> bytes:
    raise OSError(errno.ENOSYS, "nobody needs that here")


def _names(data: memoryview) -> list[str]:
    return [os.fsdecode(name) for name in bytes(data).split(b"\0")]


def obey(disk: ForgetfulDisk, fuse: Fuse, order: dict[str, Any]) -> dict[str, Any]:
    """Do what the test asks for, and say how the disk stands."""
    match order:
        case {"cut": seed}:
            fuse.unmount()
            disk.cut(None if seed is None else random.Random(seed))  # noqa: S311  no secret
            fuse.mount()
        case {"capacity": capacity}:
            disk.capacity = capacity
        case {"fail": number, "times": times}:
            disk.failing = [number] * times
        case {"fail_writes": number, "times": times}:
            disk.failing_writes = [number] * times
        case {"hold": passing}:
            fuse.passing = passing
        case {"let_go": _}:
            fuse.let_go()
    return {"used": disk.used, "failing": len(disk.failing), "held": len(fuse.held)}


def main() -> None:
    """Serve until the other end of the standard input is closed."""
    disk = ForgetfulDisk()
    fuse = Fuse(disk, sys.argv[1])
    fuse.mount()
    print(json.dumps(obey(disk, fuse, {})), flush=True)  # noqa: T201  this is how it answers
    try:
        while True:
            ready, _, _ = select.select([fuse, sys.stdin], [], [])
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                print(json.dumps(obey(disk, fuse, json.loads(line))), flush=True)  # noqa: T201
            elif ready:
                fuse.serve()
    finally:
        fuse.unmount()


if __name__ == "__main__":
    main()
