"""The job resource as clients see it: models, and how they are made of the records; no I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from processing.options import InvalidOption, Options
from storage.job import Job, JobState

if TYPE_CHECKING:
    from storage.upload import Upload

_ID = "550e8400-e29b-41d4-a716-446655440000"
_MESSAGE = "Processed 500/2000 frames (5 unique plates, 47 total detections)"
_TIME = "2026-11-27T12:36:05.250000Z"


class JobStatus(BaseModel):
    """Say where a job stands."""

    job_id: str = Field(description="The id of the upload, a UUID.", examples=[_ID])
    status: JobState = Field(
        description="uploading, pending, processing, completed, failed or cancelled.",
        examples=["processing"],
    )
    progress: float = Field(
        ge=0,
        le=1,
        description="Share of the current state that is done; it never falls inside a state.",
        examples=[0.25],
    )
    message: str = Field(description="The same for people.", examples=[_MESSAGE])

    @classmethod
    def of(cls, job: Job) -> JobStatus:
        """Say of a record what all clients want to know."""
        return JobStatus(
            job_id=job.id, status=job.state, progress=round(job.progress, 4), message=job.message
        )


class ByteCount(BaseModel):
    """Count the bytes of an upload."""

    received: int = Field(ge=0, description="Bytes that are here.", examples=[104857600])
    total: int | None = Field(
        ge=0, description="Bytes there will be; null: not known yet.", examples=[209715200]
    )


class FrameCount(BaseModel):
    """Count the frames of a video."""

    done: int = Field(ge=0, description="Frames that were looked at.", examples=[500])
    total: int | None = Field(
        ge=0, description="Frames there are; null: not known yet.", examples=[2000]
    )


class ChosenOptions(BaseModel):
    """Hold what the client chose for the analysis."""

    frame_skip: int | None = Field(
        ge=1,
        le=1000,
        description="Every so many frames one is analysed; null: the analysis chooses.",
        examples=[2],
    )
    min_confidence: float = Field(
        ge=0, le=1, description="Plates of less confidence are left out.", examples=[0.3]
    )


class JobResource(JobStatus):
    """Describe a job whole. Times are in UTC; null is what is not known, or not yet."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    bytes: ByteCount = Field(description="How far the upload is.")
    speed: float | None = Field(
        ge=0, description="Bytes a second, while uploading.", examples=[13107200.0]
    )
    eta: float | None = Field(
        ge=0, description="Seconds that the current state may take still.", examples=[8.0]
    )
    frames: FrameCount = Field(description="How far the analysis is.")
    plates: int = Field(ge=0, description="Different plates found so far.", examples=[5])
    detections: int = Field(ge=0, description="Readings of plates so far.", examples=[47])
    attempt: int = Field(
        ge=0, description="How often the analysis was begun, 0 before the first.", examples=[1]
    )
    options: ChosenOptions = Field(description="What the client chose.")
    filename: str | None = Field(
        description="The name of the file, as the client sent it.", examples=["cars.mp4"]
    )
    error: str | None = Field(description="Why the job failed, or is going to.", examples=[None])
    created_at: datetime | None = Field(
        description="When the upload was created.", examples=[_TIME]
    )
    uploaded_at: datetime | None = Field(
        description="When its last byte was stored.", examples=[_TIME]
    )
    started_at: datetime | None = Field(
        description="When the analysis began first.", examples=[_TIME]
    )
    finished_at: datetime | None = Field(description="When the job ended.", examples=[_TIME])
    updated_at: datetime | None = Field(description="When any of this changed.", examples=[_TIME])
    result_url: str | None = Field(
        description="Where the result is, once there is one.", examples=[f"/jobs/{_ID}/result"]
    )

    @classmethod
    def of_upload(cls, job: Job, upload: Upload | None, base: str = "") -> JobResource:
        """Describe the job of an upload, as far as its record is here.

        `base` is what addresses are put behind (origin.Reach).
        """
        metadata = upload.described if upload else {}
        done = job.state is JobState.COMPLETED
        return cls(
            **JobStatus.of(job).model_dump(),
            bytes=ByteCount(received=job.received, total=job.length),
            speed=job.speed or None,
            eta=job.eta,
            frames=_frames(job),
            plates=job.plates,
            detections=job.detections,
            attempt=job.attempt,
            options=_options(metadata),
            filename=metadata.get("filename"),
            error=job.error,
            created_at=_time(upload.created_at if upload else 0),
            uploaded_at=_time(job.uploaded_at),
            started_at=_time(job.started_at),
            finished_at=_time(job.finished_at),
            updated_at=_time(job.updated_at),
            result_url=f"{base}/jobs/{job.id}/result" if done else None,
        )


def _frames(job: Job) -> FrameCount:
    if job.state is JobState.UPLOADING:
        return FrameCount(done=0, total=None)
    return FrameCount(done=job.done, total=job.total or None)


def _options(metadata: dict[str, str]) -> ChosenOptions:
    try:
        options = Options.parse(metadata)
    except InvalidOption:
        options = Options()
    return ChosenOptions(frame_skip=options.frame_skip, min_confidence=options.min_confidence)


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
