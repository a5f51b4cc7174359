"""Jobs are watched live by what pages have for it, whatever happens to server and connections."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from settings import Settings
from storage.errors import StorageError
from storage.filestore import FileStore
from storage.redis_jobs import Counts, RedisJobs
from tests.acceptance.process import (
    DEADLINE,
    Process,
    Server,
    Site,
    eventually,
    new_directory,
    unavailable,
)
from tests.acceptance.raw import TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Clip

SCRIPT = Path(__file__).parent / "js" / "watch.mjs"
FLAGS = ("--experimental-eventsource", "--experimental-websocket")

Event = dict[str, Any]


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Site, Server]]:
    """Share one server among the tests that do it no harm."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site, site.serve()
    shutil.rmtree(site.directory)


@pytest.fixture
def site(shared: tuple[Site, Server]) -> Site:
    return shared[0]


@pytest.fixture
def server(shared: tuple[Site, Server]) -> Server:
    return shared[1]


class Page:
    """A page that watches, run by Node: what it saw, one event a line."""

    def __init__(self, site: Site, kind: str, url: str) -> None:
        node = shutil.which("node")
        if node is None:
            unavailable("node is not on PATH (sudo apt install nodejs npm)")
        words: list[str | Path] = [node or "", *FLAGS, "--no-warnings", SCRIPT, kind, url]
        self._process = site.run_python("page", words, kind=Process)

    def events(self) -> list[Event]:
        return [json.loads(line) for line in self._process.log.splitlines(True) if line[-1] == "\n"]

    def until(self, is_it: Callable[[Event], object]) -> Event:
        """Wait for an event and return it."""
        return eventually(lambda: next(filter(is_it, self.events()), None), "event")

    def until_status(self, status: str) -> Event:
        return self.until(lambda one: one["event"] == "job" and one["data"]["status"] == status)

    def end(self) -> list[Event]:
        """Wait until it has ended by itself and return all that it saw."""
        self._process.wait()
        return self.events()


def pages(site: Site, server: Server, upload: str) -> list[Page]:
    """Watch a job on both ways."""
    job = f"127.0.0.1:{server.port}/jobs/{upload.rpartition('/')[2]}"
    stream, socket = (
        Page(site, "stream", f"http://{job}/events"),
        Page(site, "socket", f"ws://{job}/ws"),
    )
    for page in (stream, socket):
        page.until(lambda one: one["event"] == "job")
    return [stream, socket]


def of(events: list[Event], name: str) -> list[Any]:
    return [one["data"] for one in events if one["event"] == name]


def statuses(events: list[Event]) -> list[str]:
    """Return the states in their order, each once where it came several times in a row."""
    found = [job["status"] for job in of(events, "job")]
    return [one for before, one in zip([None, *found], found, strict=False) if one != before]


