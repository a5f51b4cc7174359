"""Every setting of the system, by environment or `.env`; read only by the composition roots."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Bytes = Annotated[int, Field(gt=0)]
# Times are told as dates: a century is as long as it takes.
_CENTURY = 3_153_600_000
Seconds = Annotated[float, Field(gt=0, le=_CENTURY, allow_inf_nan=False)]
# -1 stands for "for ever".
SecondsOrForever = Annotated[int, Field(ge=-1, le=_CENTURY)]

_TOKEN = re.compile(r"[!-~]{32,}", re.ASCII)
_PUBLIC_URL = re.compile(r"https?://[^/?#@\s\\]+(/[^?#\s\\]*)?")
_UPLOAD_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+/?")
# Of any scheme, since apps have ones of their own; browsers send it without a path.
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s\\*]+|null")
_QUEUE = re.compile(r"[A-Za-z0-9_.-]+(:[1-9]\d{0,15})?")
# What the first part of UPLOAD_PATH may not be: these are the server's own.
_TAKEN = (
    *("docs", "events", "health", "jobs"),
    *("openapi.json", "openapi-uploads.json", "process", "ready"),
)


class Settings(BaseSettings):
    """Hold the configuration of one process; a bad value is refused with its name."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Web processes that share the port."""
    public_url: str | None = None
    """Where clients reach this server, such as https://host/api; unset tells relative addresses."""
    upload_path: str = "/files/"
    """Path at which uploads are created and under which they lie."""
    trusted_proxies: str = "none"
    """Peers whose forwarding headers count: addresses, networks, unix; none for none."""
    cors_origins: str = "*"
    """Origins whose pages may upload, separated by commas; * for all, none for none."""
    upload_dir: Path = Path("data")
    """Directory of uploads, journals, results and the embedded Redis."""
    redis_url: str | None = None
    """redis://, rediss://, unix:// or sentinel:// URL; unset: an embedded server in UPLOAD_DIR."""
    max_file_size: Annotated[int, Field(gt=0, le=2**63 - 1)] = 524_288_000
    """Largest upload in bytes (Tus-Max-Size)."""
    chunk_size: Bytes = 1_048_576
    """Bytes read and written at a time wherever they pass through memory."""
    upload_timeout_seconds: Seconds = 600
    """A request body that brings nothing for this long is ended; what arrived is kept."""
    upload_expiration_seconds: Seconds = 86_400
    """An unfinished upload is removed this long after its last byte."""
    keep_uploads_seconds: SecondsOrForever = 0
    """How long a video stays after its result is durable; -1 keeps it for ever."""
    keep_failed_seconds: SecondsOrForever = 86_400
    """How long the bytes of a failed job stay for a retry; -1 keeps them for ever."""
    result_ttl_seconds: Seconds = 604_800
    """How long a result and the record of its upload stay."""
    disable_download: bool = False
    """Do not let finished uploads be downloaded."""
    disable_termination: bool = False
    """Do not let clients remove uploads."""
    gone_as_not_found: bool = False
    """Answer 404, not 410, where an upload is gone: some clients begin anew only then."""
    require_video: bool = False
    """Refuse what is not a video, at its creation or after its first bytes."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 16_777_216
    """Free disk space in bytes that uploads leave; below it the server is not ready."""
    durability: Literal["request", "interval", "none"] = "request"
    """When bytes go to stable storage: before each answer, at intervals it waits for, or none."""
    durability_interval_ms: Annotated[int, Field(gt=0, le=60_000)] = 20
    """Shortest time between two flushes of DURABILITY=interval."""
    durability_interval_bytes: Bytes = 8_388_608
    """Bytes after which DURABILITY=interval flushes all the same."""
    plate_reader: Literal["auto", "rapidocr", "easyocr", "alpr", "builtin"] = "auto"
    """Which plate reader runs; auto takes alpr where its model files lie, else rapidocr."""
    alpr_model_dir: Path | None = None
    """Directory with the ONNX files of the alpr reader."""
    plate_model_dir: Path | None = None
    """Directory with the plate-recogniser.onnx that you trained, for the builtin reader."""
    easyocr_model_dir: Path | None = None
    """Directory with EasyOCR's weights, and `user_network/` with a network of your own."""
    easyocr_recog_network: str = "standard"
    """EasyOCR's recognition network, or the name of your own."""
    easyocr_gpu: bool = False
    """Run EasyOCR on the GPU."""
    analysis_threads: Annotated[int, Field(ge=1)] = 2
    """Threads of one analysis, fewer where PROCESSES would use more than there are cores."""
    analysis_segment_seconds: Annotated[float, Field(ge=0, le=_CENTURY, allow_inf_nan=False)] = 0
    """Split videos into segments of so many seconds for all idle workers; 0 for one pass."""
    plate_region: Literal["any", "us", "eu", "br"] = "any"
    """Whose plates' forms decide between characters that look alike, such as 0 and O."""
    max_pixels: Annotated[int, Field(gt=0)] = 67_108_864
    """Largest picture that is decoded, in pixels; 8192 x 8192 by default."""
    queue: str = "tusd"
    """RQ queues, most urgent first; `short:9000000,tusd` gives short videos one of their own."""
    processes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Worker processes of one `work`, each of which analyses one video at a time."""
    stop_grace_seconds: Annotated[float, Field(ge=0, le=_CENTURY, allow_inf_nan=False)] = 25
    """How long a worker that shall stop lets its analysis run on before another one gets it."""
    job_timeout_seconds: Seconds = 600
    """Longest time one analysis may take, whatever the size of its video."""
    job_timeout_seconds_per_mb: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 20
    """How much longer it may take for each MB (2^20 bytes) of its video."""
    job_memory_bytes: Annotated[int, Field(ge=0)] = 17_179_869_184
    """Most address space one analysis may take, but on a GPU; 0 for no limit."""
    admin_token: Annotated[str | None, Field(repr=False)] = None
    """Bearer token, of 32 characters or more, of who may list all jobs; unset: nobody may."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""
    log_format: Literal["console", "json"] = "console"
    """Log lines for people or for machines."""

    @field_validator("admin_token")
    @classmethod
    def _check_admin_token(cls, value: str | None) -> str | None:
        if value is not None and not _TOKEN.fullmatch(value):
            # Not what came: it is a secret.
            expected = "32 characters or more, printable ASCII without spaces"
            raise ValueError(f"expected {expected}, got {len(value)} characters")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is not None and not _PUBLIC_URL.fullmatch(value):
            raise ValueError(f"expected an address such as https://host/api, got {value!r}")
        return value

    @field_validator("upload_path")
    @classmethod
    def _check_upload_path(cls, value: str) -> str:
        if value == "/" or value.strip("/").partition("/")[0] in _TAKEN:
            taken = ", ".join(f"/{name}" for name in _TAKEN)
            raise ValueError(f"expected a path that does not clash with {taken}, got {value!r}")
        if not _UPLOAD_PATH.fullmatch(value):
            raise ValueError(f"expected a path such as /files/, got {value!r}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, value: str) -> str:
        for origin in value.split(",") if value not in {"*", "none"} else ():
            if not _ORIGIN.fullmatch(origin.strip()):
                expected = "origins such as https://page.example, without a path, or * or none"
                raise ValueError(f"expected {expected}, got {origin.strip()!r}")
        return value

    @field_validator("queue")
    @classmethod
    def _check_queue(cls, value: str) -> str:
        queues = [one.strip() for one in value.split(",")]
        names = {one.partition(":")[0] for one in queues}
        if not all(map(_QUEUE.fullmatch, queues)) or len(names) < len(queues) or ":" in queues[-1]:
            expected = "names such as tusd, or short:9000000,tusd where the last takes every size"
            raise ValueError(f"expected {expected}, got {value!r}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, value: str) -> str:
        for peer in value.split(",") if value != "none" else ():
            _check_peer(peer.strip())
        return value


def _check_peer(peer: str) -> None:
    try:
        if peer != "unix":
            ip_network(peer)
    except ValueError as error:
        expected = "an address, a network such as 10.0.0.0/8, or unix"
        raise ValueError(f"expected {expected}, got {peer!r} ({error})") from None
