"""The old endpoint answers as its document has it, and what fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from storage import redis_schema as schema
from storage.errors import (
    DiskFailed,
    StorageError,
    StorageFull,
    StoreUnavailable,
    UploadGone,
    UploadNotFound,
)
from storage.filestore import FileStore
from storage.job import Job, JobState
from storage.leases import Leases
from storage.redis_info import RedisInfoStore
from storage.redis_locker import RedisLocker
from storage.segments import FileWriter
from storage.upload import Upload
from tests.tusd_py.test_exchange import GONE, piece
from tests.tusd_py.test_multipart import NAMED, TYPE, cut, form, option, part
from tusd_py import filling, intake
from tusd_py.call import Uploads
from tusd_py.exchange import AsgiExchange
from tusd_py.filling import Filling
from tusd_py.form import PATH, Forms
from tusd_py.multipart import BESIDES
from tusd_py.origin import Origin
from tusd_py.protocol import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from storage.interfaces import Buffer

pytestmark = pytest.mark.anyio
MB = 2**20
ID = "550e8400-e29b-41d4-a716-446655440000"
KEY = "a key of some length"
# As far as anybody looks before the analysis.
VIDEO = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 400
NOT_A_VIDEO = "File must be a video (mp4, avi, mov, mkv, webm, flv)"


@dataclass
class Request:
    """One request, whose body is told piece by piece."""

    forms: Forms
    headers: Mapping[str, str]
    method: str = "POST"
    messages: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    sent: list[Any] = field(default_factory=list)
    reads: int = 0

    def begin(self, *bodies: bytes) -> asyncio.Task[None]:
        """Carry it out from here on."""
        self.tell(*bodies)
        raw = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": self.method, "headers": raw, "path": PATH}
        return asyncio.create_task(self.forms(scope, self._receive, self._send))

    def tell(self, *bodies: bytes) -> None:
        for body in bodies:
            self.messages.put_nowait(piece(body))

    def end(self, *bodies: bytes) -> None:
        self.tell(*bodies)
        self.messages.put_nowait(piece(b"", more=False))

    async def _receive(self) -> Any:
        self.reads += 1
        return await self.messages.get()

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def answer(self) -> Any:
        return json.loads(b"".join(message.get("body", b"") for message in self.sent))


@dataclass(frozen=True, slots=True)
class Site:
    """All that a request meets, in this process."""

    uploads: Uploads
    redis: Redis
    chunk_size: int = 1000
    stall: float = 60.0

    def request(self, method: str = "POST", **named: str) -> Request:
        headers = {"Content-Type": TYPE}
        headers |= {name.replace("_", "-"): value for name, value in named.items()}
        exchange = partial(AsgiExchange, chunk_size=self.chunk_size, stall=self.stall)
        return Request(Forms(self.uploads, Origin(), exchange), headers, method)

    async def post(
        self, body: bytes, *, length: bool = True, size: int = 700, **named: Any
    ) -> Request:
        """Send a whole form."""
        if length:
            named = {"Content_Length": str(len(body)), **named}
        request = self.request(**named)
        request.end(*cut(body, size))
        await request.begin()
        return request

    def limited(self, most: int) -> Site:
        limits = replace(self.uploads.limits, max_size=most)
        return replace(self, uploads=replace(self.uploads, limits=limits))

    async def job(self, job_id: str) -> Job | None:
        return await self.uploads.info.job(job_id)

    async def seen(self, job_id: str, look: Callable[[Job], bool]) -> Job:
        """Return the job once it looks so."""
        async with asyncio.timeout(60):
            while not ((job := await self.job(job_id)) and look(job)):
                await asyncio.sleep(0.01)
            return job

    async def stored(self, job_id: str) -> None:
        """Wait until all of the video lies in its file."""
        file = self.uploads.data.directory / job_id
        async with asyncio.timeout(60):
            while not (file.exists() and file.stat().st_size == len(VIDEO)):
                await asyncio.sleep(0.01)

    async def queued(self) -> list[str]:
        # redis-py's types cannot say that it decodes.
        found: Any = await self.redis.zrange(schema.OUTBOX, 0, -1)
        return list(found)

    def content(self, job_id: str) -> bytes:
        with self.uploads.data.read(job_id) as file:
            return file.read()

    def described(self, job_id: str) -> dict[str, str]:
        return self.uploads.data.recover(job_id)[0].described

    def files(self) -> set[str]:
        """Name what is left of uploads."""
        files = [path for path in self.uploads.data.directory.rglob("*") if path.is_file()]
        return {path.name for path in files if path.name[:1] != "."}

    async def is_empty(self) -> bool:
        """Tell whether nothing is left of any upload, but that its job was cancelled."""
        keys: Any = await self.redis.keys("tusd:*")
        jobs = {key async for key in self._cancelled(keys)}
        return not self.files() and set(keys) - jobs <= {schema.EXPIRING}

    async def _cancelled(self, keys: Sequence[str]) -> AsyncIterator[str]:
        for key in keys:
            if key.startswith("tusd:job:"):
                assert await self.redis.hget(key, "state") == JobState.CANCELLED
                yield key


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    data = FileStore(tmp_path / "data")
    data.prepare()
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        locker = RedisLocker(redis)
        leases, info = Leases(locker, data), RedisInfoStore(redis)
        limits = Limits(20 * MB, 86_400.0)
        closing = lambda: locker.closing  # noqa: E731
        yield Site(Uploads(data, info, leases, limits, 0, lambda: None, closing), redis)
        await leases.aclose()


FIELDS = [option("frame_skip", "2"), option("min_confidence", "0.5")]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("length", [True, False])
async def test_a_form_becomes_an_upload_and_its_job_wherever_its_file_stands(
    site: Site, at: int, *, length: bool
) -> None:
    parts = [*FIELDS[:at], part(NAMED, VIDEO), *FIELDS[at:]]
    request = await site.post(form(*parts), length=length, X_Job_ID=ID.upper())
    assert (request.status, request.answer) == (
        200,
        {
            "job_id": ID,
            "status": "pending",
            "message": "Video processing job created (0.10MB uploaded). "
            "Use the job_id to check status.",
            "status_url": f"/jobs/{ID}",
        },
    )
    assert site.content(ID) == VIDEO
    said = {"filename": "cars.mp4", "frame_skip": "2", "min_confidence": "0.5"}
    assert site.described(ID) == said
    record = await site.uploads.info.find(ID)
    assert record is not None
    assert (record.complete, record.length, record.described) == (True, len(VIDEO), said)
    job = await site.job(ID)
    assert job is not None
    assert (job.state, job.size) == (JobState.PENDING, len(VIDEO))
    assert await site.queued() == [ID]


async def test_a_job_starts_when_the_last_part_has_been_read_and_not_before(site: Site) -> None:
    whole = form(part(NAMED, VIDEO), *FIELDS)
    request = site.request(X_Job_ID=ID)
    running = request.begin(whole[:-40])
    await site.stored(ID)
    assert await site.queued() == []
    request.end(whole[-40:])
    await running
    assert (request.status, await site.queued()) == (200, [ID])


async def test_who_watches_sees_the_progress_with_speed_and_time_left(site: Site) -> None:
    whole = form(part(NAMED, VIDEO + bytes(10 * MB - len(VIDEO))))
    request = site.request(X_Job_ID=ID, Content_Length=str(len(whole)))
    half = len(whole) // 2 + 4096
    with capture_logs() as logs:
        running = request.begin(*cut(whole[:half], 65536))
        job = await site.seen(ID, lambda job: job.done >= 5 * MB)
        sentence = r"Uploading: 5\.0MB \(50%\) at \d+\.\dMB/s - ETA: \d+s"
        assert re.fullmatch(sentence, job.message)
        assert job.state is JobState.UPLOADING
        request.end(*cut(whole[half:], 65536))
        await running
    said = [entry["event"] for entry in logs if entry["log_level"] == "info"]
    assert re.fullmatch(rf"Upload progress \[{ID}\]: {sentence}", said[0])
    done = r"✓ File uploaded successfully: 10\.00MB in \d+\.\ds \(\d+\.\d\dMB/s\)"
    assert [line for line in said if re.fullmatch(done, line)]
    assert "cars.mp4" not in str(logs)


async def test_without_a_length_the_progress_has_no_share(site: Site) -> None:
    request = site.request(X_Job_ID=ID, Transfer_Encoding="chunked")
    whole = form(part(NAMED, VIDEO + bytes(6 * MB)))
    running = request.begin(*cut(whole[:-100], 65536))
    job = await site.seen(ID, lambda job: job.done >= 5 * MB)
    assert re.fullmatch(r"Uploading: \d\.\dMB at \d+\.\dMB/s", job.message)
    request.end(whole[-100:])
    await running
    assert request.status == 200


async def test_a_file_of_exactly_the_limit_is_taken(site: Site) -> None:
    small = site.limited(len(VIDEO))
    request = await small.post(form(part(NAMED, VIDEO), option("frame_skip", "2")), size=97)
    assert request.status == 200


FILE = part(NAMED, VIDEO)
ALIVE = {"Transfer_Encoding": "chunked"}


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (form(part(NAMED, b"")), 400, "Uploaded file is empty"),
        (form(part(NAMED, b"no video at all")), 400, NOT_A_VIDEO),
        (form(part(NAMED, b"x" * 9999)), 400, NOT_A_VIDEO),
        (form(part(b'form-data; name="file"', b"{}", b"Content-Type: video/mp4")), 400,
         NOT_A_VIDEO),
        (form(part(NAMED, b"--in\r\n\r\n--in--", b"Content-Type: multipart/mixed; boundary=in")),
         400, NOT_A_VIDEO),
        (form(*FIELDS), 400, "expected a form with a part named file"),
        (form(), 400, "expected a form with a part named file"),
        (b"", 400, "expected a form that ends with its delimiter, got less"),
        (form(FILE)[:-6], 400, "expected a form that ends with its delimiter, got less"),
        (form(FILE, FILE), 400, "file: expected one part of this name, got another one"),
        (form(option("frame_skip", "0"), FILE), 400,
         "frame_skip: expected an integer from 1 to 1000, got '0'"),
        (form(FILE, option("frame_skip", "0")), 400,
         "frame_skip: expected an integer from 1 to 1000, got '0'"),
        (form(FILE, option("min_confidence", "1.5")), 400,
         "min_confidence: expected a number from 0 to 1, got '1.5'"),
        (form(FILE, *[option("x", "y")] * 10_000), 400,
         f"expected a form of {BESIDES} bytes beside its file, got more"),
        (form(part(NAMED, VIDEO * 2)), 413,
         "File too large. Maximum size is 0.12MB. Current size exceeds limit."),
    ],
)  # fmt: skip
async def test_what_is_refused_is_told_and_leaves_nothing(
    site: Site, body: bytes, status: int, detail: str
) -> None:
    request = await site.limited(MB // 8).post(body, X_Job_ID=ID, length=False)
    assert request.status == status
    assert request.answer == {"detail": detail, "status_code": status}
    assert await site.is_empty()


@pytest.mark.parametrize(
    ("headers", "status", "detail"),
    [
        ({"Content_Length": str(20 * MB + BESIDES + 1)}, 413,
         "File too large. Maximum size is 20MB. Current size exceeds limit."),
        ({"X_Job_ID": "job-123"}, 400, "x-job-id: expected a UUID, got 'job-123'"),
        ({"X_Job_ID": f"{{{ID}}}"}, 400, f"x-job-id: expected a UUID, got '{{{ID}}}'"),
        ({"X_Job_ID": "../../../../../../../../../../../etc"}, 400, "x-job-id: expected a UUID"),
        ({"Idempotency_Key": "short"}, 400, "idempotency-key: expected 16 to 255 printable"),
        ({"Content_Type": "application/json"}, 415,
         "content-type: expected multipart/form-data, got 'application/json'"),
        ({"Content_Type": "multipart/form-data"}, 400,
         "content-type: expected a boundary of 1 to 70 characters, got ''"),
        ({"Content_Length": "many"}, 400, "content-length: expected a non-negative integer"),
        ({"method": "GET"}, 405, "expected POST"),
        ({"method": "PUT"}, 405, "expected POST"),
    ],
)  # fmt: skip
async def test_what_a_head_says_is_refused_before_anything_is_read(
    site: Site, headers: dict[str, str], status: int, detail: str
) -> None:
    request = site.request(**headers)
    running = request.begin()
    async with asyncio.timeout(60):
        while not request.sent:
            assert request.reads == 0
            await asyncio.sleep(0.001)
    request.end()
    await running
    assert (request.status, request.answer["status_code"]) == (status, status)
    assert request.answer["detail"].startswith(detail)
    assert await site.is_empty()


@pytest.mark.parametrize(
    ("most", "told"),
    [(524_288_000, "500MB"), (600_000_000, "572.2MB"), (1024, "0.00098MB"), (3 * MB // 2, "1.5MB")],
)
async def test_the_limit_is_told_in_mb(site: Site, most: int, told: str) -> None:
    request = await site.limited(most).post(b"", Content_Length=str(most + 2 * BESIDES))
    assert f"Maximum size is {told}. " in request.answer["detail"]


# --- whatever ends it, nothing is left, and its name can be used again


async def begun(site: Site, request: Request) -> asyncio.Task[None]:
    """Send all but the end of a form, and wait until its bytes are here."""
    running = request.begin(form(FILE, *FIELDS)[:-40])
    await site.stored(ID)
    return running


async def is_free_again(site: Site) -> bool:
    assert await site.is_empty()
    job = await site.job(ID)
    assert job is None or job.state is JobState.CANCELLED
    assert await site.queued() == []
    again = await site.post(form(FILE), X_Job_ID=ID)
    return again.status == 200 and site.content(ID) == VIDEO and await site.queued() == [ID]


async def test_a_client_that_vanishes_leaves_nothing(site: Site) -> None:
    request = site.request(X_Job_ID=ID)
    running = await begun(site, request)
    request.messages.put_nowait(GONE)
    await running
    assert request.status == 400
    assert await is_free_again(site)


async def test_a_body_that_stalls_leaves_nothing_and_is_told(site: Site) -> None:
    request = replace(site, stall=0.2).request(X_Job_ID=ID)
    running = request.begin(form(FILE, *FIELDS)[:-40])
    await site.seen(ID, lambda job: job.state is JobState.CANCELLED)
    request.end()
    await running
    assert request.status == 408
    assert await is_free_again(site)


async def test_a_server_that_ends_leaves_nothing_and_says_to_send_it_again(site: Site) -> None:
    request = site.request(X_Job_ID=ID)
    running = await begun(site, request)
    site.uploads.leases.stop_all()
    await site.seen(ID, lambda job: job.state is JobState.CANCELLED)
    request.end()
    await running
    assert request.status == 503
    assert {(b"retry-after", b"1")} <= set(request.sent[0]["headers"])
    assert await site.is_empty()


async def test_a_request_that_is_cancelled_leaves_nothing(site: Site) -> None:
    running = await begun(site, site.request(X_Job_ID=ID))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await is_free_again(site)


async def test_a_form_goes_on_when_somebody_had_its_upload_for_a_moment(site: Site) -> None:
    request = site.request(X_Job_ID=ID)
    running = await begun(site, request)
    for _ in range(3):
        found = await site.uploads.leases.settled(ID)
        assert (found.offset, found.complete) == (len(VIDEO), False)
    request.end(form(FILE, *FIELDS)[-40:])
    await running
    assert (request.status, site.content(ID), await site.queued()) == (200, VIDEO, [ID])


@pytest.mark.parametrize("before", [True, False])
async def test_a_redis_that_is_emptied_meanwhile_gets_the_upload_back(
    site: Site, *, before: bool
) -> None:
    request = site.request(X_Job_ID=ID)
    running = await begun(site, request)
    await site.redis.flushall()
    if before:
        # Whoever asks for it makes the form commit what is here.
        assert (await site.uploads.leases.settled(ID)).offset == len(VIDEO)
    request.end(form(FILE, *FIELDS)[-40:])
    await running
    assert (request.status, site.content(ID), await site.queued()) == (200, VIDEO, [ID])
    said = {"filename": "cars.mp4", "frame_skip": "2", "min_confidence": "0.5"}
    record = await site.uploads.info.find(ID)
    assert record is not None
    assert record.described == site.described(ID) == said


async def test_a_form_that_was_overtaken_leaves_the_upload_of_its_id_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, goes_on, take = asyncio.Event(), asyncio.Event(), RedisLocker.take
    answers = ["lock", "away"]

    async def away(*_: Any) -> None:
        raise StoreUnavailable("Redis does not answer: away")

    async def take_once(self: RedisLocker, *args: Any) -> Any:
        return await (away() if answers.pop(0) == "away" else take(self, *args))

    async def wait(*_: Any) -> bool:
        if not answers:
            # It holds nothing now, and who sends the same again is sooner.
            waits.set()
            await goes_on.wait()
        return True

    first = site.request(X_Job_ID=ID)
    with monkeypatch.context() as patched:
        patched.setattr(RedisInfoStore, "expect", away)
        patched.setattr(RedisLocker, "take", take_once)
        patched.setattr(Filling, "_shall_wait", wait)
        running = first.begin(form(FILE, *FIELDS)[:-40])
        async with asyncio.timeout(60):
            await waits.wait()
    second = await site.post(form(part(NAMED, VIDEO * 2)), X_Job_ID=ID)
    assert second.status == 200
    goes_on.set()
    first.end(form(FILE, *FIELDS)[-40:])
    await running
    assert first.status == 409
    assert (site.content(ID), await site.queued()) == (VIDEO * 2, [ID])


async def test_an_upload_to_which_somebody_added_bytes_is_given_up(site: Site) -> None:
    request = site.request(X_Job_ID=ID)
    running = await begun(site, request)
    async with site.uploads.leases.hold(ID) as lease:
        writer = await lease.writer()
        writer.write([b"more"])
        longer = replace(lease.upload, offset=len(VIDEO) + 4)
        await lease.commit(longer)
        await site.uploads.info.commit(longer, speed=0)
        lease.upload = longer
    request.end()
    await running
    assert request.status == 409
    assert await is_free_again(site)


async def test_an_upload_that_was_removed_meanwhile_is_gone(site: Site) -> None:
    request = site.request(X_Job_ID=ID)
    running = await begun(site, request)
    async with site.uploads.leases.hold(ID) as lease:
        site.uploads.data.remove(ID)
        await site.uploads.info.terminate(lease.upload, time.time() + 60)
        lease.discard()
    request.end()
    await running
    assert (request.status, request.answer["detail"]) == (410, "this upload was removed")
    with pytest.raises(UploadGone):
        site.uploads.data.recover(ID)
    assert await site.queued() == []


async def test_a_disk_that_is_full_is_told_and_gets_its_room_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FileWriter, buffers: Sequence[Buffer]) -> None:
        del self, buffers
        raise StorageFull("the disk has no room left")

    with monkeypatch.context() as patched:
        patched.setattr(FileWriter, "write", full)
        request = await site.post(form(FILE), X_Job_ID=ID)
    assert (request.status, request.answer["status_code"]) == (507, 507)
    assert await is_free_again(site)


STEPS = ("forget", "create", "expect", "commit", "describe")
ALL = (*STEPS, "raise_to", "restore", "find", "terminate")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("named", [{"X_Job_ID": ID}, {}])
async def test_a_redis_that_is_away_from_any_step_on_is_told_and_no_byte_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, named: dict[str, Any]
) -> None:
    gone = []

    def failing(name: str) -> Any:
        does = getattr(RedisInfoStore, name)

        async def away(*args: Any, **named: Any) -> Any:
            if name == step:
                gone.append(name)
            if gone:
                raise StoreUnavailable("Redis does not answer: away")
            return await does(*args, **named)

        return away

    with monkeypatch.context() as patched:
        patched.setattr(filling, "_PATIENCE", 0.0)
        for name in ALL:
            patched.setattr(RedisInfoStore, name, failing(name))
        request = await site.post(form(FILE, *FIELDS), **named)
    assert request.status == 503
    assert request.answer["detail"] == "the storage does not answer just now: send it again"
    # When all was durable but the answer, who sends it again finds it there.
    is_kept = bool(named) and step == "commit"
    assert site.files() == ({ID, f"{ID}.log"} if is_kept else set())
    assert await site.queued() == []
    again = await site.post(form(FILE, *FIELDS), X_Job_ID=ID)
    assert again.status == (409 if is_kept else 200)
    assert (site.content(ID), await site.queued()) == (VIDEO, [ID])


@pytest.mark.parametrize("step", ["expect", "commit", "describe"])
@pytest.mark.parametrize("late", [True, False])
async def test_a_redis_that_is_away_for_a_while_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str, *, late: bool
) -> None:
    does, left = getattr(RedisInfoStore, step), [None] * 3

    async def away(*args: Any, **named: Any) -> None:
        if late and left:
            # It did what it was asked for, and nobody heard of it.
            await does(*args, **named)
        if left:
            left.pop()
            raise StoreUnavailable("Redis does not answer: away")
        await does(*args, **named)

    monkeypatch.setattr(filling, "_PAUSE", 0.0)
    monkeypatch.setattr(RedisInfoStore, step, away)
    request = await site.post(form(FILE, *FIELDS), X_Job_ID=ID)
    assert request.status == 200
    assert len(left) < 3
    assert (site.content(ID), await site.queued()) == (VIDEO, [ID])
    record = await site.uploads.info.find(ID)
    assert record is not None
    said = {"filename": "cars.mp4", "frame_skip": "2", "min_confidence": "0.5"}
    assert record.described == site.described(ID) == said


async def test_a_redis_that_was_rolled_back_meanwhile_catches_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_LASTING", 0.0)
    whole = form(FILE, *FIELDS)
    request = site.request(X_Job_ID=ID)
    running = request.begin()
    for start in range(0, len(whole) - 40, 20_000):
        request.tell(whole[start : min(start + 20_000, len(whole) - 40)])
    await site.stored(ID)
    await site.seen(ID, lambda job: job.done > 0)
    await site.uploads.leases.settled(ID)
    await site.redis.hset(schema.upload_key(ID), mapping={"offset": "0", "token": "7"})
    request.end(whole[-40:])
    await running
    assert (request.status, site.content(ID), await site.queued()) == (200, VIDEO, [ID])


async def test_a_disk_without_room_takes_nothing(site: Site) -> None:
    full = replace(site, uploads=replace(site.uploads, min_free_bytes=2**62))
    request = await full.post(form(FILE), X_Job_ID=ID)
    assert request.status == 507
    assert "bytes are free" in request.answer["detail"]
    assert await is_free_again(site)


# --- names


async def test_of_two_requests_of_one_id_at_once_one_is_taken(site: Site) -> None:
    answers = await asyncio.gather(*(site.post(form(FILE), X_Job_ID=ID) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    assert await site.queued() == [ID]
    assert site.content(ID) == VIDEO


async def test_a_request_of_an_id_that_is_being_filled_waits_for_nothing(site: Site) -> None:
    first = site.request(X_Job_ID=ID)
    running = await begun(site, first)
    second = await site.post(form(FILE), X_Job_ID=ID)
    assert (second.status, first.sent) == (409, [])
    first.end(form(FILE, *FIELDS)[-40:])
    await running
    assert first.status == 200


async def test_a_key_replays_the_answer_and_makes_no_second_job(site: Site) -> None:
    first = await site.post(form(FILE, *FIELDS), Idempotency_Key=KEY)
    again = await site.post(form(FILE, *FIELDS), Idempotency_Key=f'"{KEY}"')
    assert (first.status, again.status) == (200, 200)
    assert again.answer == first.answer
    assert await site.queued() == [first.answer["job_id"]]
    assert again.messages.empty()


@pytest.mark.parametrize("rolled_back", [True, False])
async def test_a_replay_sees_to_it_that_the_job_is_known(site: Site, *, rolled_back: bool) -> None:
    first = await site.post(form(FILE, *FIELDS), Idempotency_Key=KEY)
    job_id = first.answer["job_id"]
    await site.redis.delete(schema.OUTBOX)
    if rolled_back:
        key = schema.upload_key(job_id)
        await site.redis.hset(key, mapping={"complete": "0", "offset": "0", "token": "1"})
        await site.redis.hset(schema.job_key(job_id), "state", "uploading")
    else:
        await site.redis.flushall()
    again = await site.post(form(FILE, *FIELDS), Idempotency_Key=KEY)
    assert (again.status, again.answer) == (200, first.answer)
    assert await site.queued() == [job_id]


async def test_a_replay_that_nobody_need_send_is_not_asked_for(site: Site) -> None:
    await site.post(form(FILE), Idempotency_Key=KEY)
    again = site.request(Idempotency_Key=KEY, Expect="100-continue")
    await again.begin()
    assert (again.status, again.reads) == (200, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({}, {"Idempotency_Key": KEY}),
        ({"Idempotency_Key": KEY}, {}),
        ({"Idempotency_Key": KEY}, {"Idempotency_Key": "another key of some length"}),
    ],
)
async def test_an_id_that_is_taken_is_409_without_its_key(
    site: Site, first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert (await site.post(form(FILE), X_Job_ID=ID, **first)).status == 200
    again = await site.post(form(FILE), X_Job_ID=ID, **second)
    assert (again.status, again.answer["status_code"]) == (409, 409)
    same = await site.post(form(FILE), X_Job_ID=ID, **first)
    assert same.status == (200 if first else 409)


async def test_the_id_of_another_upload_is_taken(site: Site) -> None:
    now = time.time()
    paused = Upload(ID, 100, None, now, now + 3600)
    site.uploads.data.create(paused)
    await site.uploads.info.create(paused)
    assert (await site.post(form(FILE), X_Job_ID=ID)).status == 409
    assert (await site.post(form(FILE), X_Job_ID=ID, Idempotency_Key=KEY)).status == 409
    assert site.uploads.data.recover(ID)[0] == paused


async def test_the_id_of_an_upload_that_was_removed_is_taken(site: Site) -> None:
    await site.post(form(FILE), X_Job_ID=ID)
    site.uploads.data.remove(ID)
    assert (await site.post(form(FILE), X_Job_ID=ID)).status == 409
    with pytest.raises(UploadGone):
        site.uploads.data.recover(ID)


async def test_a_server_that_died_while_it_removed_a_form_gives_its_name_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise DiskFailed("killed")

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "purge", die)
        request = await site.post(form(FILE, option("frame_skip", "0")), X_Job_ID=ID)
    assert (request.status, site.files()) == (400, {f"{ID}.log"})
    assert (await site.post(form(FILE), X_Job_ID=ID, Idempotency_Key=KEY)).status == 409
    answers = await asyncio.gather(*(site.post(form(FILE), X_Job_ID=ID) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409]
    assert (site.content(ID), await site.queued()) == (VIDEO, [ID])


@pytest.mark.parametrize("named", [{"X_Job_ID": ID}, {"Idempotency_Key": KEY}])
async def test_what_a_server_left_that_died_gives_its_name_back(
    site: Site, monkeypatch: pytest.MonkeyPatch, named: dict[str, Any]
) -> None:
    async def die(*_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(Filling, "_fill", die)
        with pytest.raises(asyncio.CancelledError):
            await site.post(form(FILE), **named)
    [left] = site.uploads.data.ids()
    again = await site.post(form(FILE), **named)
    assert (again.status, again.answer["job_id"]) == (200, left)
    assert site.content(left) == VIDEO


@pytest.mark.parametrize("error", [UploadGone, UploadNotFound])
async def test_what_somebody_else_removes_just_now_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: type[StorageError]
) -> None:
    async def die(*_: Any) -> None:
        raise asyncio.CancelledError

    def gone(*_: Any) -> bool:
        raise error("this upload was removed")

    with monkeypatch.context() as patched:
        patched.setattr(Filling, "_fill", die)
        with pytest.raises(asyncio.CancelledError):
            await site.post(form(FILE), X_Job_ID=ID)
    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "expire", gone)
        assert (await site.post(form(FILE), X_Job_ID=ID)).status == 409
    assert (await site.post(form(FILE), X_Job_ID=ID)).status == 200


async def test_without_a_name_every_request_is_a_job_of_its_own(site: Site) -> None:
    ids = {(await site.post(form(FILE))).answer["job_id"] for _ in range(2)}
    assert set(await site.queued()) == ids
    assert len(ids) == 2
