"""A process that is ready for the next job does that one, and is in nobody's way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.job import JobState
from tests.working import (
    DEADLINE,
    Place,
    Worker,
    completed,
    horses,
    opened,
    processing,
    small_video,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    with opened(redis_url, tmp_path / "data") as found:
        yield found


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_video(tmp_path_factory.mktemp("video") / "small.avi")


def ready(place: Place) -> set[int]:
    """Return the processes that have made themselves ready."""
    return {int(path.name.partition("-")[2]) for path in place.directory.glob("ready-*")}


@pytest.fixture
def prepared(place: Place, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Return a worker that has a process ready."""
    monkeypatch.setenv("TEST_PREPARE", "1")
    process = place.work()
    wait_until(lambda: ready(place))
    return process


def test_a_job_is_done_by_the_process_that_is_ready_and_the_next_one_by_another(
    place: Place, video: bytes, prepared: Worker
) -> None:
    for _ in range(2):
        before = ready(place)
        [spare] = horses(prepared)
        assert spare in before
        upload_id = place.upload(video)
        wait_until(lambda: processing(place, upload_id))  # noqa: B023  called here
        assert horses(prepared) == [spare]
        wait_until(lambda: completed(place, upload_id))  # noqa: B023
        assert place.job(upload_id).attempt == 1
        wait_until(lambda: len(ready(place)) > len(before))  # noqa: B023
        place.terminate(upload_id)


def test_a_ready_process_that_dies_costs_no_job(
    place: Place, video: bytes, prepared: Worker
) -> None:
    [spare] = horses(prepared)
    os.kill(spare, signal.SIGKILL)
    upload_id = place.upload(video)
    wait_until(lambda: completed(place, upload_id))
    assert place.job(upload_id).attempt == 1


def test_a_ready_process_ends_with_its_worker_however_that_ends(
    place: Place, prepared: Worker
) -> None:
    [spare] = horses(prepared)
    prepared.terminate()
    assert prepared.wait(DEADLINE) == 0
    assert not Path(f"/proc/{spare}").exists()
    other = place.work()
    wait_until(lambda: horses(other))
    [spare] = horses(other)
    other.kill()
    wait_until(lambda: not Path(f"/proc/{spare}/exe").exists())


def test_the_limits_of_a_job_hold_in_a_process_that_was_ready(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PREPARE", "1")
    monkeypatch.setenv("JOB_MEMORY_BYTES", str(2**31))
    process = place.work("greedily")
    wait_until(lambda: ready(place))
    upload_id = place.upload(video)
    wait_until(lambda: place.job(upload_id).state is JobState.FAILED)
    assert "JOB_MEMORY_BYTES" in place.job(upload_id).message
    assert process.poll() is None
