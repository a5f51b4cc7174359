"""The result of a job as clients read it: only to describe it, it is sent as it is stored."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PlateBox(BaseModel):
    """Hold where a plate stands in its best shot, in pixels from the top left."""

    x: int
    y: int
    width: int = Field(ge=0)
    height: int = Field(ge=0)


class FoundPlate(BaseModel):
    """Hold one licence plate, however often the video shows it."""

    model_config = ConfigDict(extra="allow")

    text: str = Field(description="A to Z and 0 to 9 only.", examples=["AB12CDE"])
    confidence: float = Field(ge=0, le=1, examples=[0.98])
    first_seen: float = Field(ge=0, description="Seconds from the start.", examples=[1.48])
    last_seen: float = Field(ge=0, description="Seconds from the start.", examples=[3.2])
    detections: int = Field(ge=0, description="In how many frames it was read.", examples=[18])
    box: PlateBox | None = Field(None, description="Where it stands in its best shot.")
    image: str | None = Field(
        None,
        description="Where its best shot is, relative to the result; null: there is none.",
        examples=["plates/0/image"],
    )


class VideoShape(BaseModel):
    """Hold what the container says of its video."""

    width: int
    height: int
    fps: float
    frames: int


class JobResult(BaseModel):
    """Hold what one video showed. Fields may be added without a new version."""

    model_config = ConfigDict(extra="allow")

    version: int = Field(description="Of this schema.", examples=[1])
    job_id: str = Field(description="The id of the job.")
    finished_at: float = Field(description="Seconds since the epoch.", examples=[1764246965.25])
    plates: list[FoundPlate] = Field(description="By first appearance.")
    frames: int = Field(ge=0, description="How many the video really has.", examples=[2000])
    frames_analysed: int = Field(ge=0, description="How many were searched.", examples=[400])
    detections: int = Field(ge=0, description="Readings in all frames together.", examples=[47])
    duration: float = Field(ge=0, description="Seconds.", examples=[66.7])
    video: VideoShape
    reader: str = Field(description="What read the plates.", examples=["rapidocr"])
    detector: str = Field(description="What found them.")
    reader_reason: str = Field("", description="Why these ran.")
    engines: dict[str, str] = Field({}, description="The version of each library and model.")
    timings: dict[str, float] = Field({}, description="Seconds by stage.")
    warnings: list[str] = Field([], description="What may be incomplete.")
