"""Fixtures that every folder uses: a real Redis, and the data that lies beside the project."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from hypothesis import settings

from storage.embedded import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterator


# Everybody's runs try the same few examples; `make soak` many new ones, with its seed printed.
settings.register_profile("test", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("soak", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


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
