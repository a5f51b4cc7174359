"""The record of a job: states, progress and the sentences people read; pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.upload import Upload

MB = 2**20


class JobState(StrEnum):
    """Name where a job stands."""

    #: Bytes are still arriving.
    UPLOADING = "uploading"
    #: All bytes are here; a worker is awaited.
    PENDING = "pending"
    #: A worker analyses the video.
    PROCESSING = "processing"
    #: The result is durable.
    COMPLETED = "completed"
    #: The analysis ended without a result; `error` says why.
    FAILED = "failed"
    #: The upload was removed.
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Tell whether nothing but a retry changes it."""
        return self in {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, slots=True)
class Ended:
    """Describe how a job ended, as the journal remembers it.

    `due` is when the sweeper takes the video, `until` how long record and result stay, `at` when it
    ended, 0 where that is not known; all are seconds since the epoch.
    """

    state: JobState
    due: float
    until: float
    error: str | None = None
    frames: int = 0
    plates: int = 0
    detections: int = 0
    at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Build the journal's line."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ended:
        """Parse the journal's line; what a newer version adds to it is left alone."""
        known = {name: value[name] for name in cls.__slots__ if name in value}
        return cls(**{**known, "state": JobState(value["state"])})


@dataclass(frozen=True, slots=True)
class Job:
    """Describe the job of one upload; its id is the upload's.

    `done` and `total` count bytes while uploading and frames afterwards, a total of 0 is not known
    yet; `size` is the length of the upload in bytes; `speed` is in bytes per second. Times are
    seconds since the epoch, 0 where they are not known: when the last byte was stored, when the
    analysis began first, when the job ended.
    """

    id: str
    state: JobState
    size: int = 0
    done: int = 0
    total: int = 0
    speed: float = 0.0
    plates: int = 0
    detections: int = 0
    attempt: int = 0
    error: str | None = None
    #: Why a run was put off.
    obstacle: str | None = None
    updated_at: float = 0.0
    uploaded_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    #: How often another connection took the upload over.
    takeovers: int = 0

    @classmethod
    def from_hash(cls, job_id: str, fields: Mapping[str, str]) -> Job:
        """Parse the fields of the Redis hash."""
        return cls(
            id=job_id,
            state=JobState(fields["state"]),
            size=int(fields.get("size", 0)),
            done=int(fields.get("done", 0)),
            total=int(fields.get("total", 0)),
            speed=float(fields.get("speed", 0)),
            plates=int(fields.get("plates", 0)),
            detections=int(fields.get("detections", 0)),
            attempt=int(fields.get("attempt", 0)),
            error=fields.get("error"),
            obstacle=fields.get("obstacle"),
            updated_at=float(fields.get("updated_at", 0)),
            uploaded_at=float(fields.get("uploaded_at", 0)),
            started_at=float(fields.get("started_at", 0)),
            finished_at=float(fields.get("finished_at", 0)),
            takeovers=int(fields.get("takeovers", 0)),
        )

    @property
    def received(self) -> int:
        """Count the bytes of the upload that are here."""
        return self.done if self.state is JobState.UPLOADING else self.size

    @property
    def length(self) -> int | None:
        """Count the bytes there will be; None where that is not known."""
        return (self.total if self.state is JobState.UPLOADING else self.size) or None

    @property
    def eta(self) -> float | None:
        """Estimate the seconds until all of the current state is done."""
        rest = self.total - self.done
        if self.total <= 0 or self.done <= 0 or rest < 0:
            return None
        if self.state is JobState.UPLOADING:
            return round(rest / self.speed, 1) if self.speed > 0 else None
        elapsed = self.updated_at - self.started_at
        if self.state is not JobState.PROCESSING or not 0 < elapsed < self.updated_at:
            return None
        return round(rest / self.done * elapsed, 1)

    @property
    def progress(self) -> float:
        """Count within the state, 0 to 1."""
        if self.state is JobState.COMPLETED:
            return 1.0
        if self.state is JobState.PENDING or self.total <= 0:
            return 0.0
        return min(1.0, self.done / self.total)

    @property
    def message(self) -> str:
        """Say in a sentence where the job stands."""
        match self.state:
            case JobState.PROCESSING if self.obstacle:
                return f"The analysis is put off and will be tried again: {self.obstacle}"
            case JobState.UPLOADING:
                return self._uploading()
            case JobState.PENDING:
                return f"Upload complete ({self.size / MB:.2f}MB), waiting for a worker"
            case JobState.PROCESSING | JobState.COMPLETED:
                return self._processed()
            case JobState.FAILED:
                return self.error or "The analysis failed"
            case JobState.CANCELLED:
                return "The upload was removed"

    def _uploading(self) -> str:
        text = f"Uploading: {self.done / MB:.1f}MB"
        if self.total <= 0:
            # The client has not said yet how much there will be.
            return f"{text} at {self.speed / MB:.1f}MB/s" if self.speed > 0 else text
        text += f" ({self.progress:.0%})"
        if self.speed <= 0:
            return text
        eta = (self.total - self.done) / self.speed
        return f"{text} at {self.speed / MB:.1f}MB/s - ETA: {eta:.0f}s"

    def _processed(self) -> str:
        # Nobody knows how many there are before the first was read.
        frames = f"{self.done}/{self.total}" if self.total > 0 else f"{self.done}"
        found = f"{self.plates} unique plates, {self.detections} total detections"
        return f"Processed {frames} frames ({found})"


class Place(NamedTuple):
    """Name a place in the list of jobs: seconds since the epoch, and an id among equal ones."""

    created_at: float
    job_id: str


@dataclass(frozen=True, slots=True)
class Listed:
    """Hold one job of the list, and its upload as far as its record can be read."""

    place: Place
    job: Job
    upload: Upload | None
