"""Several web processes on one port: to clients one server, whichever of them answers."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis

from tests.acceptance.process import Server, Site, eventually, is_dead, new_directory
from tests.acceptance.raw import APPEND, TUS, Connection, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MIB = 2**20
PIECE = 1000
CONTENT = bytes(range(256)) * 37
IETF = {"Upload-Draft-Interop-Version": "8"}


@dataclass(frozen=True, slots=True)
class Door:
    """Reach one of the processes: the kernel chooses, so we knock until it is the right one."""

    server: Server
    pid: int

    def connect(self) -> Connection:
        def look() -> Connection | None:
            connection = Connection(self.server.port)
            # Connected does not mean accepted.
            assert connection.request("GET", "/health", {}).status == 200
            if _owner(connection, self.server) == self.pid:
                return connection
            connection.close()
            return None

        return eventually(look, f"connection to process {self.pid}")

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        length = {} if method in {"HEAD", "DELETE"} else {"Content-Length": str(len(body))}
        with self.connect() as connection:
            connection.begin(method, path, {**headers, **length})
            connection.send(body)
            return connection.final(head=method == "HEAD")

    def begin_patch(self, path: str, offset: int, length: int) -> Connection:
        connection = self.connect()
        sizes = {"Upload-Offset": str(offset), "Content-Length": str(length)}
        connection.begin("PATCH", path, {**TUS, **APPEND, **sizes})
        return connection


def _owner(connection: Connection, server: Server) -> int:
    """Tell which process has the other end of a connection (proc(5))."""
    mine = connection._socket.getsockname()[1]
    ends = f" 0100007F:{server.port:04X} 0100007F:{mine:04X} "
    lines = Path("/proc/net/tcp").read_text().splitlines()
    # A connection that is over stays there for a minute; it is nobody's.
    [inode] = {line.split()[9] for line in lines if ends in line} - {"0"}
    [pid] = [pid for pid in server.children() if f"socket:[{inode}]" in _open_files(pid)]
    return pid


def _open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return found


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Site, Server]]:
    """Share one server among the tests that do it no harm."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site, site.serve(WORKERS="2")
    shutil.rmtree(site.directory)


@pytest.fixture
def doors(shared: tuple[Site, Server]) -> tuple[Door, Door]:
    return doors_of(shared[1])


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    return new_site(KEEP_UPLOADS_SECONDS="-1", WORKERS="2")


def doors_of(server: Server) -> tuple[Door, Door]:
    one, other = (Door(server, pid) for pid in server.children())
    return one, other


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_refused(port: int) -> bool:
    try:
        Connection(port).close()
    except ConnectionRefusedError:
        return True
    return False


def path_of(answer: Response) -> str:
    assert answer.status == 201, answer
    return urlsplit(answer.headers["location"]).path


def create(door: Door, length: int) -> str:
    return path_of(door.request("POST", "/files/", {**TUS, "Upload-Length": str(length)}))


def queued(site: Site) -> list[str]:
    """Return the ids of the jobs in the queue."""
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
        return [str(one) for one in client.lrange("rq:queue:tusd", 0, -1)]


def send_by_tus(one: Door, other: Door) -> str:
    path = create(one, len(CONTENT))
    for number, start in enumerate(range(0, len(CONTENT), PIECE)):
        headers = {**TUS, **APPEND, "Upload-Offset": str(start)}
        door = (other, one)[number % 2]
        answer = door.request("PATCH", path, headers, CONTENT[start : start + PIECE])
        assert answer.status == 204, answer
    return path


def send_by_the_drafts(one: Door, other: Door) -> str:
    path = path_of(one.request("POST", "/files/", {**IETF, "Upload-Complete": "?0"}))
    kind = {**IETF, "Content-Type": "application/partial-upload"}
    for number, start in enumerate(range(0, len(CONTENT), PIECE)):
        last = start + PIECE >= len(CONTENT)
        said = {**kind, "Upload-Complete": f"?{int(last)}", "Upload-Offset": str(start)}
        door = (other, one)[number % 2]
        answer = door.request("PATCH", path, said, CONTENT[start : start + PIECE])
        assert answer.status == (201 if last else 204), answer
    return path


def test_an_upload_whose_pieces_pass_through_different_processes_is_whole_and_one_job(
    shared: tuple[Site, Server], doors: tuple[Door, Door]
) -> None:
    site, server = shared
    for send in (send_by_tus, send_by_the_drafts):
        path = send(*doors)
        assert site.stored(path).read_bytes() == CONTENT
        upload_id = path.rpartition("/")[2]
        eventually(lambda: upload_id in queued(site), "job")  # noqa: B023
        assert Tus(server.port).wait_for_job(path, "pending")
    # By now both have looked at the outbox many times.
    assert len(queued(site)) == len(set(queued(site)))


