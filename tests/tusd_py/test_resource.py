"""The job resource tells what is known, and nothing that is not."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from storage.job import Job, JobState
from storage.upload import Upload
from tusd_py.resource import JobResource, JobStatus

ID = "550e8400-e29b-41d4-a716-446655440000"
NOW = 1_764_246_965.25
FOUR = ["job_id", "status", "progress", "message"]


def told(job: Job, upload: Upload | None = None, base: str = "") -> dict[str, Any]:
    return JobResource.of_upload(job, upload, base).model_dump(mode="json")


def uploaded(**metadata: str) -> Upload:
    pairs = (f"{name} {b64encode(value.encode()).decode()}" for name, value in metadata.items())
    return Upload(ID, 2000, ",".join(pairs), NOW, NOW + 9)


def test_the_four_fields_of_the_old_endpoint_come_first_and_as_they_were() -> None:
    job = Job(ID, JobState.PROCESSING, done=500, total=2000, plates=5, detections=47)
    assert list(told(job))[:4] == FOUR
    assert JobStatus.of(job).model_dump(mode="json") == {
        "job_id": ID,
        "status": "processing",
        "progress": 0.25,
        "message": "Processed 500/2000 frames (5 unique plates, 47 total detections)",
    }


def test_an_upload_on_its_way_has_bytes_speed_and_eta_but_no_frames() -> None:
    job = Job(ID, JobState.UPLOADING, size=2000, done=500, total=2000, speed=100.0, updated_at=NOW)
    said = told(job, uploaded(filename="Grüße.mp4", frame_skip="2", min_confidence="0.5"))
    assert said["bytes"] == {"received": 500, "total": 2000}
    assert (said["speed"], said["eta"]) == (100.0, 15.0)
    assert said["frames"] == {"done": 0, "total": None}
    assert said["options"] == {"frame_skip": 2, "min_confidence": 0.5}
    assert said["filename"] == "Grüße.mp4"
    assert said["created_at"] == said["updated_at"] == "2025-11-27T12:36:05.250000Z"
    assert said["result_url"] is None


def test_an_upload_of_unknown_length_has_no_total_and_no_eta() -> None:
    said = told(Job(ID, JobState.UPLOADING, done=500, speed=100.0))
    assert said["bytes"] == {"received": 500, "total": None}
    assert said["eta"] is None


def test_an_analysis_tells_how_long_it_may_take_by_how_long_it_took() -> None:
    job = Job(
        ID,
        JobState.PROCESSING,
        size=2000,
        done=50,
        total=200,
        uploaded_at=NOW,
        started_at=NOW + 10,
        updated_at=NOW + 20,
        attempt=2,
    )
    said = told(job)
    assert (said["eta"], said["attempt"]) == (30.0, 2)
    assert said["bytes"] == {"received": 2000, "total": 2000}
    assert said["frames"] == {"done": 50, "total": 200}
    assert said["started_at"] == "2025-11-27T12:36:15.250000Z"


def test_a_completed_job_names_its_result_where_the_client_reaches_it() -> None:
    said = told(Job(ID, JobState.COMPLETED, done=7, total=7), base="https://host/api")
    assert said["result_url"] == f"https://host/api/jobs/{ID}/result"
    assert said["eta"] is None


@pytest.mark.parametrize("metadata", ["filename", "filename !", "frame_skip MA==", ""])
def test_metadata_that_says_nothing_sound_is_no_error(metadata: str) -> None:
    said = told(Job(ID, JobState.FAILED, error="why"), Upload(ID, 1, metadata, NOW, NOW))
    assert said["filename"] in {None, ""}
    assert said["options"] == {"frame_skip": None, "min_confidence": 0.3}
    assert said["error"] == "why"
