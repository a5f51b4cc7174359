"""Uploads leave the last bytes of a disk alone, and do not ask for them at every piece."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from storage import room
from storage.errors import NoRoom
from storage.room import Room


class Disk:
    """A disk of so many free bytes, and its clock."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.asked = 0
        self.now = 100.0

    def statvfs(self, place: int) -> SimpleNamespace:
        self.asked += 1
        return SimpleNamespace(f_bavail=self.free // 512, f_frsize=512)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(2**40)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    monkeypatch.setattr(room, "time", disk)
    return disk


def test_a_disk_with_much_room_is_asked_seldom(disk: Disk) -> None:
    kept = Room(1024)
    for _ in range(63):
        kept.take(0, 2**14)
    assert disk.asked == 1
    kept.take(0, 2**15)
    assert disk.asked == 2


def test_an_answer_is_not_believed_for_long(disk: Disk) -> None:
    kept = Room(1024)
    kept.take(0, 1)
    disk.now += 1
    disk.free = 512
    with pytest.raises(NoRoom, match="512 bytes are free"):
        kept.take(0, 1)
    # As soon as there is room it is found.
    disk.free = 2**40
    kept.take(0, 1)


def test_what_one_who_asked_was_told_is_right_for_all(disk: Disk) -> None:
    kept = Room(1024)
    kept.take(0, 1)
    disk.free = 512
    with pytest.raises(NoRoom):
        kept.check(0)
    with pytest.raises(NoRoom):
        kept.take(0, 1)


def test_writers_that_all_fill_the_disk_stop_before_the_reserve(disk: Disk) -> None:
    disk.free = 2**20
    kept = Room(2**19)

    def fill() -> None:
        while True:
            kept.take(0, 1024)
            disk.free -= 1024

    with pytest.raises(NoRoom):
        fill()
    assert 2**19 - 2048 <= disk.free <= 2**19


def test_without_a_reserve_nobody_asks(disk: Disk) -> None:
    Room(0).take(0, 2**50)
    assert disk.asked == 0
