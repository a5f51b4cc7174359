"""What is said of a Redis at start: real servers, each with other settings."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from structlog.testing import capture_logs

from storage.embedded import Embedded, _find_server
from storage.errors import ClusterRefused, StoreUnavailable
from storage.redis_server import examine
from tests.acceptance.process import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def server(*words: str) -> Iterator[str]:
    """Run a Redis with these settings; yield its URL."""
    place = Path(tempfile.mkdtemp(prefix="tusd-redis-"))
    at = ("--port", "0", "--unixsocket", str(place / "redis.sock"), "--dir", str(place))
    command = [str(_find_server()), *at, *words]
    url = f"unix://{place}/redis.sock"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _answers(url) or process.poll() is not None, "Redis")
            yield url
        finally:
            process.terminate()
    shutil.rmtree(place)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def said_of(url: str, directory: Path) -> list[str]:
    with capture_logs() as logs:
        examine(url, directory)
    return [str(one["reason"]) for one in logs if one["event"] == "redis.may_forget"]


def test_a_redis_without_persistence_is_named(tmp_path: Path) -> None:
    with server("--save", "", "--appendonly", "no") as url:
        (said,) = said_of(url, tmp_path)
    assert "no persistence" in said


@pytest.mark.parametrize("persistence", [("--appendonly", "yes"), ("--save", "60 1")])
def test_a_policy_that_evicts_is_named(tmp_path: Path, persistence: tuple[str, str]) -> None:
    with server(*persistence, "--maxmemory-policy", "allkeys-lru") as url:
        (said,) = said_of(url, tmp_path)
    assert "allkeys-lru" in said


def test_nothing_is_said_of_a_redis_that_keeps_its_settings_to_itself(tmp_path: Path) -> None:
    with server("--save", "") as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command("ACL", "SETUSER", "default", "-config")
        assert said_of(url, tmp_path) == []


def test_nothing_is_said_of_the_private_one(redis_server: Embedded, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    assert said_of(redis_server.url, tmp_path) == []


def test_a_cluster_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with (
        server("--cluster-enabled", "yes", "--port", "0") as url,
        pytest.raises(ClusterRefused, match="is one of a Redis Cluster"),
    ):
        examine(url, tmp_path)


def test_a_redis_that_is_away_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        examine(f"unix://{tmp_path}/nowhere.sock", tmp_path)
