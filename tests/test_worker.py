"""Every finished upload ends in one result, whoever is killed; real processes, forks and Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import structlog
from redis import Redis
from structlog.testing import capture_logs

import worker
from processing.errors import ReaderUnavailable
from settings import Settings
from storage import attempt
from storage import redis_schema as schema
from storage.embedded import Embedded
from storage.errors import StorageFull, StoreUnavailable
from storage.filestore import FileStore
from storage.job import JobState
from storage.redis_jobs import RedisJobs
from storage.rq_worker import CrashAwareWorker
from tests.slow_jobs import TEXT, engine
from tests.working import DEADLINE, ROOT, Place, Worker, completed, horses, processing, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processing.engines import Engine

FRAMES = 20
TOO_NEW = "this record has version 2, this program knows up to 1: upgrade it"


def nothing() -> None:
    """Pause not at all."""


def fast() -> Engine:
    return engine(nothing)


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path / "data", redis_url)
    found.data.prepare()
    yield found
    for process in found.workers:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a video of 20 frames, each of which is analysed."""
    path = tmp_path_factory.mktemp("video") / "small.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 6.0, (96, 64))
    for index in range(FRAMES):
        writer.write(np.full((64, 96, 3), index * 10, np.uint8))
    writer.release()
    return path.read_bytes()


# --- one job, in this process


def test_a_video_ends_completed_with_its_result_and_its_bytes_removed(
    place: Place, video: bytes
) -> None:
    upload_id = place.upload(video)
    worker.run(upload_id, place.data, place.jobs, fast)
    job = place.job(upload_id)
    assert (job.state, job.done, job.total, job.plates) == (JobState.COMPLETED, FRAMES, FRAMES, 1)
    result = place.result(upload_id)
    assert result["job_id"] == upload_id
    assert result["version"] == 1
    assert [plate["text"] for plate in result["plates"]] == [TEXT]
    assert [plate["image"] for plate in result["plates"]] == ["plates/0/image"]
    assert (place.data.crop(upload_id, 0) or b"").startswith(b"\xff\xd8")
    assert not (place.directory / upload_id).exists()


def test_a_record_of_a_newer_version_is_left_to_a_newer_worker(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.upload.VERSION", 2)
    upload_id = place.upload(video)
    monkeypatch.undo()
    worker.run(upload_id, place.data, place.jobs, fast)
    job = place.job(upload_id)
    assert (job.state, job.message) == (
        JobState.PROCESSING,
        f"The analysis is put off and will be tried again: {TOO_NEW}",
    )
    monkeypatch.setattr("storage.upload.VERSION", 2)
    worker.run(upload_id, place.data, place.jobs, fast)
    assert place.job(upload_id).state is JobState.COMPLETED


def test_the_options_of_the_client_reach_the_analysis(place: Place, video: bytes) -> None:
    # 10 and 0.99: what is found in two frames is not that sure.
    upload_id = place.upload(video, "frame_skip MTA=,min_confidence MC45OQ==")
    worker.run(upload_id, place.data, place.jobs, fast)
    result = place.result(upload_id)
    assert (result["frames"], result["frames_analysed"], result["plates"]) == (FRAMES, 2, [])


def test_an_option_that_nobody_checked_fails_the_job_with_its_sentence(
    place: Place, video: bytes
) -> None:
    upload_id = place.upload(video, "frame_skip MA==")
    worker.run(upload_id, place.data, place.jobs, fast)
    job = place.job(upload_id)
    expected = "frame_skip: expected an integer from 1 to 1000, got '0'"
    assert (job.state, job.message) == (JobState.FAILED, expected)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "Uploaded file is empty"),
        (b"no video at all" * 99, "File must be a video (mp4, avi, mov, mkv, webm, flv)"),
    ],
)
def test_what_is_no_video_fails_with_its_sentence_without_models_and_without_a_retry(
    place: Place, content: bytes, sentence: str
) -> None:
    def unexpected() -> Engine:
        raise AssertionError

    upload_id = place.upload(content)
    worker.run(upload_id, place.data, place.jobs, unexpected)
    job = place.job(upload_id)
    assert (job.state, job.message, job.attempt) == (JobState.FAILED, sentence, 1)
    assert place.data.result(upload_id) is None


def test_a_still_image_is_analysed(place: Place) -> None:
    _, encoded = cv2.imencode(".png", np.zeros((64, 96, 3), np.uint8))
    upload_id = place.upload(encoded.tobytes())
    worker.run(upload_id, place.data, place.jobs, fast)
    assert place.result(upload_id)["frames"] == 1


def test_a_reader_that_is_not_there_fails_the_job_with_what_to_do(
    place: Place, video: bytes
) -> None:
    def unavailable() -> Engine:
        raise ReaderUnavailable("alpr", "its models", "there are none", "Put them there")

    upload_id = place.upload(video)
    worker.run(upload_id, place.data, place.jobs, unavailable)
    assert place.job(upload_id).message == (
        "Plate reader 'alpr' needs its models, but there are none. Put them there."
    )


def test_a_published_result_is_not_analysed_again(place: Place, video: bytes) -> None:
    def unexpected() -> Engine:
        raise AssertionError

    upload_id = place.upload(video)
    place.data.publish_result(upload_id, b'{"frames": 3, "plates": [], "detections": 0}')
    worker.run(upload_id, place.data, place.jobs, unexpected)
    job = place.job(upload_id)
    assert (job.state, job.attempt, job.total) == (JobState.COMPLETED, 0, 3)


