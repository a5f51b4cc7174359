"""Every job ends in one result, whoever is killed; real processes, forks and Redis."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from storage import redis_schema as schema
from storage.embedded import Embedded
from storage.errors import StoreUnavailable
from storage.job import JobState
from storage.redis_jobs import RedisJobs
from storage.rq_worker import CrashAwareWorker
from tests.working import (
    DEADLINE,
    FRAMES,
    Place,
    completed,
    horses,
    opened,
    processing,
    small_video,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def nothing() -> None:
    """Revive nothing."""


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    with opened(redis_url, tmp_path / "data") as found:
        yield found


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_video(tmp_path_factory.mktemp("video") / "small.avi")


def test_upkeep_that_fails_keeps_no_worker_from_the_queue(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fail(name: str) -> Callable[[RedisJobs], int]:
        def step(_: RedisJobs) -> int:
            calls.append(name)
            raise StoreUnavailable("Redis refuses to write")

        return step

    for name in ("drain", "reconcile", "sweep"):
        monkeypatch.setattr(RedisJobs, name, fail(name))
    crashing = CrashAwareWorker(place.jobs, nothing)
    crashing._maintain()
    assert calls == ["drain", "reconcile", "sweep"]
    crashing._maintain()
    assert calls == ["drain", "reconcile", "sweep", "drain"]


def test_a_running_job_waits_for_no_upkeep_that_could_cost_its_lease(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def note(name: str) -> Callable[[RedisJobs], int]:
        def step(_: RedisJobs) -> int:
            calls.append(name)
            return 0

        return step

    place.upload(b"")
    jobs = place.jobs
    jobs.drain()
    working = CrashAwareWorker(jobs, nothing)
    working._register()
    taken = working._take(working.queues, None)
    assert taken is not None
    job, _ = taken
    execution = working.prepare_execution(job)
    for name in ("drain", "reconcile", "sweep"):
        monkeypatch.setattr(RedisJobs, name, note(name))
    place.text.delete(working.key, "rq:workers", "rq:workers:tusd")
    working.maintain_heartbeats(job, execution)
    assert calls == []
    assert place.jobs.workers() == 1


def test_a_worker_runs_no_thread_of_ours_beside_the_one_that_forks(place: Place) -> None:
    threads = threading.active_count()
    CrashAwareWorker(place.jobs, nothing)
    assert threading.active_count() == threads


# --- processes that are killed


def test_a_killed_job_runs_again_and_ends_in_one_result(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    process = place.work()
    wait_until(lambda: processing(place, upload_id))
    done = place.job(upload_id).done
    [horse] = horses(process)
    os.kill(horse, signal.SIGKILL)
    wait_until(lambda: place.job(upload_id).attempt == 2)
    assert place.job(upload_id).done >= done
    wait_until(lambda: completed(place, upload_id))
    assert place.result(upload_id)["frames"] == FRAMES


def test_a_killed_worker_takes_its_job_down_and_the_next_one_runs_it_at_once(
    place: Place, video: bytes
) -> None:
    upload_id = place.upload(video)
    first = place.work()
    wait_until(lambda: processing(place, upload_id))
    [horse] = horses(first)
    first.kill()
    first.wait()
    wait_until(lambda: not Path(f"/proc/{horse}/exe").exists())
    place.work()
    wait_until(lambda: completed(place, upload_id))
    assert place.job(upload_id).attempt == 2
    assert place.result(upload_id)["frames"] == FRAMES


def test_a_video_that_kills_its_process_thrice_fails_with_the_reason(
    place: Place, video: bytes
) -> None:
    deadly, harmless = place.upload(video), place.upload(b"")
    process = place.work("fatally")
    wait_until(lambda: place.job(deadly).state is JobState.FAILED)
    assert place.job(deadly).message == (
        "The analysis crashed 3 times, last because it was killed by SIGKILL"
    )
    assert place.job(deadly).attempt == 3
    wait_until(lambda: place.job(harmless).state is JobState.FAILED)
    assert process.poll() is None


def test_an_error_nobody_foresaw_is_tried_again_and_then_told_without_a_traceback(
    place: Place, video: bytes
) -> None:
    upload_id = place.upload(video)
    place.work("wrongly")
    wait_until(lambda: place.job(upload_id).state is JobState.FAILED)
    assert place.job(upload_id).message == (
        "The analysis crashed 3 times, last because of an unexpected LookupError"
    )


def test_an_analysis_that_takes_too_much_memory_fails_with_the_reason(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_MEMORY_BYTES", str(2**31))
    upload_id = place.upload(video)
    place.work("greedily")
    wait_until(lambda: place.job(upload_id).state is JobState.FAILED)
    job = place.job(upload_id)
    assert (job.attempt, job.message) == (
        1,
        "The analysis needs more memory than this server allows (JOB_MEMORY_BYTES)",
    )


def test_an_analysis_that_takes_too_long_fails_with_the_reason(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_TIMEOUT_SECONDS", "1")
    monkeypatch.setenv("JOB_TIMEOUT_SECONDS_PER_MB", "0")
    upload_id = place.upload(video)
    place.work()
    wait_until(lambda: place.job(upload_id).state is JobState.FAILED)
    job = place.job(upload_id)
    assert (job.attempt, job.message) == (
        1,
        "The analysis took longer than this server allows (JOB_TIMEOUT_SECONDS)",
    )


def test_the_first_sigterm_lets_the_running_job_finish(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    process = place.work()
    wait_until(lambda: processing(place, upload_id))
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert completed(place, upload_id)
    assert place.job(upload_id).attempt == 1
    assert place.jobs.workers() == 0


def test_the_second_sigterm_kills_the_job_and_another_worker_runs_it(
    place: Place, video: bytes
) -> None:
    upload_id = place.upload(video)
    process = place.work()
    wait_until(lambda: processing(place, upload_id))
    [horse] = horses(process)
    os.kill(horse, signal.SIGSTOP)
    # RQ takes two within a second for one that came twice, and a slow machine hears them late.
    while process.poll() is None:
        process.terminate()
        time.sleep(1.2)
    # One more may come when Python has nothing any more that could heed it.
    assert process.returncode in {0, -signal.SIGTERM}
    assert not Path(f"/proc/{horse}").exists()
    assert place.job(upload_id).state is JobState.PROCESSING
    place.work()
    wait_until(lambda: completed(place, upload_id))
    assert place.result(upload_id)["frames"] == FRAMES


def test_a_job_that_outlasts_the_grace_of_a_stop_goes_to_another_worker(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_GRACE_SECONDS", "0")
    upload_id = place.upload(video)
    process = place.work()
    wait_until(lambda: processing(place, upload_id))
    [horse] = horses(process)
    os.kill(horse, signal.SIGSTOP)
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert not Path(f"/proc/{horse}").exists()
    assert place.job(upload_id).state is JobState.PROCESSING
    place.work()
    wait_until(lambda: completed(place, upload_id))
    assert place.job(upload_id).attempt == 2


def test_an_urgent_job_overtakes_those_that_came_before(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE", f"short:{len(video)},tusd")
    long = [place.upload(video + bytes(9)) for _ in range(2)]
    short = place.upload(video)
    place.work()
    wait_until(lambda: all(completed(place, one) for one in (*long, short)))
    ended = {one: place.job(one).updated_at for one in (*long, short)}
    assert ended[short] < max(ended[one] for one in long)
    assert place.jobs.workers() == 1


def test_a_worker_of_many_that_dies_is_replaced_and_its_job_runs_again(
    place: Place, video: bytes
) -> None:
    options = ("--upload-dir", str(place.directory), "--redis-url", place.url)
    process = place.start("-m", "tusd_py", "work", "--processes", "2", *options)
    wait_until(lambda: place.jobs.workers() == 2)
    first, second = horses(process)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(horses(process)) == 2 and first not in horses(process))
    assert second in horses(process)
    wait_until(lambda: place.jobs.workers() == 2)
    uploads = [place.upload(video) for _ in range(3)]
    wait_until(lambda: all(completed(place, one) for one in uploads))
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert place.jobs.workers() == 0


def test_an_idle_worker_ends_on_sigterm(place: Place) -> None:
    process = place.work()
    wait_until(lambda: place.jobs.workers() == 1)
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert place.jobs.workers() == 0


def test_a_worker_waits_for_redis_and_outlives_its_end(
    tmp_path: Path, video: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with Embedded(tmp_path / "redis") as server:
        place = Place(tmp_path / "data", server.url)
        place.data.prepare()
        server.close()
        process = place.work()
        wait_until(lambda: any("redis.away" in text for text in capfd.readouterr()))
        server.start()
        try:
            wait_until(lambda: place.jobs.workers() == 1)
            upload_id = place.upload(video)
            wait_until(lambda: processing(place, upload_id))
            with Redis.from_url(server.url) as client:
                pid = int(client.info("server")["process_id"])
            os.kill(pid, signal.SIGKILL)
            # It may not notice before its job ends: only the outage has to last a moment.
            time.sleep(1)
            server.ensure()
            wait_until(lambda: completed(place, upload_id))
            again = place.upload(video)
            wait_until(lambda: completed(place, again))
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def test_redis_emptied_in_mid_analysis_loses_nothing(place: Place, video: bytes) -> None:
    running, waiting = place.upload(video), place.upload(video)
    place.work()
    wait_until(lambda: processing(place, running) or processing(place, waiting))
    with Redis.from_url(place.url) as client:
        client.flushall()
    wait_until(lambda: all(place.data.result(one) for one in (running, waiting)))
    wait_until(lambda: place.text.exists(schema.job_key(running), schema.job_key(waiting)) == 2)
    wait_until(lambda: completed(place, running) and completed(place, waiting))
    wait_until(lambda: place.jobs.workers() == 1)
