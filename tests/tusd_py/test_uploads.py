"""What carry_out does where something goes wrong between its steps."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from storage import redis_schema as schema
from storage import syncs
from storage.errors import StorageFull, StoreUnavailable, UploadGone
from storage.filestore import FileStore
from storage.job import JobState
from storage.leases import Leases
from storage.redis_info import RedisInfoStore
from storage.redis_locker import RedisLocker
from storage.segments import FileWriter
from storage.upload import PARTIAL, Upload
from tests.storage.slow import SlowDisk
from tusd_py import intake
from tusd_py.call import Call, Uploads
from tusd_py.exchange import BodyEnd
from tusd_py.headers import Headers
from tusd_py.intake import Pace
from tusd_py.origin import Origin
from tusd_py.protocol import Limits, ProtocolError, Response
from tusd_py.resumable import Dialect
from tusd_py.tus import Tus
from tusd_py.uploads import cancel, carry_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from storage.durability import Steps
    from storage.interfaces import Buffer, Sink

pytestmark = pytest.mark.anyio
DAY = 86_400.0
BODY = b"0123456789"
KEY = {"Idempotency-Key": "a key of some length"}
TYPE = {"Content-Type": "application/offset+octet-stream"}
TYPED = {"Content_Type": "application/offset+octet-stream"}
PART = {"Content-Type": "application/partial-upload"}
WHOLE = {"Upload-Complete": "?1", "Upload-Draft-Interop-Version": "8"}


class Spoken:
    """Bring a body that is all here (tusd_py.exchange.Exchange), and keep the answer."""

    most = sys.maxsize

    def __init__(self, headers: Headers, body: bytes, trailer: str | None, end: BodyEnd) -> None:
        self.headers = headers
        self.can_trail = True
        self.trailers = _headers({} if trailer is None else {"Upload-Checksum": trailer})
        self.answer = Response(0)
        self._body = body
        self._end = end

    async def move_body(self, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        del stop
        limit = min(limit, self.most)
        piece, self._body = self._body[:limit], self._body[limit:]
        if not sink.take([piece]):
            sink.write([piece])
        return BodyEnd.MORE if self._body else self._end

    async def interim(self, response: Response) -> None:
        pass

    async def respond(self, response: Response) -> None:
        self.answer = response

    async def cut(self) -> None:
        raise AssertionError


def _headers(named: Mapping[str, str]) -> Headers:
    return Headers((name.lower().encode(), value.encode()) for name, value in named.items())


@dataclass(frozen=True, slots=True)
class Site:
    """All that a request meets, in this process."""

    uploads: Uploads
    redis: Redis

    async def ask(
        self,
        method: str,
        upload_id: str | None,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        trailer: str | None = None,
        end: BodyEnd = BodyEnd.DONE,
    ) -> Response:
        """Carry out one request; without Tus-Resumable it is one of the drafts."""
        given = _headers(headers)
        reach = Origin().of({}, given)
        speaker = Tus(reach) if "tus-resumable" in given else Dialect.of(given)
        exchange = Spoken(given, body, trailer, end)
        try:
            action = speaker.parse(method, upload_id, given)
        except ProtocolError as error:
            pytest.fail(str(error))
        await carry_out(Call(speaker, exchange, reach, action), self.uploads)
        return exchange.answer

    async def tus(
        self, method: str, upload_id: str | None, body: bytes = b"", **named: str
    ) -> Response:
        headers = {"Tus-Resumable": "1.0.0"}
        headers |= {name.replace("_", "-"): value for name, value in named.items()}
        return await self.ask(method, upload_id, headers, body)

    async def upload(self, **fields: Any) -> Upload:
        """Store an upload of 100 bytes, without any."""
        now = time.time()
        upload = replace(Upload(str(uuid4()), 100, None, now, now + DAY), **fields)
        self.uploads.data.create(upload)
        await self.uploads.info.create(upload)
        return upload

    def configured(self, **fields: Any) -> Site:
        return replace(self, uploads=replace(self.uploads, **fields))

    def limited(self, **fields: Any) -> Site:
        return self.configured(limits=replace(self.uploads.limits, **fields))

    def ids(self) -> list[str]:
        """List the uploads that are not removed."""
        return [one for one in self.uploads.data.ids() if not _is_gone(one, self.uploads)]


def _is_gone(upload_id: str, uploads: Uploads) -> bool:
    try:
        uploads.data.recover(upload_id)
    except UploadGone:
        return True
    return False


def _id(answer: Response) -> str:
    return answer.headers["Location"].rpartition("/")[2]


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    data = FileStore(tmp_path)
    data.prepare()
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        leases = Leases(RedisLocker(redis), data)
        limits = Limits(1000, DAY)
        yield Site(Uploads(data, RedisInfoStore(redis), leases, limits, 0, lambda: None), redis)
        await leases.aclose()


async def test_what_a_crash_left_unexamined_is_no_video_all_the_same(site: Site) -> None:
    upload = await site.upload()
    with closing(site.uploads.data.open(upload)) as writer:
        writer.write([b"x" * 100])
        filled = replace(upload, offset=100)
        writer.commit(filled)
    await site.uploads.info.commit(filled, speed=0)
    answer = await site.limited(video=True).tus("HEAD", upload.id)
    assert answer.status == 415
    assert site.ids() == []


async def test_a_final_upload_whose_metadata_tell_no_video_is_refused(site: Site) -> None:
    part = await site.upload(concat=PARTIAL)
    name = base64.b64encode(b"notes.txt").decode()
    answer = await site.limited(video=True).tus(
        "POST", None, Upload_Concat=f"final;/files/{part.id}", Upload_Metadata=f"filename {name}"
    )
    assert answer.status == 415


async def test_a_checksum_behind_a_repeated_body_is_that_of_all_of_it(site: Site) -> None:
    sha1 = base64.b64encode(hashlib.sha1(BODY, usedforsecurity=False).digest()).decode()
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": "100",
        "Transfer-Encoding": "chunked",
        "Trailer": "Upload-Checksum",
        **KEY,
        **TYPE,
    }
    first = await site.ask("POST", None, headers, BODY, trailer=f"sha1 {sha1}")
    again = await site.ask("POST", None, headers, BODY, trailer=f"sha1 {sha1}")
    assert (first.status, again.status) == (201, 201)
    assert again.headers["Upload-Offset"] == "10"
    wrong = await site.ask("POST", None, headers, b"9876543210", trailer=f"sha1 {sha1}x")
    assert wrong.status == 400


async def test_a_repeated_body_shorter_than_what_is_here_completes_nothing(site: Site) -> None:
    headers = {**WHOLE, **KEY, "Transfer-Encoding": "chunked"}
    await site.ask("POST", None, headers, BODY, end=BodyEnd.DISCONNECTED)
    again = await site.ask("POST", None, headers, BODY[:4])
    assert again.status == 409
    [upload_id] = site.ids()
    upload, _ = site.uploads.data.recover(upload_id)
    assert (upload.offset, upload.complete) == (10, False)
    whole = await site.ask("POST", None, headers, BODY + BODY)
    assert (whole.status, whole.headers["Upload-Offset"]) == (201, "20")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 423), ("PATCH", 503), ("DELETE", 503)])
async def test_an_upload_that_redis_forgets_again_and_again_is_not_called_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str, status: int
) -> None:
    upload = await site.upload()
    restore = RedisInfoStore.restore

    async def in_vain(info: RedisInfoStore, *record: Any) -> None:
        await restore(info, *record)
        await site.redis.flushall()

    monkeypatch.setattr(RedisInfoStore, "restore", in_vain)
    await site.redis.flushall()
    answer = await site.tus(method, upload.id, BODY, Upload_Offset="0", **TYPED)
    assert answer.status == status
    keyed = {"Upload_Length": "10", **TYPED, "Idempotency_Key": "a key of some length"}
    assert (await site.tus("POST", None, BODY[:4], **keyed)).status == 201
    await site.redis.flushall()
    # The client shall ask again: there is no upload that it could have asked for in vain.
    assert (await site.tus("POST", None, BODY, **keyed)).status == 503
    missing = await site.tus(method, str(uuid4()), BODY, Upload_Offset="0", **TYPED)
    assert missing.status == 404


async def test_a_creation_that_fills_the_disk_leaves_no_upload(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_: FileWriter, buffers: Sequence[Buffer]) -> None:
        del buffers
        raise StorageFull("the disk has no room left")

    monkeypatch.setattr(FileWriter, "write", fill)
    answer = await site.tus("POST", None, BODY, Upload_Length="100", **TYPE)
    assert answer.status == 507
    assert site.ids() == []


async def test_a_refusal_tells_no_offset_that_was_not_stored(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await site.upload(dialect="ietf")

    def fill(_: FileWriter, upload: Upload) -> None:
        del upload
        raise StorageFull("the disk has no room left")

    monkeypatch.setattr(FileWriter, "committing", fill)
    flags = {**WHOLE, **PART, "Upload-Complete": "?0", "Upload-Offset": "0"}
    answer = await site.ask("PATCH", upload.id, flags, BODY)
    assert (answer.status, answer.headers["Upload-Offset"]) == (507, "0")


async def test_nobody_is_told_what_is_not_on_the_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk()
    monkeypatch.setattr(syncs, "disk", lambda: disk)

    async def goes_on_behind(asking: asyncio.Task[Response], *groups: int) -> Response:
        for group in groups:
            await disk.asks(group)
            assert not asking.done()
            disk.finish()
        return await asking

    creation = asyncio.create_task(site.tus("POST", None, Upload_Length="10"))
    # The journal and the names.
    created = await goes_on_behind(creation, 1)
    assert created.status == 201
    flags = {"Upload_Offset": "0", **TYPED}
    patch = asyncio.create_task(site.tus("PATCH", _id(created), BODY, **flags))
    await disk.asks(2)
    # The data has been written; Redis, which whoever watches is told by, knows nothing of it.
    found = await site.uploads.info.find(_id(created))
    assert found is not None
    assert found.offset == 0
    # The data, then the journal.
    assert (await goes_on_behind(patch, 2, 3)).status == 204
    assert len(disk.asked) == 3


async def test_a_sync_that_fails_takes_the_answer_along_and_the_upload_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await site.upload(length=10)
    disk = SlowDisk()
    flags = {"Upload_Offset": "0", **TYPED}
    with monkeypatch.context() as patched:
        patched.setattr(syncs, "disk", lambda: disk)
        patch = asyncio.create_task(site.tus("PATCH", upload.id, BODY, **flags))
        await disk.asks(1)
        disk.finish(OSError(errno.EIO, "Input/output error"))
        assert (await patch).status == 503
        site.uploads.leases._syncs.close()
    # Nothing of it counts, though the kernel would say by now that all is well.
    assert (await site.tus("HEAD", upload.id)).headers["Upload-Offset"] == "0"
    assert (await site.tus("PATCH", upload.id, BODY, **flags)).status == 204


async def test_a_concatenation_with_a_key_can_be_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = await site.upload(concat=PARTIAL)
    headers = {"Tus-Resumable": "1.0.0", "Upload-Concat": f"final;/files/{part.id}", **KEY}
    with monkeypatch.context() as away:
        away.setattr(RedisInfoStore, "create", _is_away)
        assert (await site.ask("POST", None, headers)).status == 503
    assert (await site.ask("POST", None, headers)).status == 201
    assert len(site.ids()) == 2


async def test_who_watches_sees_what_was_received_before_it_counts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is committed before the end, and every byte is worth a word.
    monkeypatch.setattr(intake, "_LASTING", 1_000.0)
    monkeypatch.setattr(intake, "_STEP", 1)
    monkeypatch.setattr(intake, "_GLANCE", 0.0)
    upload, info = await site.upload(length=len(BODY)), site.uploads.info
    move, seen = Spoken.move_body, []

    async def look(exchange: Spoken, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        deadline = time.monotonic() + 30.0
        while (job := await info.job(upload.id)) and job.done < sink.offset:
            assert time.monotonic() < deadline
        record = await info.find(upload.id)
        assert job is not None
        assert record is not None
        seen.append((job.done, record.offset))
        return await move(exchange, sink, limit, stop)

    monkeypatch.setattr(Spoken, "move_body", look)
    answer = await site.tus("PATCH", upload.id, BODY, Upload_Offset="0", **TYPE)
    assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(len(BODY)))
    assert seen == [(number, 0) for number in range(len(BODY))]


@pytest.mark.parametrize(("rate", "commits"), [(1.0, 10), (1e-6, 1)])
async def test_the_more_bodies_trickle_in_the_more_rarely_each_is_committed(
    site: Site, monkeypatch: pytest.MonkeyPatch, rate: float, commits: int
) -> None:
    offsets = []
    committing = FileWriter.committing

    def count(writer: FileWriter, upload: Upload) -> Steps[None]:
        offsets.append(upload.offset)
        return committing(writer, upload)

    monkeypatch.setattr(FileWriter, "committing", count)
    monkeypatch.setattr(intake, "_LASTING", 0.0)
    # Byte by byte.
    monkeypatch.setattr(Spoken, "most", 1)
    upload = await site.upload(length=len(BODY))
    paced = site.configured(pace=Pace(rate))
    answer = await paced.tus("PATCH", upload.id, BODY, Upload_Offset="0", **TYPE)
    assert (answer.status, len(offsets), offsets[-1]) == (204, commits, len(BODY))


async def test_a_body_that_waits_for_its_commit_does_not_wait_in_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spoken, "most", 4096)
    most, move = 0, Spoken.move_body

    async def look(self: Spoken, sink: Sink, limit: int, stop: asyncio.Event) -> BodyEnd:
        nonlocal most
        assert isinstance(sink, FileWriter)
        end = await move(self, sink, limit, stop)
        most = max(most, sink.held)
        return end

    monkeypatch.setattr(Spoken, "move_body", look)
    upload = await site.upload(length=100_000)
    paced = site.limited(max_size=100_000).configured(pace=Pace(1e-6))
    answer = await paced.tus("PATCH", upload.id, bytes(100_000), Upload_Offset="0", **TYPE)
    assert answer.status == 204
    assert 0 < most < 20_000


async def test_a_creation_with_a_key_that_is_told_again_finds_its_upload_on_a_full_disk(
    site: Site,
) -> None:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "100", **KEY}
    first = await site.ask("POST", None, headers)
    full = site.configured(min_free_bytes=sys.maxsize)
    again = await full.ask("POST", None, headers)
    assert (again.status, _id(again)) == (201, _id(first))
    other = await full.ask(
        "POST", None, {**headers, "Idempotency-Key": "another key of some length"}
    )
    assert other.status == 507


async def test_a_concatenation_with_a_key_that_is_told_again_needs_neither_parts_nor_room(
    site: Site,
) -> None:
    part = await site.upload(concat=PARTIAL, length=10)
    await site.tus("PATCH", part.id, BODY, Upload_Offset="0", **TYPE)
    headers = {"Tus-Resumable": "1.0.0", "Upload-Concat": f"final;/files/{part.id}", **KEY}
    first = await site.ask("POST", None, headers)
    assert (await site.tus("DELETE", part.id)).status == 204
    again = await site.configured(min_free_bytes=sys.maxsize).ask("POST", None, headers)
    assert (again.status, _id(again)) == (201, _id(first))


async def test_a_creation_that_is_told_again_tells_no_offset_of_a_redis_that_was_rolled_back(
    site: Site,
) -> None:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "100", **KEY}
    first = await site.ask("POST", None, {**headers, **TYPE}, BODY)
    await site.uploads.leases.aclose()
    await site.redis.hset(schema.upload_key(_id(first)), mapping={"offset": "4", "token": "0"})
    again = await site.ask("POST", None, headers)
    assert (again.status, again.headers["Upload-Offset"]) == (201, "10")


async def test_a_last_append_that_is_cut_has_said_how_long_the_upload_is(site: Site) -> None:
    upload = await site.upload(dialect="ietf", length=None)
    headers = {**WHOLE, **PART, "Upload-Offset": "0", "Content-Length": "100"}
    await site.ask("PATCH", upload.id, headers, BODY, end=BodyEnd.DISCONNECTED)
    answer = await site.ask("HEAD", upload.id, {"Upload-Draft-Interop-Version": "8"})
    assert (answer.headers["Upload-Offset"], answer.headers["Upload-Length"]) == ("10", "100")


async def _is_away(*_: object) -> None:
    raise StoreUnavailable("Redis does not answer")


async def test_patch_after_redis_was_rolled_back_tells_no_lower_offset(site: Site) -> None:
    upload = await site.upload()
    assert (await site.tus("PATCH", upload.id, BODY, Upload_Offset="0", **TYPE)).status == 204
    site.uploads.leases.stop_all()
    await site.redis.hset(schema.upload_key(upload.id), mapping={"offset": "4", "token": "0"})
    other = site.configured(leases=Leases(RedisLocker(site.redis), site.uploads.data))
    answer = await other.tus("PATCH", upload.id, BODY, Upload_Offset="10", **TYPE)
    assert answer.status == 423
    assert "Upload-Offset" not in answer.headers
    answer = await other.tus("PATCH", upload.id, BODY, Upload_Offset="10", **TYPE)
    assert (answer.status, answer.headers["Upload-Offset"]) == (204, "20")
    await other.uploads.leases.aclose()


@pytest.mark.parametrize("status", [410, 404])
async def test_an_upload_that_is_gone_may_be_answered_as_one_that_never_was(
    site: Site, status: int
) -> None:  # 189
    site = site.limited(gone_as_not_found=status == 404)
    upload = await site.upload(expires_at=1.0)
    patch = {**WHOLE, **PART, "Upload-Offset": "0"}
    answers = [
        await site.tus("HEAD", upload.id),
        await site.tus("PATCH", upload.id, BODY, Upload_Offset="0", **TYPE),
        await site.ask("PATCH", upload.id, patch, BODY),
    ]
    site.uploads.data.remove(upload.id)
    await site.redis.delete(schema.upload_key(upload.id))
    answers.append(await site.tus("DELETE", upload.id))
    assert [answer.status for answer in answers] == [status] * 4
    assert not [answer for answer in answers if "Upload-Offset" in answer.headers]


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"this is no video at all", "File must be a video (mp4, avi, mov, mkv, webm, flv)"),
        (b"\0\0\0\x20ftypisom", None),
        (b"\x89PNG\r\n\x1a\n", None),
    ],
)
async def test_what_will_fail_is_told_while_it_is_uploaded(
    site: Site, monkeypatch: pytest.MonkeyPatch, head: bytes, error: str | None
) -> None:
    monkeypatch.setattr(Spoken, "most", 64)
    monkeypatch.setattr(intake, "_LASTING", 0.0)
    upload = await site.upload(length=1000)
    body = head.ljust(200, b" ")
    answer = await site.tus("PATCH", upload.id, body, Upload_Offset="0", **TYPED)
    assert answer.status == 204
    job = await site.uploads.info.job(upload.id)
    assert job is not None
    assert (job.state, job.error) == (JobState.UPLOADING, error)
    # It is only a warning: all of it is taken.
    rest = bytes(800)
    answer = await site.tus("PATCH", upload.id, rest, Upload_Offset="200", **TYPED)
    assert (answer.status, answer.headers["Upload-Offset"]) == (204, "1000")


@pytest.mark.parametrize("emptied", [False, True])
async def test_a_job_is_cancelled_though_redis_was_rolled_back_or_emptied(
    site: Site, *, emptied: bool
) -> None:
    upload = await site.upload()
    assert (await site.tus("PATCH", upload.id, BODY, Upload_Offset="0", **TYPE)).status == 204
    site.uploads.leases.stop_all()
    if emptied:
        await site.redis.flushall()
    else:
        await site.redis.hset(schema.upload_key(upload.id), mapping={"offset": "4", "token": "0"})
    other = site.configured(leases=Leases(RedisLocker(site.redis), site.uploads.data))
    await cancel(upload.id, other.uploads)
    assert _is_gone(upload.id, site.uploads)
    job = await site.uploads.info.job(upload.id)
    assert job is not None
    assert job.state is JobState.CANCELLED
    await other.uploads.leases.aclose()
