"""Fixtures that every folder uses: a real Redis, and the data that lies beside the project."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import structlog
from hypothesis import HealthCheck, settings

from storage.embedded import Embedded

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure() -> None:
    """Set up what is one for the whole process."""
    hypothesize()
    # Whoever runs the tests in the background may ignore Ctrl-C; then so would all we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The default one draws tracebacks in colours, which takes seconds.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


def hypothesize() -> None:
    """Have Hypothesis try the same few examples in every run, and many new ones in `make soak`.

    It may take its time: a slow machine is no error.
    """
    slow = [HealthCheck.too_slow]
    settings.register_profile(
        "test", deadline=None, derandomize=True, database=None, suppress_health_check=slow
    )
    settings.register_profile(
        "soak", deadline=None, max_examples=5_000, print_blob=True, suppress_health_check=slow
    )
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what a command that ran in this process did to the log."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


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
