"""What was uploaded comes back over a real connection: whole, in ranges, and only when it may."""

from __future__ import annotations

import base64
import random
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis

from tests.acceptance.process import Server, Site, eventually, new_directory
from tests.acceptance.raw import TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Clip
    from tests.acceptance.process import Process

MIB = 2**20
UNKNOWN = "00000000-0000-4000-8000-000000000000"
BODY = bytes(range(256)) * 4
# More than both ends of a connection keep in hand.
LARGE = random.Random(4).randbytes(16 * MIB)  # noqa: S311  no secret
NAMED = {"filename": "cars.mp4", "filetype": "video/mp4"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def begin_get(tus: Tus, path: str) -> Connection:
    """Ask for a file, and leave it to the caller to read."""
    connection = Connection(tus.port)
    connection.begin("GET", path, {})
    return connection


def test_a_browser_gets_what_was_uploaded(tus: Tus) -> None:
    path = tus.upload(BODY, NAMED)
    answer = tus.request("GET", path)
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"] == 'inline; filename="cars.mp4"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["cache-control"] == "private, no-cache"
    # The offset headers are those of HEAD.
    assert answer.offset == tus.head(path).offset
    assert tus.request("GET", f"{path}/").body == BODY


def test_head_stays_that_of_the_protocol(tus: Tus) -> None:
    path = tus.upload(BODY, NAMED)
    head = tus.head(path)
    assert (head.status, head.offset) == (200, len(BODY))
    assert "content-disposition" not in head.headers
    assert tus.request("HEAD", path).status == 412


def test_a_page_is_saved_and_cannot_act_for_this_origin(tus: Tus) -> None:
    path = tus.upload(b"<script>", {"filename": "x.html", "filetype": "text/html"})
    headers = tus.request("GET", path).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == 'attachment; filename="x.html"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        (b"x\r\nSet-Cookie: a=b", 'attachment; filename="xSet-Cookie: a=b"'),
        (b'../"x', "attachment; filename=\"_x\"; filename*=UTF-8''%22x"),
        (b"\xff", "attachment; filename=\"_\"; filename*=UTF-8''%EF%BF%BD"),
        ("ü".encode(), "attachment; filename=\"_\"; filename*=UTF-8''%C3%BC"),
        (b"y" * 3000, f'attachment; filename="{"y" * 240}"'),
    ],
)
def test_a_hostile_name_stays_in_its_header(tus: Tus, name: bytes, disposition: str) -> None:
    metadata = f"filename {base64.b64encode(name).decode()}"
    headers = {**TUS, "Upload-Length": "0", "Upload-Metadata": metadata}
    path = tus.request("POST", "/files/", headers).headers["location"]
    answer = tus.request("GET", path)
    assert (answer.status, answer.headers["content-disposition"]) == (200, disposition)
    assert "set-cookie" not in answer.headers


def test_ranges_and_what_is_cached(tus: Tus) -> None:
    path = tus.upload(BODY)
    etag = tus.request("GET", path).headers["etag"]
    with Connection(tus.port) as connection:
        part = connection.request("GET", path, {"Range": "bytes=4-7", "If-Range": etag})
        assert (part.status, part.body) == (206, BODY[4:8])
        assert part.headers["content-range"] == f"bytes 4-7/{len(BODY)}"
        whole = connection.request("GET", path, {"Range": "bytes=4-7", "If-Range": '"other"'})
        assert (whole.status, whole.body) == (200, BODY)
        parts = connection.request("GET", path, {"Range": "bytes=0-1,-2"})
        assert parts.status == 206
        assert parts.headers["content-type"].startswith("multipart/byteranges; boundary=")
        assert BODY[-2:] in parts.body
        beyond = connection.request("GET", path, {"Range": f"bytes={len(BODY)}-"})
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(BODY)}")
        same = connection.request("GET", path, {"If-None-Match": f'"x", {etag}'})
        assert (same.status, same.headers["etag"]) == (304, etag)
        # The connection was left as it has to be.
        assert connection.request("GET", path, {}).body == BODY


