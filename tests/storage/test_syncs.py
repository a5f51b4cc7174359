"""What waits for syncs on the event loop goes on in the right order, and to its end."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage import syncs
from storage.aio import Aio, Unsupported
from storage.durability import Sync
from storage.syncs import Kernel, Syncs, Threads, Turns
from tests.storage.slow import SlowDisk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from storage.durability import Steps
    from storage.syncs import Disk

FOREVER = 100_000.0
BROKEN = OSError(errno.EIO, "Input/output error")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    slow = SlowDisk()
    monkeypatch.setattr(syncs, "disk", lambda: slow)
    return slow


def deed(log: list[str]) -> Steps[str]:
    """Do two things, each after a sync; say what became of it."""
    log.append("began")
    try:
        yield [Sync(1, size=3), Sync(2, names=True)]
        log.append("went on")
        yield [Sync(3)]
    except OSError as error:
        log.append(f"failed: {error.strerror}")
        raise
    log.append("ended")
    return "done"


async def turn() -> None:
    """Let everybody else go on as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


def asked(slow: SlowDisk) -> list[list[int]]:
    return [[sync.descriptor for sync in group] for group in slow.asked]


async def test_each_step_waits_for_the_syncs_before_it(slow: SlowDisk) -> None:
    log: list[str] = []
    task = asyncio.create_task(Syncs().carry_out(deed(log)))
    await turn()
    assert (log, asked(slow)) == (["began"], [[1, 2]])
    slow.finish()
    await turn()
    assert (log, asked(slow)) == (["began", "went on"], [[1, 2], [3]])
    assert not task.done()
    slow.finish()
    assert await task == "done"


async def test_a_step_is_told_of_a_sync_that_failed(slow: SlowDisk) -> None:
    log: list[str] = []
    task = asyncio.create_task(Syncs().carry_out(deed(log)))
    await turn()
    slow.finish(BROKEN)
    with pytest.raises(OSError, match="Input/output error"):
        await task
    assert log == ["began", "failed: Input/output error"]


async def test_a_cancellation_comes_after_the_last_step(slow: SlowDisk) -> None:
    log: list[str] = []
    lost: list[str] = []
    task = asyncio.create_task(Syncs().carry_out(deed(log), lost.append))
    for step in ("began", "went on"):
        await turn()
        assert log[-1] == step
        task.cancel()
        await turn()
        assert not task.done()
        slow.finish()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (log[-1], lost) == ("ended", ["done"])


async def test_under_an_interval_all_begin_together_and_their_second_step_does_not_wait(
    slow: SlowDisk,
) -> None:
    made = Syncs(FOREVER, 9)
    # The first of all finds nobody before it.
    first = asyncio.create_task(made.carry_out(deed([])))
    await turn()
    assert len(slow.asked) == 1
    tasks = [asyncio.create_task(made.carry_out(deed([]))) for _ in range(2)]
    await turn()
    assert len(slow.asked) == 1
    assert not made.due(2)
    assert made.due(3)
    # With it there are nine bytes.
    tasks.append(asyncio.create_task(made.carry_out(deed([]))))
    await turn()
    assert asked(slow)[1:] == [[1, 2]] * 3
    for _ in range(4):
        slow.finish()
    await turn()
    assert asked(slow)[4:] == [[3]] * 4
    for _ in range(4):
        slow.finish()
    assert await asyncio.gather(first, *tasks) == ["done"] * 4


async def test_an_interval_ends_by_itself() -> None:
    turns = Turns(0.01, 1000)
    for _ in range(3):
        assert await turns.next(1) is None
    assert turns.waiting == 0


async def test_without_an_interval_everything_is_due() -> None:
    assert Syncs().due(1)


def of_kernel() -> Disk:
    return Kernel(Aio(4))


@pytest.fixture(params=[of_kernel, Threads])
async def disk(request: pytest.FixtureRequest) -> AsyncIterator[Disk]:
    disk: Disk = request.param()
    yield disk
    disk.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"abc")
    yield descriptor
    with suppress(OSError):
        os.close(descriptor)


async def test_files_and_directories_are_synced(disk: Disk, file: int, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert await disk.sync([Sync(file, 3), Sync(directory, names=True)]) is None
    os.close(directory)


async def test_more_than_can_be_under_way_wait_for_their_turn(disk: Disk, file: int) -> None:
    wanted = [disk.sync([Sync(file)] * 3) for _ in range(50)]
    assert await asyncio.gather(*wanted) == [None] * 50


async def test_what_cannot_be_synced_is_said_and_disturbs_nobody(disk: Disk, file: int) -> None:
    reading, writing = os.pipe()
    groups = [[Sync(file)], [Sync(writing)], [Sync(file), Sync(reading)], [Sync(file)]]
    errors = await asyncio.gather(*(disk.sync(group) for group in groups))
    assert [error and error.errno for error in errors] == [None, errno.EINVAL, errno.EINVAL, None]
    os.close(reading)
    os.close(writing)


async def test_a_kernel_that_has_no_room_is_asked_again(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(Aio(4))
    submit: Callable[..., int] = kernel._aio.submit
    refusals = iter([0, 0])
    monkeypatch.setattr(
        kernel._aio, "submit", lambda wanted: next(refusals, None) or submit(wanted)
    )
    assert await kernel.sync([Sync(file)]) is None
    kernel.close()


async def test_what_the_kernel_does_not_take_threads_do(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(Aio(4))

    def refused(wanted: object) -> int:
        del wanted
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(kernel._aio, "submit", refused)
    assert await kernel.sync([Sync(file), Sync(file)]) is None
    kernel.close()


async def test_at_the_end_nobody_waits_on(file: int) -> None:
    kernel = Kernel(Aio(4))
    done = kernel.sync([Sync(file), Sync(file)])
    await asyncio.sleep(0)
    kernel.close()
    error = await done
    assert error is not None
    assert error.errno == errno.ECANCELED


async def test_where_the_kernel_does_not_do_it_threads_do(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(Unsupported):
        Aio(1)
    found = syncs.disk()
    assert isinstance(found, Threads)
    assert await found.sync([Sync(file)]) is None
    found.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_where_no_more_files_can_be_open_threads_do(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", refused)
    found = syncs.disk()
    assert await found.sync([Sync(file)]) is None
    found.close()


async def test_the_kernel_holds_nothing_after_the_end(file: int) -> None:
    made = Syncs()
    before = open_files()

    def once() -> Steps[None]:
        yield [Sync(file)]

    await made.carry_out(once())
    assert open_files() > before
    made.close()
    made.close()
    assert open_files() == before
