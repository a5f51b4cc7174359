"""Whether a Redis is one we can work with: looked at once, at start."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ResponseError

from storage.errors import ClusterRefused
from storage.marker import Marker
from storage.redis_sync import clients, redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = structlog.get_logger()

_NEVER_EVICTS = "noeviction"


def examine(url: str, directory: Path) -> None:
    """Make this Redis the directory's, and warn of what lets it forget; it blocks.

    Raises:
        ClusterRefused: it is one of a cluster.
        AnotherDirectory: it belongs to another directory.
        StoreUnavailable: it does not answer.
        DiskFailed: the directory cannot be read.
    """
    text, _ = clients(url)
    with closing(text), redis_errors():
        _need_no_cluster(text)
        Marker(text, directory).claim()
        # One that keeps its settings to itself is not doubted.
        with suppress(ResponseError):
            for reason in _doubts(text):
                log.warning("redis.may_forget", reason=reason)


# redis-py's types cannot say that a client decodes.
def _need_no_cluster(redis: Any) -> None:
    with suppress(ResponseError):
        if redis.info("cluster").get("cluster_enabled"):
            raise ClusterRefused(
                "This Redis is one of a Redis Cluster, on which the queue's workers do not run: "
                "set REDIS_URL to a single server."
            )


def _doubts(redis: Any) -> Iterator[str]:
    if _setting(redis, "appendonly") == "no" and _setting(redis, "save") == "":
        yield (
            "this Redis has no persistence, neither an append-only file nor save points; after its "
            "restart all records have to be read from the journals: set appendonly yes"
        )
    policy = _setting(redis, "maxmemory-policy")
    if policy not in {None, _NEVER_EVICTS}:
        yield (
            f"this Redis has the maxmemory-policy {policy}, so that it may remove jobs, locks and "
            f"records that are needed: set maxmemory-policy {_NEVER_EVICTS}"
        )


def _setting(redis: Any, name: str) -> str | None:
    value: str | None = redis.config_get(name).get(name)
    return value