def test_an_upload_removed_while_it_is_analysed_is_cancelled(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)

    def remove() -> None:
        time.sleep(0.05)
        if place.job(upload_id).state is not JobState.CANCELLED:
            place.terminate(upload_id)

    worker.run(upload_id, place.data, place.jobs, lambda: engine(remove))
    assert place.job(upload_id).state is JobState.CANCELLED
    assert list((place.directory / "results").iterdir()) == []


def test_an_older_attempt_ends_when_a_newer_one_runs(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    frames = 0

    def overtake() -> None:
        nonlocal frames
        frames += 1
        time.sleep(0.15)
        if frames == 1:
            place.jobs.start(upload_id)

    worker.run(upload_id, place.data, place.jobs, lambda: engine(overtake))
    assert frames < FRAMES
    job = place.job(upload_id)
    assert (job.state, job.attempt) == (JobState.PROCESSING, 2)
    assert place.data.result(upload_id) is None


def test_an_unexpected_error_is_tried_again_and_the_third_one_fails_the_job(
    place: Place, video: bytes
) -> None:
    def broken() -> Engine:
        raise LookupError("AB12CDE")

    upload_id = place.upload(video)
    with capture_logs() as lines:
        for _ in range(3):
            worker.run(upload_id, place.data, place.jobs, broken)
    crashes = [line for line in lines if line["event"] == "job.crashed"]
    assert [line["again"] for line in crashes] == [True, True, False]
    assert "broken:" in crashes[0]["where"]
    assert "AB12CDE" not in str(crashes)
    assert place.job(upload_id).message == (
        "The analysis crashed 3 times, last because of an unexpected LookupError"
    )


def test_no_plate_and_no_filename_is_logged(place: Place, video: bytes) -> None:
    upload_id = place.upload(video)
    structlog.reset_defaults()
    with capture_logs() as lines:
        worker.run(upload_id, place.data, place.jobs, fast)
    assert {line["event"] for line in lines} == {"job.started", "job.reader", "job.completed"}
    assert TEXT not in str(lines)


@pytest.mark.parametrize("times", [2, 99], ids=["for a moment", "for long"])
def test_a_result_that_does_not_fit_the_disk_is_waited_for_and_then_put_off(
    place: Place, video: bytes, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    refusals = iter(range(times))
    publish = FileStore.publish_result

    def full(self: FileStore, *what: Any) -> bool:
        for _ in refusals:
            raise StorageFull("the disk has no room left")
        return publish(self, *what)

    monkeypatch.setattr(FileStore, "publish_result", full)
    monkeypatch.setattr(attempt, "_AWAY", 0.01)
    monkeypatch.setattr(attempt, "_PATIENCE", 0.1)
    upload_id = place.upload(video)
    worker.run(upload_id, place.data, place.jobs, fast)
    job = place.job(upload_id)
    if times == 2:
        assert job.state is JobState.COMPLETED
    else:
        assert job.state is JobState.PROCESSING
        assert job.message.endswith("will be tried again: the disk has no room left")


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


def test_a_worker_waits_for_redis_and_outlives_its_end(tmp_path: Path, video: bytes) -> None:
    with Embedded(tmp_path / "redis") as server:
        place = Place(tmp_path / "data", server.url)
        place.data.prepare()
        server.close()
        process = place.work()
        time.sleep(1)
        server.start()
        try:
            wait_until(lambda: place.jobs.workers() == 1)
            upload_id = place.upload(video)
            wait_until(lambda: processing(place, upload_id))
            with Redis.from_url(server.url) as client:
                pid = int(client.info("server")["process_id"])
            os.kill(pid, signal.SIGKILL)
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


def test_the_real_worker_reads_its_options_and_shares_the_private_redis(
    tmp_path: Path, video: bytes
) -> None:
    with Embedded(tmp_path / "redis") as server:
        place = Place(tmp_path, server.url)
        place.data.prepare()
        upload_id = place.upload(video)
        options = ("--upload-dir", str(tmp_path), "--plate-reader", "rapidocr")
        process = place.start("-m", "tusd_py", "work", *options)
        try:
            wait_until(lambda: completed(place, upload_id))
            result = place.result(upload_id)
            assert result["reader"] == "rapidocr"
            assert result["plates"] == []
            process.terminate()
            assert process.wait(DEADLINE) == 0
            # Another user is still here: its end is not the server's.
            assert completed(place, upload_id)
        finally:
            process.kill()
            process.wait()


# --- threads

COUNT_THREADS = """
import os, sys
import worker
from settings import Settings
def count(): return len(os.listdir("/proc/self/task"))
settings = worker.shared_out(Settings(plate_reader="rapidocr", processes=int(sys.argv[1])))
if os.fork():
    os.wait()
    os._exit(0)
# As in the process of a job, no thread of an import is here.
before = count()
engine = worker.choose_engine(settings)
print(settings.analysis_threads, count() - before, flush=True)
"""


@pytest.mark.parametrize(
    ("processes", "cores", "threads"), [(1, 1, 2), (1, 8, 2), (2, 8, 2), (4, 4, 1), (9, 4, 1)]
)
def test_processes_share_the_cores_out(
    monkeypatch: pytest.MonkeyPatch, processes: int, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    settings = worker.shared_out(Settings(processes=processes, analysis_threads=2))
    assert settings.analysis_threads == threads


def test_an_engine_of_many_processes_begins_no_thread() -> None:
    alone, many = (
        subprocess.run(
            [sys.executable, "-c", COUNT_THREADS, processes],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for processes in ("1", "1024")
    )
    assert int(alone[1]) > 0
    assert many == ["1", "0"]


# --- a process that is ready for the next job


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


def test_a_worker_runs_no_thread_of_ours_beside_the_one_that_forks(place: Place) -> None:
    threads = threading.active_count()
    CrashAwareWorker(place.jobs, nothing)
    assert threading.active_count() == threads
