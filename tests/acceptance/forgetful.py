"""A disk in memory that forgets at a power cut what nobody brought to stable storage.

Of a file each page that was written and not synced is kept, torn or lost, as chance has it; where
the size outlived the page there are zeros. Of a directory any of the changes since its last sync
are kept, in their order, or none. It is as unkind as POSIX allows: a sync of a file says nothing of
its name, and a page that was lost to an error is not written by the next sync.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

PAGE = 4096
SECTOR = 512
ROOT = 1


@dataclass(eq=False, slots=True)
class Node:
    """A file or a directory: as it is seen, and as it would be found after a power cut."""

    number: int
    mode: int
    links: int = 0
    #: How often the kernel was told of it; it stays as long as that is not taken back.
    known: int = 0
    content: bytearray = field(default_factory=bytearray)
    stable: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)
    #: The pages that have a place on the disk.
    placed: set[int] = field(default_factory=set)
    entries: dict[str, Node] = field(default_factory=dict)
    stable_entries: dict[str, Node] = field(default_factory=dict)
    #: Changes of names since the last sync; each puts nodes under names, or nothing.
    changes: list[dict[str, Node | None]] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class ForgetfulDisk:
    """Keep files and directories; every method raises OSError as a system call does."""

    def __init__(self, capacity: int = 2**40) -> None:
        """Have room for so many bytes."""
        self.capacity = capacity
        self.used = 0
        #: The error of each of the next syncs of files.
        self.failing: list[int] = []
        #: The error of each of the next writes.
        self.failing_writes: list[int] = []
        self._last = ROOT
        self.root = Node(ROOT, stat.S_IFDIR | 0o755, links=2)
        self.nodes = {ROOT: self.root}

    @property
    def free(self) -> int:
        return max(0, self.capacity - self.used)

    # --- names

    def look_up(self, directory: Node, name: str) -> Node:
        try:
            return directory.entries[name]
        except KeyError:
            raise OSError(errno.ENOENT, "there is no such name") from None

    def make(self, directory: Node, name: str, mode: int) -> Node:
        """Make a file, a directory or a socket."""
        self._last += 1
        node = Node(self._last, mode)
        self.link(directory, name, node)
        self.nodes[node.number] = node
        return node

    def link(self, directory: Node, name: str, node: Node) -> None:
        if name in directory.entries:
            raise OSError(errno.EEXIST, "the name is taken")
        node.links += 1
        self._change(directory, {name: node})

    def unlink(self, directory: Node, name: str) -> None:
        node = self.look_up(directory, name)
        if node.is_directory and node.entries:
            raise OSError(errno.ENOTEMPTY, "the directory is not empty")
        self._change(directory, {name: None})
        self._drop(node)

    def rename(self, source: Node, old: str, target: Node, new: str) -> None:
        """Rename within one directory at once, as every file system does."""
        node, replaced = self.look_up(source, old), target.entries.get(new)
        if source is target:
            self._change(source, {old: None, new: node})
        else:
            self._change(target, {new: node})
            self._change(source, {old: None})
        if replaced is not None and replaced is not node:
            self._drop(replaced)

    def _change(self, directory: Node, change: dict[str, Node | None]) -> None:
        _apply(directory.entries, change)
        directory.changes.append(change)

    def _drop(self, node: Node) -> None:
        node.links -= 1
        self.forget(node, 0)

    def forget(self, node: Node, count: int) -> None:
        """Take back that the kernel knows of it; what has no name either is gone."""
        node.known -= count
        if node.links <= 0 and node.known <= 0 and node.number in self.nodes:
            del self.nodes[node.number]
            self.used -= PAGE * len(node.placed)

    # --- bytes

    def write(self, node: Node, offset: int, data: bytes | memoryview) -> int:
        """Write what fits; raise ENOSPC where nothing does."""
        if self.failing_writes:
            raise OSError(self.failing_writes.pop(0), "the disk failed")
        end = offset + self._place(node, offset, len(data))
        if end == offset and data:
            raise OSError(errno.ENOSPC, "the disk is full")
        if len(node.content) < end:
            node.content.extend(bytes(end - len(node.content)))
        node.content[offset:end] = data[: end - offset]
        node.dirty.update(_pages(offset, end))
        return end - offset

    def _place(self, node: Node, offset: int, length: int) -> int:
        """Find room for pages, and return how many of the bytes have some."""
        for page in _pages(offset, offset + length):
            if page in node.placed:
                continue
            if self.free < PAGE:
                return max(0, page * PAGE - offset)
            node.placed.add(page)
            self.used += PAGE
        return length

    def allocate(self, node: Node, offset: int, length: int) -> None:
        """Find room in advance (fallocate, KEEP_SIZE)."""
        if self._place(node, offset, length) < length:
            raise OSError(errno.ENOSPC, "the disk is full")

    def truncate(self, node: Node, size: int) -> None:
        old = len(node.content)
        if size < old:
            del node.content[size:]
            gone = {page for page in node.placed if page * PAGE >= size}
            node.placed -= gone
            self.used -= PAGE * len(gone)
        else:
            node.content.extend(bytes(size - old))
        node.dirty.update(_pages(min(size, old), max(size, old)))

    # --- what survives

    def sync(self, node: Node) -> None:
        """Bring bytes and size of a file, or the names of a directory, to stable storage."""
        if node.is_directory:
            node.stable_entries = dict(node.entries)
            node.changes.clear()
            return
        if self.failing:
            # As Linux does: the error is told once, and the pages count as clean from then on.
            node.dirty.clear()
            raise OSError(self.failing.pop(0), "the disk failed")
        node.stable = _sized(node.stable, len(node.content))
        for page in node.dirty:
            part = slice(page * PAGE, (page + 1) * PAGE)
            node.stable[part] = node.content[part]
        node.dirty.clear()

    def cut(self, dice: random.Random | None) -> None:
        """Lose the power: what is found afterwards is chance, or without dice what was synced."""
        found = {id(self.root): self.root}
        for node in self._found(found, dice):
            _settle(node, dice)
        self.nodes = {node.number: node for node in found.values()}
        for node in self.nodes.values():
            node.known, node.links = 0, 2 if node.is_directory else 0
        for node in self.nodes.values():
            for child in node.entries.values():
                child.links += 1
        self.used = sum(PAGE * len(node.placed) for node in self.nodes.values())

    def _found(self, found: dict[int, Node], dice: random.Random | None) -> Iterator[Node]:
        """Walk over what is still reachable, settling names on the way."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if node.is_directory:
                _settle_names(node, dice)
                new = [one for one in node.entries.values() if id(one) not in found]
                found |= {id(one): one for one in new}
                waiting += list(dict.fromkeys(new))
            else:
                yield node


