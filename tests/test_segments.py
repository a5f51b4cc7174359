"""A long video is analysed by several workers, and ends in one result whoever dies."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from redis import Redis

import worker
from processing.engines import choose
from processing.errors import TooLarge
from processing.pipeline import analyse
from storage import redis_schema as schema
from storage.job import JobState
from storage.shares import Shares, digest
from tests.scene import Setting, write
from tests.slow_jobs import engine
from tests.working import DEADLINE, Place, children, completed, horses, opened, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.working import Worker

SECONDS = "3"
FRAMES = 72
# Those of each of its three segments, what is looked at before they begin included.
LOOKED_AT = (20, 40, 52)


def nothing() -> None:
    """Pause not at all."""


@pytest.fixture
def place(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("ANALYSIS_SEGMENT_SECONDS", SECONDS)
    with opened(redis_url, tmp_path / "data") as found:
        yield found


def filmed(path: Path, codec: str, fps: float) -> bytes:
    """Film the same thing all the time."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (96, 64)
    )
    for index in range(FRAMES):
        writer.write(np.full((64, 96, 3), index * 3, np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a video of 12 seconds, each of whose 72 frames is analysed."""
    return filmed(tmp_path_factory.mktemp("video") / "long.avi", "MJPG", 6.0)


def shares(place: Place) -> list[str]:
    """Return what lies there of shared analyses."""
    # It goes on where something vanishes meanwhile.
    found = os.walk(place.directory / "shares")
    return sorted(name for _, _, names in found for name in names)


def brought(place: Place) -> list[str]:
    return [name for name in shares(place) if name in {"0.json", "1.json", "2.json"}]


def run(place: Place, upload_id: str, pause: Callable[[], None], seconds: float) -> None:
    made = lambda: engine(pause)  # noqa: E731
    worker.run(upload_id, place.data, place.jobs, made, segment_seconds=seconds)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    varying = {"timings", "job_id", "finished_at"}
    return {name: value for name, value in result.items() if name not in varying}


def in_one_pass(place: Place, video: bytes) -> dict[str, Any]:
    """Return what one pass of this process finds, and leave nothing of it."""
    upload_id = place.upload(video)
    run(place, upload_id, nothing, 0)
    result = without_times(place.result(upload_id))
    place.terminate(upload_id)
    return result


@dataclass(frozen=True, slots=True)
class Shared:
    """An analysis that two workers have begun, and that stands still until it is let go on."""

    place: Place
    upload_id: str
    #: The worker that runs the job, and the one that helps.
    first: int
    second: int

    def go_on(self) -> None:
        (self.place.directory / "hold").unlink()

    def ends(self) -> None:
        """Wait for the one result there is; nothing is left beside it."""
        wait_until(lambda: completed(self.place, self.upload_id))
        assert self.place.result(self.upload_id)["frames"] == FRAMES
        wait_until(lambda: shares(self.place) == [])


def shared_by_two(place: Place, video: bytes) -> Shared:
    (place.directory / "hold").touch()
    workers = horses_of(place.work("held", "2"), 2)
    wait_until(lambda: place.jobs.workers() == 2)
    upload_id = place.upload(video)
    wait_until(lambda: any(map(children, workers)))
    [first] = [pid for pid in workers if children(pid)]
    wait_until(lambda: all(map(children, workers)))
    wait_until(lambda: sum(name.endswith(".claim") for name in shares(place)) == 2)
    [second] = [pid for pid in workers if pid != first]
    return Shared(place, upload_id, first, second)


def horses_of(process: Worker, count: int) -> list[int]:
    wait_until(lambda: len(horses(process)) == count)
    return horses(process)


# --- in this process


def test_segments_have_the_result_of_one_pass_and_leave_nothing(place: Place, video: bytes) -> None:
    whole = in_one_pass(place, video)
    upload_id = place.upload(video)
    run(place, upload_id, nothing, 3)
    assert without_times(place.result(upload_id)) == whole
    job = place.job(upload_id)
    assert (job.state, job.done, job.total, job.plates) == (JobState.COMPLETED, FRAMES, FRAMES, 1)
    assert shares(place) == []


def test_a_run_that_crashed_goes_on_where_it_was(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    looked_at = 0

    def crash_in_the_second_segment() -> None:
        nonlocal looked_at
        looked_at += 1
        if looked_at == LOOKED_AT[0] + 30:
            raise LookupError

    run(place, upload_id, crash_in_the_second_segment, 3)
    assert place.job(upload_id).state is JobState.PROCESSING
    assert brought(place) == ["0.json"]
    before, looked_at = looked_at, 100
    run(place, upload_id, crash_in_the_second_segment, 3)
    assert completed(place, upload_id)
    assert before == LOOKED_AT[0] + 30
    assert looked_at - 100 == sum(LOOKED_AT[1:])


def test_other_segments_than_before_begin_anew(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)

    def crash() -> None:
        if brought(place):
            raise LookupError

    run(place, upload_id, crash, 3)
    assert brought(place)
    run(place, upload_id, nothing, 5)
    assert place.result(upload_id)["frames"] == FRAMES
    assert shares(place) == []


@pytest.mark.parametrize("hopeless", [True, False])
def test_a_failed_job_leaves_no_shares(place: Place, video: bytes, *, hopeless: bool) -> None:
    upload_id = place.upload(video)

    def fail() -> None:
        if brought(place):
            raise TooLarge(9, 9, 9) if hopeless else LookupError

    for _ in range(3):
        run(place, upload_id, fail, 3)
    assert place.job(upload_id).state is JobState.FAILED
    assert shares(place) == []


def test_an_upload_that_is_removed_takes_its_shares_along(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)

    def remove() -> None:
        if brought(place):
            place.terminate(upload_id)

    run(place, upload_id, remove, 3)
    assert place.job(upload_id).state is JobState.CANCELLED
    assert shares(place) == []
    assert list((place.directory / "results").iterdir()) == []


def test_a_video_that_cannot_be_searched_is_analysed_in_one_pass_and_says_so(
    place: Place, tmp_path: Path
) -> None:
    upload_id = place.upload(filmed(tmp_path / "long.mpg", "mpg1", 25.0))
    run(place, upload_id, nothing, 1)
    [warning] = place.result(upload_id)["warnings"]
    assert warning == (
        "The video was not analysed in segments: The frames of the video cannot be found by their"
        " times"
    )


def test_a_helper_of_another_engine_does_nothing(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    plans: list[str] = []

    def other() -> Any:
        found = engine(nothing)
        object.__setattr__(found.reader, "name", "other")
        return found

    def call_one() -> None:
        [plan] = (place.directory / "shares" / upload_id).iterdir()
        if not plans:
            plans.append(plan.name)
            limit = worker.memory_limit(place.settings)
            worker.assist(upload_id, place.data, place.jobs, other, plan=plan.name, limit=limit)

    run(place, upload_id, call_one, 3)
    assert plans
    assert completed(place, upload_id)
    assert place.result(upload_id)["reader"] == "sure"


def test_a_helper_of_another_version_does_nothing(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    with Shares(place.data.directory).begin(upload_id, b'{"version": 0}') as work:
        worker.assist(
            upload_id,
            place.data,
            place.jobs,
            lambda: engine(nothing),
            plan=digest(work.plan),
            limit=worker.memory_limit(place.settings),
        )
        assert not work.is_begun(0)


def test_a_helper_has_no_time_while_another_video_waits(place: Place, video: bytes) -> None:
    upload_id, other = place.upload(video), place.upload(video)
    place.jobs.drain()
    begun: list[bool] = []

    def help_out() -> None:
        if len(begun) == 2:
            return
        [plan] = (place.directory / "shares" / upload_id).iterdir()
        limit = worker.memory_limit(place.settings)
        made = partial(engine, nothing)
        worker.assist(upload_id, place.data, place.jobs, made, plan=plan.name, limit=limit)
        begun.append("2.claim" in shares(place))
        for one in (upload_id, other):
            place.jobs.queue.delete(one)

    run(place, upload_id, help_out, 3)
    assert begun == [False, True]


# --- processes that help, and that are killed


def test_one_worker_alone_does_all_segments(place: Place, video: bytes) -> None:
    whole = in_one_pass(place, video)
    upload_id = place.upload(video)
    place.work("briskly")
    wait_until(lambda: completed(place, upload_id))
    assert without_times(place.result(upload_id)) == whole
    assert place.job(upload_id).attempt == 1


def test_two_workers_share_a_video_and_one_result_comes_of_it(place: Place, video: bytes) -> None:
    whole = in_one_pass(place, video)
    both = shared_by_two(place, video)
    both.go_on()
    both.ends()
    assert without_times(place.result(both.upload_id)) == whole
    job = place.job(both.upload_id)
    assert (job.attempt, job.done, job.total) == (1, FRAMES, FRAMES)
    # Whoever helped is here for the next one, and nothing of the help is left.
    wait_until(lambda: place.jobs.queue.ids() == set())
    place.terminate(both.upload_id)
    again = place.upload(video)
    wait_until(lambda: completed(place, again))


@pytest.mark.parametrize("whole_worker", [True, False])
def test_a_killed_helper_costs_nothing_but_time(
    place: Place, video: bytes, *, whole_worker: bool
) -> None:
    both = shared_by_two(place, video)
    [horse] = children(both.second)
    os.kill(both.second if whole_worker else horse, signal.SIGKILL)
    both.go_on()
    both.ends()
    assert place.job(both.upload_id).attempt == 1


def test_a_killed_run_is_followed_by_one_that_goes_on_with_its_helper(
    place: Place, video: bytes
) -> None:
    both = shared_by_two(place, video)
    os.kill(both.first, signal.SIGKILL)
    both.go_on()
    both.ends()
    assert place.job(both.upload_id).attempt == 2


def test_a_helper_that_stands_still_holds_nobody_up_for_ever(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_STALLED_SECONDS", "1")
    both = shared_by_two(place, video)
    [horse] = children(both.second)
    os.kill(horse, signal.SIGSTOP)
    both.go_on()
    both.ends()
    os.kill(horse, signal.SIGCONT)
    wait_until(lambda: not children(both.second))
    both.ends()


def test_removing_an_upload_ends_all_who_work_on_it(place: Place, video: bytes) -> None:
    both = shared_by_two(place, video)
    place.terminate(both.upload_id)
    both.go_on()
    wait_until(lambda: not children(both.first) and not children(both.second))
    assert shares(place) == []
    assert list((place.directory / "results").iterdir()) == []
    wait_until(lambda: place.job(both.upload_id).state is JobState.CANCELLED)


def test_redis_emptied_while_segments_run_loses_nothing(place: Place, video: bytes) -> None:
    both = shared_by_two(place, video)
    with Redis.from_url(place.url) as client:
        client.flushall()
    both.go_on()
    wait_until(lambda: place.text.exists(schema.job_key(both.upload_id)))
    both.ends()


def test_real_workers_read_a_drawn_scene_in_segments_as_in_one_pass(
    place: Place, tmp_path: Path
) -> None:
    path = tmp_path / "scene.mp4"
    write(path, Setting(seed=5, width=480, height=272, fps=4, seconds=11.0, plates=2))
    reader = choose("rapidocr", threads=1)
    whole = analyse(path, reader.detector, reader.reader, lambda _: None, reason=reader.reason)
    upload_id = place.upload(path.read_bytes())
    options = ("--upload-dir", str(place.directory), "--redis-url", place.url)
    work = ("work", "--processes", "2", "--plate-reader", "rapidocr", "--analysis-threads", "1")
    process = place.start("-m", "tusd_py", *work, *options)
    wait_until(lambda: completed(place, upload_id), within=300.0)
    found = place.result(upload_id)
    for plate in found["plates"]:
        assert plate.pop("image")
    expected = {**whole.to_json(), "timings": None}
    assert {name: found[name] for name in expected} | {"timings": None} == expected
    assert found["plates"]
    process.terminate()
    assert process.wait(DEADLINE) == 0
