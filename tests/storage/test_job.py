"""A job says where it stands, in the sentences clients know."""

from __future__ import annotations

import pytest

from storage.job import MB, Ended, Job, JobState


def job(state: JobState, **fields: float | str | None) -> Job:
    return Job(id="x", state=state, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "progress", "message"),
    [
        (
            job(JobState.UPLOADING, done=100 * MB, total=187 * MB, speed=12.5 * MB),
            0.5347,
            "Uploading: 100.0MB (53%) at 12.5MB/s - ETA: 7s",
        ),
        (job(JobState.UPLOADING, total=10), 0.0, "Uploading: 0.0MB (0%)"),
        (job(JobState.UPLOADING, done=3 * MB), 0.0, "Uploading: 3.0MB"),
        (job(JobState.UPLOADING, done=3 * MB, speed=MB), 0.0, "Uploading: 3.0MB at 1.0MB/s"),
        (
            job(JobState.PENDING, size=int(187.45 * MB)),
            0.0,
            "Upload complete (187.45MB), waiting for a worker",
        ),
        (
            job(JobState.PROCESSING, done=500, total=2000, plates=5, detections=47),
            0.25,
            "Processed 500/2000 frames (5 unique plates, 47 total detections)",
        ),
        (
            job(JobState.PROCESSING),
            0.0,
            "Processed 0 frames (0 unique plates, 0 total detections)",
        ),
        (
            job(JobState.PROCESSING, done=12, plates=1, detections=3),
            0.0,
            "Processed 12 frames (1 unique plates, 3 total detections)",
        ),
        # A container may count fewer frames than it has.
        (
            job(JobState.PROCESSING, done=12, total=10),
            1.0,
            "Processed 12/10 frames (0 unique plates, 0 total detections)",
        ),
        (
            job(JobState.COMPLETED, done=2000, total=2000, plates=5, detections=47),
            1.0,
            "Processed 2000/2000 frames (5 unique plates, 47 total detections)",
        ),
        (job(JobState.FAILED, error="Uploaded file is empty"), 0.0, "Uploaded file is empty"),
        (job(JobState.CANCELLED), 0.0, "The upload was removed"),
    ],
)
def test_progress_and_message_of_each_state(job: Job, progress: float, message: str) -> None:
    assert job.progress == pytest.approx(progress, abs=1e-3)
    assert job.message == message


def test_the_states_are_exactly_the_six() -> None:
    assert {state.value for state in JobState} == {
        "uploading",
        "pending",
        "processing",
        "completed",
        "failed",
        "cancelled",
    }
    assert {state for state in JobState if state.terminal} == {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_an_end_that_a_newer_program_wrote_is_read_as_far_as_it_is_known() -> None:
    ended = Ended(JobState.FAILED, 5.0, 6.0, "not a video", at=4.0)
    assert Ended.from_json({**ended.to_json(), "mood": "sad"}) == ended


@pytest.mark.parametrize(
    ("job", "seconds"),
    [
        (job(JobState.UPLOADING, done=1, total=10, speed=3.0), 3.0),
        (job(JobState.UPLOADING, done=1, total=10), None),
        (job(JobState.UPLOADING, done=1, speed=3.0), None),
        (job(JobState.PROCESSING, done=5, total=20, started_at=10.0, updated_at=20.0), 30.0),
        (job(JobState.PROCESSING, done=0, total=20, started_at=10.0, updated_at=20.0), None),
        (job(JobState.PROCESSING, done=5, total=20, updated_at=20.0), None),
        (job(JobState.PROCESSING, done=5, total=20, started_at=30.0, updated_at=20.0), None),
        (job(JobState.COMPLETED, done=20, total=20, started_at=10.0, updated_at=20.0), None),
    ],
)
def test_what_a_state_may_take_still_is_told_where_it_can_be_known(
    job: Job, seconds: float | None
) -> None:
    assert job.eta == seconds