@contextmanager
def stream(port: int, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    try:
        yield response
    finally:
        # It has the connection open too.
        response.close()
        connection.close()


def events_path(upload: str) -> str:
    return f"/jobs/{upload.rpartition('/')[2]}/events"


def test_pages_watch_an_upload_and_its_analysis_to_the_end(
    site: Site, server: Server, tus: Tus, clip: Clip
) -> None:
    content = clip.content
    upload = tus.create(len(content))
    watching = pages(site, server, upload)
    tus.patch(upload, 0, content[:1000])
    for page in watching:
        page.until(lambda one: one["event"] == "job" and one["data"]["bytes"]["received"] == 1000)
    tus.patch(upload, 1000, content[1000:])
    for page in watching:
        assert page.until(lambda one: one["event"] == "queue")["data"]["position"] >= 1
    worker = site.work()
    seen = [page.end() for page in watching]
    worker.stop()
    for events in seen:
        assert statuses(events) == ["uploading", "pending", "processing", "completed"]
        assert of(events, "job")[-1] == tus.job(upload)
        # Told as it was found, before the end.
        assert clip.plates[0] in [one["text"] for one in of(events, "plate")]
        assert next(one["event"] for one in reversed(events) if "data" in one) == "job"
        frames = [one["frames"]["done"] for one in of(events, "job")[1:]]
        assert frames == sorted(frames)
    # The stream's client came again by itself, was told to stay away and did so.
    assert [one["event"] for one in seen[0]].count("open") == 1
    assert seen[1][-1] == {"event": "closed", "code": 1000}


class Faithful:
    """A client that comes again with what it saw last, until it is told to stay away (204)."""

    def __init__(self, port: int, path: str) -> None:
        self.events: list[Event] = []
        self._port = port
        self._path = path
        self._seen = ""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def until(self, is_it: Callable[[Event], object]) -> Event:
        return eventually(lambda: next(filter(is_it, list(self.events)), None), "event")

    def end(self) -> list[Event]:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self.events

    def _watch(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                headers = {"Last-Event-ID": self._seen} if self._seen else {}
                with stream(self._port, self._path, **headers) as response:
                    if response.status == 204:
                        return
                    self._take(response)
            time.sleep(0.05)

    def _take(self, response: http.client.HTTPResponse) -> None:
        event: dict[str, str] = {}
        while line := response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            event[name] = value
            if line == b"\n" and "data" in event:
                self._seen = event["id"]
                data = json.loads(event["data"])
                self.events.append({"event": event["event"], "data": data})
            event = {} if line == b"\n" else event


def test_a_faithful_watcher_sees_each_plate_once_and_the_end_whatever_is_killed(
    new_site: Callable[..., Site],
) -> None:
    site = new_site()
    server = site.serve()
    tus = Tus(server.port)
    upload = tus.create(10)
    job = upload.rpartition("/")[2]
    watcher = Faithful(server.port, events_path(upload))
    watcher.until(lambda one: one["event"] == "job")
    server.kill9()
    server = site.serve(port=server.port)
    tus.patch(upload, 0, b"x" * 10)
    watcher.until(lambda one: one["data"].get("status") == "pending")
    site.kill_redis()
    # This test is the worker.
    jobs = RedisJobs.connect(site.redis_url, FileStore(site.uploads), Settings())
    run = eventually(lambda: begin(jobs, job), "run")
    jobs.progress(job, run, Counts(1, 9, 1, 1), ["AB1"])
    watcher.until(lambda one: one["event"] == "plate")
    server.kill9()
    jobs.progress(job, run, Counts(2, 9, 2, 2), ["AB1", "CD2"])
    site.serve(port=server.port)
    watcher.until(lambda one: one["data"].get("text") == "CD2")
    plates = [{"text": text} for text in ("CD2", "EF3")]
    jobs.complete(job, {"frames": 9, "detections": 5, "plates": plates})
    events = watcher.end()
    assert statuses(events)[-1] == "completed"
    assert [one["text"] for one in of(events, "plate")] == ["AB1", "CD2", "EF3"]
    assert of(events, "job")[-1]["frames"]["done"] == 9
    for client in (jobs._redis, jobs.queue.redis):
        client.close()


def begin(jobs: RedisJobs, job: str) -> int | None:
    """Begin a run; None where Redis is away or has not got its records back."""
    with suppress(StorageError):
        return jobs.start(job)
    return None


def test_the_last_event_of_a_removed_job_is_cancelled(site: Site, server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    watching = pages(site, server, upload)
    assert tus.delete(upload).status == 204
    for page in watching:
        events = page.end()
        [*_, last] = [one for one in events if "data" in one]
        assert (last["event"], last["data"]["status"]) == ("cancelled", "cancelled")
    assert tus.request("GET", events_path(upload)).status == 410


def test_a_connection_that_takes_an_upload_over_is_told(
    site: Site, server: Server, tus: Tus
) -> None:
    upload = tus.create(10)
    watching = pages(site, server, upload)
    with tus.begin_patch(upload, 0, 10) as stalled:
        stalled.send(b"x" * 5)
        for page in watching:
            page.until(lambda one: one["event"] == "job" and one["data"]["bytes"]["received"])
        assert tus.offset(upload) == 5
        for page in watching:
            assert page.until(lambda one: one["event"] == "lock")["data"]["takeovers"] == 1
        assert stalled.final().status == 423
    tus.delete(upload)
    for page in watching:
        assert len(of(page.end(), "lock")) == 1


def test_watchers_are_sent_away_when_the_server_ends_and_go_on_at_the_next_one(
    new_site: Callable[..., Site],
) -> None:
    site = new_site()
    server = site.serve()
    tus = Tus(server.port)
    upload = tus.create(10)
    path = events_path(upload)
    socket = Page(site, "socket", f"ws://127.0.0.1:{server.port}{path.replace('events', 'ws')}")
    socket.until(lambda one: one["event"] == "job")
    with stream(server.port, path) as before:
        seen = until_line(before, b"id: ").decode()[4:].strip()
        server.terminate()
        # To its end, as it should be: it is no broken connection.
        assert b"uploading" in before.read()
    assert server.wait() in {0, -signal.SIGTERM}
    assert socket.end()[-1] == {"event": "closed", "code": 1012}
    site.serve(port=server.port)
    with stream(server.port, path, **{"Last-Event-ID": seen}) as after:
        until_line(after, b"uploading")
        tus.patch(upload, 0, b"x" * 10)
        until_line(after, b"pending")


def test_watchers_outlive_a_redis_that_is_killed(new_site: Callable[..., Site]) -> None:
    site = new_site()
    server = site.serve()
    tus = Tus(server.port)
    upload = tus.create(10)
    watching = pages(site, server, upload)
    site.kill_redis()
    # It may be stored though nobody could be told so.
    eventually(lambda: tus.patch(upload, 0, b"x" * 10).status in {204, 409}, "answer")
    for page in watching:
        page.until_status("pending")
        assert len([one for one in page.events() if one["event"] == "open"]) == 1


def test_all_watchers_of_a_process_are_one_subscription(
    site: Site, server: Server, tus: Tus
) -> None:
    upload = tus.create(10)
    with ExitStack() as stack, redis.Redis.from_url(site.redis_url) as client:
        streams = [
            stack.enter_context(stream(server.port, events_path(upload))) for _ in range(100)
        ]
        for one in streams:
            assert one.status == 200
            until_line(one, b"uploading")
        channel = f"tusd:job:{upload.rpartition('/')[2]}"
        assert client.pubsub_numsub(channel) == [(channel.encode(), 1)]
        tus.patch(upload, 0, b"x" * 10)
        for one in streams:
            until_line(one, b"pending")
    eventually(lambda: not is_watched(site, channel), "end of the subscription")


def is_watched(site: Site, channel: str) -> bool:
    with redis.Redis.from_url(site.redis_url) as client:
        [(_, count)] = client.pubsub_numsub(channel)
        return bool(count)


def until_line(response: http.client.HTTPResponse, part: bytes) -> bytes:
    while part not in (line := response.readline()):
        assert line, f"the stream ended without {part!r}"
    return line


def test_what_other_processes_do_is_seen(new_site: Callable[..., Site]) -> None:
    site = new_site(WORKERS="2")
    server = site.serve()
    tus = Tus(server.port)
    upload = tus.create(40)
    with ExitStack() as stack:
        # Some of them at each.
        streams = [stack.enter_context(stream(server.port, events_path(upload))) for _ in range(16)]
        for offset in range(0, 40, 10):
            assert tus.patch(upload, offset, b"x" * 10).status == 204
            for one in streams:
                until_line(one, b'"received":%d' % (offset + 10))


def test_many_jobs_are_watched_on_one_connection(server: Server, tus: Tus) -> None:
    uploads = [tus.create(10) for _ in range(3)]
    ids = [one.rpartition("/")[2] for one in uploads]
    with stream(server.port, f"/events?jobs={','.join(ids)}") as watching:
        for job_id in ids:
            until_line(watching, b'"job_id":"%s","status":"uploading"' % job_id.encode())
        for upload, job_id in zip(uploads, ids, strict=True):
            tus.delete(upload)
            until_line(watching, b"event: cancelled")
            until_line(watching, b'"job_id":"%s"' % job_id.encode())
        assert watching.read().strip() == b""


def test_a_browser_of_another_origin_may_watch(server: Server, tus: Tus) -> None:
    upload = tus.create(10)
    with stream(server.port, events_path(upload), Origin="https://elsewhere") as watching:
        assert watching.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("job", ["nonsense", "550e8400-e29b-41d4-a716-446655440000"])
def test_a_job_that_is_none_is_404_on_either_way(server: Server, tus: Tus, job: str) -> None:
    answer = tus.request("GET", f"/jobs/{job}/events")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/jobs/{job}/ws")
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["status"] == 404


def test_a_partial_upload_is_no_job_to_be_watched(tus: Tus) -> None:
    headers = {**TUS, "Upload-Length": "5", "Upload-Concat": "partial"}
    part = tus.request("POST", "/files/", headers).headers["location"]
    assert tus.request("GET", events_path(part)).status == 404


def test_a_socket_takes_whatever_it_is_sent_and_ends_at_what_is_too_long(
    server: Server, tus: Tus
) -> None:
    upload = tus.create(10)
    url = f"ws://127.0.0.1:{server.port}/jobs/{upload.rpartition('/')[2]}/ws"
    with connect(url, compression=None) as socket:
        for _ in range(100):
            socket.send("anything")
            socket.send(b"\x00" * 4000)
        tus.patch(upload, 0, b"x" * 10)
        while json.loads(socket.recv(DEADLINE)).get("data", {}).get("status") != "pending":
            pass
        socket.send("x" * 5000)
        with suppress(ConnectionClosedError):
            for _ in socket:
                pass
        assert socket.close_code == 1009
    assert tus.job(upload)["status"] == "pending"


def test_a_watcher_that_reads_nothing_holds_nobody_up(server: Server, tus: Tus) -> None:
    upload = tus.create(1000)
    with Connection(server.port) as slow, stream(server.port, events_path(upload)) as quick:
        slow.begin("GET", events_path(upload), {})
        for offset in range(0, 1000, 10):
            assert tus.patch(upload, offset, b"x" * 10).status == 204
        until_line(quick, b"pending")
        # It is not behind either: what it reads ends with how it stands.
        slow_lines = b""
        while b"pending" not in slow_lines:
            slow_lines += slow._take(1)
