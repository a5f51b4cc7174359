"""Fixtures that every folder uses: a real Redis, and the data that lies beside the project."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from storage.embedded import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Embedded]:
    """Run one private Redis for the whole session."""
    # Not pytest's own directory: its path may be too long for a unix socket.
    directory = Path(tempfile.mkdtemp(prefix="tusd-redis-"))
    with Embedded(directory) as server:
        yield server
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server: Embedded) -> str:
    """Return the URL of a Redis that is empty."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
