"""Redis for code that blocks: clients, scripts, and a lock that spares processes double work."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from storage import redis_schema as schema
from storage.errors import StorageError, StoreUnavailable
from storage.redis_address import Address
from storage.redis_locker import is_dead, process_identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = structlog.get_logger()

# Seconds.
_CONNECT = 2.0
_ANSWER = 5.0
LEASE = 30.0


def clients(url: str) -> tuple[Redis, Redis]:
    """Build two clients of a URL (storage.redis_address): one decodes, RQ's must not.

    Nothing is connected to before the first command.
    """
    address = Address.parse(url)
    text, raw = (
        Redis.from_pool(
            ConnectionPool(
                **address.pool_options(),
                decode_responses=decode,
                socket_connect_timeout=_CONNECT,
                socket_timeout=_ANSWER,
                # Once more on a fresh connection: the server may have been restarted meanwhile.
                retry=Retry(NoBackoff(), 1),
            )
        )
        for decode in (True, False)
    )
    return text, raw


def call(redis: Redis, script: schema.Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
    """Run a script, which is loaded when the server does not know it."""
    try:
        return redis.evalsha(script.sha, len(keys), *keys, *args)
    except NoScriptError:
        return redis.eval(script.text, len(keys), *keys, *args)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise StoreUnavailable for what redis-py raises; also a decorator."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer: {error}") from error


@contextmanager
def one_by_one(upload_id: str) -> Iterator[None]:
    """Log what is wrong with one upload, so that it stands in no other's way.

    Only a Redis that is away concerns them all.
    """
    try:
        yield
    except StoreUnavailable:
        raise
    except (StorageError, ValueError, KeyError, TypeError) as error:
        log.warning("upload.skipped", upload=upload_id, reason=str(error))


def surely_dead(process: str) -> bool:
    """Tell whether a process of that name surely lives no longer; other names are never dead."""
    try:
        return is_dead(process)
    except ValueError:
        return False


@contextmanager
def left_alone(redis: Redis, upload_id: str) -> Iterator[int]:
    """Hold the lock of an upload that nobody writes: its token, or 0 where it is held or missing.

    Nobody is asked to let go.
    """
    process = process_identity()
    with redis_errors():
        keys = (schema.lock_key(upload_id), schema.upload_key(upload_id))
        token = max(0, call(redis, schema.ACQUIRE_IDLE, keys, (process, int(LEASE * 1000))))
    try:
        yield token
    finally:
        if token:
            release(redis, upload_id, f"{process}:{token}")


@contextmanager
def alone(redis: Redis, what: str) -> Iterator[bool]:
    """Hold a lock that spares others the same work; False when somebody alive has it.

    It is a courtesy: it runs out by itself, and what it covers is right without it.
    """
    value = f"{process_identity()}:{secrets.token_hex(8)}"
    taken = _take(redis, what, value)
    try:
        yield taken
    finally:
        if taken:
            release(redis, what, value)


@redis_errors()
def release(redis: Redis, what: str, value: str) -> None:
    """Give a lock back, if it is still held by that value, and tell who waits."""
    call(redis, schema.RELEASE, (schema.lock_key(what), schema.waiting_key(what)), (value, what))


@redis_errors()
def _take(redis: Redis, what: str, value: str) -> bool:
    key = schema.lock_key(what)
    holder = str(redis.get(key) or "")
    if surely_dead(holder.rpartition(":")[0]):
        release(redis, what, holder)
    return bool(redis.set(key, value, nx=True, px=int(LEASE * 1000)))
