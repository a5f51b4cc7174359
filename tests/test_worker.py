"""Every finished upload ends in one result; one job in this process, and the real worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

import worker
from processing.errors import ReaderUnavailable
from settings import Settings
from storage import attempt
from storage.embedded import Embedded
from storage.errors import StorageFull
from storage.filestore import FileStore
from storage.job import JobState
from tests.slow_jobs import TEXT, engine
from tests.working import (
    DEADLINE,
    FRAMES,
    ROOT,
    Place,
    completed,
    opened,
    small_video,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processing.engines import Engine

TOO_NEW = "this record has version 2, this program knows up to 1: upgrade it"


def nothing() -> None:
    """Pause not at all."""


def fast() -> Engine:
    return engine(nothing)


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    with opened(redis_url, tmp_path / "data") as found:
        yield found


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_video(tmp_path_factory.mktemp("video") / "small.avi")


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


# --- the worker itself


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
