"""Watchers on either way: who goes, stalls or stays too long, and how it ends."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from storage.errors import UploadNotFound
from storage.job import Job, JobState
from tusd_py import events as module
from tusd_py.events import MOST_JOBS, Watching
from tusd_py.exchange import CUT, PATIENCE
from tusd_py.feeds import Feed, Sight
from tusd_py.origin import Origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.types import Message, Scope

pytestmark = pytest.mark.anyio

ID = str(UUID(int=1))


async def unread(_: str) -> Sight:
    raise AssertionError


class Known:
    """Feeds that know what they are told (tusd_py.feeds.Feeds)."""

    def __init__(self, state: JobState = JobState.PROCESSING) -> None:
        self.feeds: dict[str, Feed] = {}
        self.watched = 0
        self._state = state

    @asynccontextmanager
    async def of(self, ids: Sequence[str], bell: asyncio.Event) -> AsyncIterator[list[Feed]]:
        feeds = [self._feed(one) for one in ids]
        self.watched += 1
        for feed in feeds:
            feed.bells.add(bell)
        yield feeds
        self.watched -= 1

    def _feed(self, job_id: str) -> Feed:
        if job_id not in self.feeds:
            feed = Feed(job_id, unread, lambda job, *_: json.dumps({"done": job.done}))
            if job_id == "nobody":
                feed.missing = UploadNotFound()
            else:
                feed.see(Sight(Job(job_id, self._state)))
            self.feeds[job_id] = feed
        return self.feeds[job_id]

    def change(self, state: JobState, done: int = 0) -> None:
        self.feeds[ID].see(Sight(Job(ID, state, done=done)))
        for bell in self.feeds[ID].bells:
            bell.set()


class Client:
    """Be the other end of an ASGI connection."""

    def __init__(self, kind: str = "http", job_id: str = ID, **scope: Any) -> None:
        self.scope: Scope = {
            "type": kind,
            "method": "GET",
            "path": "/jobs/",
            "path_params": {"job_id": job_id},
            "query_string": b"",
            "headers": [],
            "extensions": {CUT: {}, PATIENCE: {}, "websocket.http.response": {}},
            **scope,
        }
        self.sent: list[Message] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.goes = asyncio.Event()
        self._changed = asyncio.Event()

    async def receive(self) -> Message:
        await self.goes.wait()
        return {"type": f"{self.scope['type']}.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] != CUT:
            await self.takes.wait()
        self.sent.append(message)
        self._changed.set()

    @property
    def text(self) -> str:
        return b"".join(one.get("body", b"") for one in self.sent).decode()

    def kinds(self) -> list[str]:
        return [one["type"] for one in self.sent]

    async def until(self, part: str) -> None:
        """Wait until something was sent that has this in it."""
        async with asyncio.timeout(30):
            while part not in str(self.sent):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def served(watching: Watching, client: Client) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watching(client.scope, client.receive, client.send))
    try:
        yield task
        async with asyncio.timeout(30):
            await task
    finally:
        task.cancel()


async def test_a_stream_has_its_head_and_ends_after_the_end_of_the_job() -> None:
    feeds, client = Known(), Client()
    async with served(Watching(feeds, Origin()), client):  # type: ignore[arg-type]
        await client.until('"done')
        feeds.change(JobState.COMPLETED, 7)
    start = client.sent[1]
    assert client.sent[0] == {"type": PATIENCE, "seconds": 60.0}
    assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
    assert start["status"] == 200
    retry, _, told = client.text.partition("\n\n")
    assert retry.startswith("retry: ")
    assert 1000 <= int(retry[7:]) <= 3000
    assert told == (
        'id: 0.0.\nevent: job\ndata: {"done": 0}\n\nid: 0.0.0\nevent: job\ndata: {"done": 7}\n\n'
    )
    assert client.sent[-1]["more_body"] is False
    assert feeds.watched == 0


async def test_a_socket_gets_the_same_as_frames_and_a_close() -> None:
    feeds, client = Known(), Client("websocket", scheme="ws")
    async with served(Watching(feeds, Origin()), client):  # type: ignore[arg-type]
        await client.until("done")
        feeds.change(JobState.FAILED, 7)
    assert client.kinds() == [
        "websocket.accept",
        "websocket.send",
        "websocket.send",
        "websocket.close",
    ]
    frames = [json.loads(one["text"]) for one in client.sent[1:3]]
    assert frames == [
        {"id": "0.0.", "event": "job", "data": {"done": 0}},
        {"id": "0.0.0", "event": "job", "data": {"done": 7}},
    ]
    assert client.sent[-1]["code"] == 1000


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_goes_is_let_go_of(kind: str) -> None:
    feeds, client = Known(), Client(kind)
    async with served(Watching(feeds, Origin()), client):  # type: ignore[arg-type]
        await client.until("done")
        client.goes.set()
    assert feeds.watched == 0


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_takes_nothing_misses_states_and_is_cut_in_the_end(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds, client = Known(), Client(kind)
    async with served(Watching(feeds, Origin()), client) as task:  # type: ignore[arg-type]
        await client.until("done")
        client.takes.clear()
        for done in range(1, 1000):
            feeds.change(JobState.PROCESSING, done)
            await asyncio.sleep(0)
        client.takes.set()
        await client.until("999}" if kind == "http" else "999}}")
        # Of all the states in between it took one at most: the one that it was held up with.
        assert str(client.sent).count("done") <= 3
        assert not task.done()
        client.takes.clear()
        monkeypatch.setattr(module, "_STALL", 0.01)
        feeds.change(JobState.PROCESSING, 1000)
    assert client.kinds()[-1] == CUT
    assert feeds.watched == 0


@pytest.mark.parametrize(("kind", "end"), [("http", "http.response.body"), ("websocket", "1012")])
async def test_all_end_when_the_server_does(kind: str, end: str) -> None:
    watching = Watching(Known(), Origin())  # type: ignore[arg-type]
    client, late = Client(kind), Client(kind)
    async with served(watching, client):
        await client.until("done")
        watching.stop()
    assert end in str(client.sent[-1])
    # And nobody is let in any more.
    async with served(watching, late):
        pass
    assert end in str(late.sent[-1])
    assert "done" not in str(late.sent)


async def test_a_stream_on_which_nothing_happens_is_kept_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT", 0.01)
    client = Client()
    async with served(Watching(Known(), Origin()), client):  # type: ignore[arg-type]
        while client.text.count("\n:\n\n") < 3:
            await asyncio.sleep(0.01)
        client.goes.set()


async def test_who_asks_for_the_head_gets_no_more() -> None:
    client = Client(method="HEAD")
    async with served(Watching(Known(), Origin()), client):  # type: ignore[arg-type]
        pass
    assert client.sent[1]["status"] == 200
    assert "done" not in client.text


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_is_unknown_is_refused_before_anything_begins(kind: str) -> None:
    client = Client(kind, job_id="nobody")
    async with served(Watching(Known(), Origin()), client):  # type: ignore[arg-type]
        pass
    assert client.sent[0]["type"].endswith("http.response.start")
    assert client.sent[0]["status"] == 404


async def test_a_socket_of_a_server_that_cannot_say_why_is_closed() -> None:
    client = Client("websocket", job_id="nobody", extensions={})
    async with served(Watching(Known(), Origin()), client):  # type: ignore[arg-type]
        pass
    assert client.kinds() == ["websocket.close"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_has_seen_the_end_is_sent_away_for_good(kind: str) -> None:
    feeds = Known(JobState.COMPLETED)
    client = Client(kind, query_string=b"last_event_id=0.0.0")
    async with served(Watching(feeds, Origin()), client):  # type: ignore[arg-type]
        pass
    if kind == "http":
        assert client.sent[0]["status"] == 204
    else:
        assert client.kinds() == ["websocket.accept", "websocket.close"]
        assert client.sent[-1]["code"] == 1000


MANY = [str(UUID(int=number)) for number in range(2, MOST_JOBS + 3)]


@pytest.mark.parametrize(
    # The same in every process that collects them.
    ("query", "came"),
    [
        ("", "got 0"),
        ("jobs=", "got 0"),
        ("jobs=,,", "got 0"),
        ("job=x", "got 0"),
        ("jobs=" + ",".join(MANY), "got 51"),
        (f"jobs={ID},..%2Fx", "got '../x'"),
        ("jobs=%FF%00", r"got '\ufffd\x00'"),
    ],
)
async def test_a_query_that_names_no_jobs_is_refused_with_what_came(query: str, came: str) -> None:
    client = Client(path_params={}, query_string=query.encode())
    async with served(Watching(Known(), Origin()), client):  # type: ignore[arg-type]
        pass
    assert client.sent[0]["status"] == 400
    assert came in json.loads(client.text)["detail"]


async def test_many_jobs_are_told_of_on_one_connection_each_once() -> None:
    names = f"jobs={ID},{MANY[0]}&jobs={ID}"
    client = Client(path_params={}, query_string=names.encode())
    feeds = Known(JobState.COMPLETED)
    async with served(Watching(feeds, Origin()), client):  # type: ignore[arg-type]
        pass
    assert client.text.count("event: job") == 2
    assert list(feeds.feeds) == [ID, MANY[0]]
