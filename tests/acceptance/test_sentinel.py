"""Server and worker behind sentinels: the primary dies, a replica takes its place, work goes on."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import redis

from storage.embedded import _find_server
from tests.acceptance.process import Site, eventually
from tests.acceptance.raw import Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "tusd"
WATCHING = """
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {name} 127.0.0.1 {primary} 1
sentinel down-after-milliseconds {name} 1500
sentinel failover-timeout {name} 4000
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(directory: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    directory.mkdir(exist_ok=True)
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen([_find_server(), *words], cwd=directory, stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(directory: Path, port: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    options = ("--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "")
    with running(directory, *options, *words) as process:
        eventually(lambda: answers(port), "a server")
        yield process


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def role(port: int) -> dict[str, object]:
    with redis.Redis(port=port) as client:
        return dict(client.info("replication"))


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a primary, its replica and a sentinel; yield the sentinel's port and the primary."""
    primary, replica, watching = free_port(), free_port(), free_port()
    with ExitStack() as held:
        first = held.enter_context(server(tmp_path / "primary", primary))
        follows = ("--replicaof", "127.0.0.1", str(primary))
        held.enter_context(server(tmp_path / "replica", replica, *follows))
        eventually(lambda: role(replica).get("master_link_status") == "up", "a replica")
        place = tmp_path / "sentinel"
        place.mkdir()
        (place / "sentinel.conf").write_text(
            WATCHING.format(port=watching, directory=place, name=NAME, primary=primary)
        )
        held.enter_context(running(place, "sentinel.conf", "--sentinel"))
        with redis.Redis(port=watching) as asked:
            eventually(lambda: knows_replica(asked), "a sentinel that knows the replica")
        yield watching, first


def knows_replica(asked: redis.Redis) -> bool:
    try:
        return bool(asked.sentinel_slaves(NAME))
    except redis.RedisError:
        return False


def test_uploads_and_jobs_go_on_when_another_primary_takes_over(
    new_site: Callable[..., Site], ports: tuple[int, subprocess.Popen[bytes]]
) -> None:
    watching, primary = ports
    site = new_site(REDIS_URL=f"sentinel://127.0.0.1:{watching}/{NAME}", KEEP_UPLOADS_SECONDS="-1")
    tus = Tus(site.serve().port)
    site.work()
    before = tus.upload(b"no video")
    assert tus.wait_for_job(before)["status"] == "failed"
    begun = tus.create(10)
    assert tus.patch(begun, 0, b"01234").status == 204

    primary.kill()
    primary.wait()
    offset = eventually(lambda: offset_of(tus, begun), "an upload that goes on")
    assert offset == 5
    eventually(lambda: tus.patch(begun, 5, b"56789").status in {204, 409}, "the rest")
    assert site.stored(begun).read_bytes() == b"0123456789"
    assert tus.wait_for_job(begun)["status"] == "failed"
    assert tus.job(before)["status"] == "failed"
    after = eventually(lambda: created(tus), "a new upload")
    assert tus.patch(after, 0, b"no video").status == 204
    assert tus.wait_for_job(after)["status"] == "failed"
    eventually(
        lambda: tus.request("GET", "/ready").json()["workers"] == 1, "a worker that is ready"
    )


def offset_of(tus: Tus, path: str) -> int | None:
    answer = tus.head(path)
    assert answer.status in {200, 423, 503}, answer
    return answer.offset if answer.status == 200 else None


def created(tus: Tus) -> str | None:
    answer = tus.post(len(b"no video"))
    if answer.status != 201:
        return None
    return "/files/" + answer.headers["location"].rpartition("/")[2]