def _apply(entries: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _settle_names(directory: Node, dice: random.Random | None) -> None:
    entries = dict(directory.stable_entries)
    kept = dice.choice([0.0, 0.0, 0.5, 1.0]) if dice else 0.0
    for change in directory.changes:
        if dice and dice.random() < kept:
            _apply(entries, change)
    directory.entries, directory.stable_entries = entries, dict(entries)
    directory.changes.clear()


def _settle(file: Node, dice: random.Random | None) -> None:
    found = _survived(file, dice) if dice else file.stable
    file.content, file.stable = found, bytearray(found)
    file.placed = set(_pages(0, len(found)))
    file.dirty.clear()


def _survived(file: Node, dice: random.Random) -> bytearray:
    old, new = len(file.stable), len(file.content)
    size = dice.choice([old, new, dice.randint(old, new) if old < new else old])
    found, kept = _sized(file.stable, size), dice.choice([0.0, 0.5, 1.0])
    for page in sorted(file.dirty):
        if dice.random() < kept:
            torn = SECTOR * dice.randint(1, PAGE // SECTOR) if dice.random() < 0.3 else PAGE
            part = slice(page * PAGE, min(page * PAGE + torn, size, new))
            found[part] = file.content[part]
    return found


def _sized(content: bytearray, size: int) -> bytearray:
    return content[:size] + bytes(max(0, size - len(content)))


def _pages(start: int, end: int) -> range:
    return range(start // PAGE, -(-end // PAGE))