def test_an_unfinished_upload_is_not_found_and_is_left_in_peace(tus: Tus) -> None:
    path = tus.create(len(BODY))
    assert tus.request("GET", path).status == 404
    with tus.begin_patch(path, 0, len(BODY)) as running:
        running.send(BODY[:100])
        answer = tus.request("GET", path)
        assert (answer.status, answer.json()["status"]) == (404, 404)
        assert answer.headers["content-type"] == "application/problem+json"
        # Nobody has asked it to let go.
        running.send(BODY[100:])
        assert running.receive().status == 204
    assert tus.request("GET", path).body == BODY


@pytest.mark.parametrize(
    "path",
    ["/files/x", f"/files/{UNKNOWN}", "/files/..%2f..%2fetc%2fpasswd", f"/files/{UNKNOWN}.log"],
)
def test_what_was_never_here_is_not_found(tus: Tus, path: str) -> None:
    assert tus.request("GET", path).status == 404


def test_readers_do_not_wait_for_each_other(tus: Tus) -> None:
    path = tus.upload(LARGE)
    with begin_get(tus, path) as one, begin_get(tus, path) as other:
        # The first one is not read from while the others are answered.
        assert other.receive().body == LARGE
        assert tus.request("GET", path, {"Range": "bytes=0-9"}).body == LARGE[:10]
        assert tus.head(path).status == 200
        assert one.receive().body == LARGE


def opened(server: Server, path: str) -> int:
    """Count how often the server has the file of an upload open."""
    count = 0
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        # It may be closed by now.
        with suppress(OSError):
            count += descriptor.readlink().name == path.rpartition("/")[2]
    return count


def test_a_reader_that_stands_still_or_goes_costs_neither_memory_nor_files(site: Site) -> None:
    server = site.serve()
    tus = Tus(server.port)
    path = tus.upload(LARGE)
    before = server.rss_peak()
    with ExitStack() as stack:
        readers = [stack.enter_context(begin_get(tus, path)) for _ in range(8)]
        assert tus.request("GET", path).body == LARGE
        assert server.rss_peak() - before < 16 * MIB
        assert all(reader.receive(head=True).status == 200 for reader in readers)
        assert opened(server, path) >= len(readers)
        for reader in readers:
            reader.reset()
    eventually(lambda: opened(server, path) == 0 or None, "end of the last reader")
    assert "Traceback" not in server.log


def test_what_is_removed_while_it_is_read_is_read_to_its_end_and_then_gone(
    tus: Tus, site: Site, server: Server
) -> None:
    path = tus.upload(LARGE)
    with begin_get(tus, path) as reader:
        # By the time of its first line the file is open.
        assert reader.receive(head=True).status == 200
        assert tus.delete(path).status == 204
        assert not site.stored(path).exists()
        answer = tus.request("GET", path)
        assert (answer.status, answer.headers["content-type"]) == (410, "application/problem+json")
        assert reader._take(len(LARGE)) == LARGE
    assert "Traceback" not in server.log


def test_a_video_that_was_analysed_and_removed_is_gone_while_its_record_stays(
    new_site: Callable[..., Site], clip: Clip
) -> None:
    site = new_site(KEEP_UPLOADS_SECONDS="0")
    tus = Tus(site.serve().port)
    worker: Process = site.work()
    path = tus.upload(clip.content, NAMED)
    assert tus.request("GET", path).body == clip.content
    assert tus.wait_for_job(path)["status"] == "completed", worker.log
    assert tus.request("GET", path).status == 410
    assert tus.offset(path) == len(clip.content)


def test_what_redis_has_lost_is_still_downloaded(new_site: Callable[..., Site]) -> None:
    site = new_site(KEEP_UPLOADS_SECONDS="-1")
    tus = Tus(site.serve().port)
    path = tus.upload(BODY)
    with redis.Redis.from_url(site.redis_url) as client:
        client.flushall()
    assert tus.request("GET", path).body == BODY


def test_without_redis_a_download_is_to_be_tried_again(new_site: Callable[..., Site]) -> None:
    # Nobody listens there.
    tus = Tus(new_site(REDIS_URL="redis://127.0.0.1:1/0").serve().port)
    answer = tus.request("GET", f"/files/{uuid4()}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