def test_head_takes_an_upload_over_from_a_stalled_patch_of_the_other_process(
    shared: tuple[Site, Server], doors: tuple[Door, Door]
) -> None:
    tus = Tus(shared[1].port)
    one, other = doors
    path = create(other, 2 * MIB)
    with one.begin_patch(path, 0, 2 * MIB) as stalled:
        stalled.send(bytes(MIB))
        tus.wait_for_job(path, "uploading", more_than=0)
        answer = other.request("HEAD", path, TUS)
        assert (answer.status, answer.offset) == (200, MIB)
        assert stalled.receive().status == 423
    rest = {**TUS, **APPEND, "Upload-Offset": str(MIB)}
    assert other.request("PATCH", path, rest, bytes(MIB)).status == 204


def test_an_upload_that_one_process_removes_is_gone_for_a_writer_of_the_other(
    shared: tuple[Site, Server], doors: tuple[Door, Door]
) -> None:
    tus = Tus(shared[1].port)
    one, other = doors
    path = create(one, 2 * MIB)
    with one.begin_patch(path, 0, 2 * MIB) as writer:
        writer.send(bytes(MIB))
        tus.wait_for_job(path, "uploading", more_than=0)
        assert other.request("DELETE", path, TUS).status == 204
        assert writer.receive().status in {404, 410, 423}
    assert [door.request("HEAD", path, TUS).status for door in doors] == [410, 410]


def test_a_key_names_the_same_upload_in_both_processes(doors: tuple[Door, Door]) -> None:
    key = {"Idempotency-Key": "one key for one upload"}
    with ExitStack() as opened:
        connections = [opened.enter_context(door.connect()) for door in doors * 4]
        for connection in connections:
            headers = {**TUS, **key, "Upload-Length": "5", "Content-Length": "0"}
            connection.begin("POST", "/files/", headers)
        paths = {path_of(connection.receive()) for connection in connections}
    assert len(paths) == 1


def test_a_process_that_is_killed_is_started_again_and_the_other_goes_on_with_its_upload(
    site: Site,
) -> None:
    server = site.serve()
    one, other = doors_of(server)
    path = create(one, 2 * MIB)
    with one.begin_patch(path, 0, 2 * MIB) as writer:
        writer.send(bytes(MIB))
        Tus(server.port).wait_for_job(path, "uploading", more_than=0)
        os.kill(one.pid, signal.SIGKILL)
        offset = other.request("HEAD", path, TUS).offset
    assert 0 < offset <= MIB
    server.wait_for("worker.died.*SIGKILL")
    new = eventually(lambda: set(server.children()) - {one.pid, other.pid}, "new process").pop()
    rest = {**TUS, **APPEND, "Upload-Offset": str(offset)}
    answer = Door(server, new).request("PATCH", path, rest, bytes(2 * MIB - offset))
    assert answer.status == 204
    assert site.stored(path).read_bytes() == bytes(2 * MIB)


def test_nobody_waits_for_a_process_that_stands_still(site: Site) -> None:
    server = site.serve()
    tus = Tus(server.port)
    with paused(server.children()[0]):
        # One of them alone would miss it with a chance of one in a billion.
        answers = [tus.request("GET", "/health").status for _ in range(30)]
    assert answers == [200] * 30


def test_sigterm_drains_all_processes(site: Site) -> None:
    server = site.serve()
    tus = Tus(server.port)
    assert server.log.count("Listening on") == 1
    paths, writers = [], []
    with ExitStack() as opened:
        for door in doors_of(server):
            paths.append(create(door, 2 * MIB))
            writers.append(opened.enter_context(door.begin_patch(paths[-1], 0, 2 * MIB)))
            writers[-1].send(bytes(MIB))
            tus.wait_for_job(paths[-1], "uploading", more_than=0)
        server.terminate()
        answers = [writer.receive() for writer in writers]
    assert {answer.status for answer in answers} <= {423, 503}
    assert server.wait() == 0
    assert site.redis_pid() is None
    again = Tus(site.serve(port=server.port).port)
    assert [again.offset(path) for path in paths] == [answer.offset for answer in answers]


def test_nobody_is_let_in_any_more_while_one_process_still_answers(site: Site) -> None:
    server = site.serve(DURABILITY="none")
    one, other = doors_of(server)
    path = Tus(server.port).upload(bytes(64 * MIB))
    with one.connect() as slow:
        slow.begin("GET", path, {})
        # The rest of the answer waits for us to read.
        assert slow._socket.recv(1000)
        server.terminate()
        eventually(lambda: is_dead(other.pid), "end of the other process")
        # Which of the queues the kernel takes is chance.
        refused = [False]
        while not all(refused):
            refused = [is_refused(server.port) for _ in range(30)]
            assert server.running
        server.kill9()


def test_processes_die_with_their_parent_and_leave_the_port(site: Site) -> None:
    server = site.serve()
    children = server.children()
    assert len(children) == 2
    server.kill9()
    eventually(lambda: all(map(is_dead, children)), "end of the processes")
    assert Tus(site.serve(port=server.port).port).create(1)


def test_a_port_that_processes_share_is_taken_for_every_other_server(site: Site) -> None:
    server = site.serve()
    second = site.begin_to_serve(port=server.port)
    assert second.wait() == 3
    assert f"Port {server.port} on 127.0.0.1 is taken" in second.log
