"""HTTP itself, by raw bytes against a running server: framing, order, endings (wire notes, 2.3)."""

from __future__ import annotations

import base64
import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import Server, Site, eventually, new_directory
from tests.acceptance.raw import APPEND, TUS, Connection, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = bytes(range(256)) * 4
BURST = 1_500_000
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def head(line: str, fields: dict[str, str], version: str = "1.1") -> bytes:
    lines = [f"{line} HTTP/{version}", "Host: x", *(f"{n}: {v}" for n, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def patch(path: str, **more: str) -> bytes:
    """Return the head of a PATCH that brings all of BODY."""
    fields = {**TUS, **APPEND, "Upload-Offset": "0", "Content-Length": str(len(BODY))}
    return head(f"PATCH {path}", fields | more)


def test_a_patch_and_a_head_in_one_packet_are_answered_in_order(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    asked = head(f"HEAD {path}", TUS)
    with Connection(tus.port) as connection:
        connection.send(asked + patch(path) + BODY + asked)
        before, appended = connection.receive(head=True), connection.receive()
        after = connection.receive(head=True)
    assert [answer.status for answer in (before, appended, after)] == [200, 204, 200]
    assert [answer.offset for answer in (before, appended, after)] == [0, len(BODY), len(BODY)]
    assert site.stored(path).read_bytes() == BODY


@pytest.mark.parametrize("connection_field", [{}, {"Connection": "keep-alive"}])
def test_http_1_0_is_served(tus: Tus, connection_field: dict[str, str]) -> None:
    # Wire case 56; what it expects is ignored.
    path = tus.create(len(BODY))
    fields = {**TUS, **APPEND, "Upload-Offset": "0", "Content-Length": str(len(BODY))}
    fields |= {"Expect": "100-continue", **connection_field}
    with Connection(tus.port) as connection:
        connection.send(head(f"PATCH {path}", fields, "1.0") + BODY)
        assert connection.receive().status == 204


def test_what_java_and_curl_ask_for_is_served_without_http_2(tus: Tus, site: Site) -> None:
    path = tus.create(len(BODY))
    wish = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    with Connection(tus.port) as connection:
        connection.send(patch(path, **wish) + BODY)
        assert connection.receive().status == 204
        # Of a creation with the body in packets of its own.
        created = {**TUS, **APPEND, **wish, **CHUNKED, "Upload-Length": "5"}
        for part in (head("POST /files/", created), b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"):
            connection.send(part)
        answer = connection.receive()
    assert (answer.status, answer.offset) == (201, 5)
    assert site.stored(path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"),  # with Content-Length: wire case 55
        ({"Content-Length": "-5"}, b""),
        ({"Content-Length": "9" * 26}, b""),  # wire case 41
        ({"Transfer-Encoding": "gzip, chunked"}, b""),
        ({"Upload-Offset": "9" * 26}, b""),  # wire case 41
        ({"X": "a\r\nUpload-Offset: 5"}, BODY),  # wire case 42
        ({"X": "a\r\n folded"}, BODY),
        ({"X": "a\0"}, BODY),
        ({"X": "a\r\nHost: y"}, BODY),
    ],
)
def test_a_malformed_append_is_a_400_and_changes_nothing(
    tus: Tus, fields: dict[str, str], body: bytes
) -> None:
    path = tus.create(len(BODY))
    named = {**TUS, **APPEND, "Upload-Offset": "0", "Content-Length": str(len(BODY))}
    with Connection(tus.port) as connection:
        connection.send(head(f"PATCH {path}", named | fields) + body)
        answer = connection.receive()
    assert (answer.status, answer.headers["tus-resumable"]) == (400, "1.0.0")
    assert answer.body
    assert tus.offset(path) == 0


def test_spaces_around_a_value_and_equal_lines_are_taken(tus: Tus) -> None:
    # Wire cases 11 and 39.
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        more = {"Upload-Offset": " \t0 ", "X": "a\r\nTus-Resumable: 1.0.0"}
        connection.send(patch(path, **more) + BODY)
        assert connection.receive().status == 204


def test_whole_chunks_before_a_bad_one_are_kept(tus: Tus) -> None:
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        fields = {**TUS, **APPEND, **CHUNKED, "Upload-Offset": "0"}
        connection.send(head(f"PATCH {path}", fields) + b"100\r\n" + BODY[:256] + b"\r\nzz\r\n")
        assert connection.receive().status == 400
    assert tus.offset(path) == 256


@pytest.mark.parametrize("chunked", [False, True])
def test_all_of_a_burst_before_the_end_is_kept(tus: Tus, *, chunked: bool) -> None:
    # Wire cases 59, 61 and 62.
    path = tus.create(2 * BURST)
    fields = {**TUS, **APPEND, "Upload-Offset": "0"}
    fields |= CHUNKED if chunked else {"Content-Length": str(2 * BURST)}
    burst = b"x" * BURST
    with Connection(tus.port) as connection:
        connection.send(head(f"PATCH {path}", fields))
        connection.send(b"%x\r\n%b\r\n" % (BURST, burst) if chunked else burst)
    # A HEAD that comes before the server has read it all asks the PATCH to let go: only after
    # the end was seen does it tell the whole.
    message = f"({1 / 2:.0%})"
    eventually(lambda: message in tus.job(path)["message"] or None, message)
    assert tus.offset(path) == BURST


def test_a_peer_that_closes_only_its_half_is_answered(tus: Tus) -> None:
    path = tus.create(len(BODY))
    with Connection(tus.port) as connection:
        connection.send(patch(path) + BODY)
        connection.end()
        assert connection.receive().status == 204
        with pytest.raises(ConnectionError):
            connection.receive()


def sha1(body: bytes) -> str:
    return f"sha1 {base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()}"


@pytest.mark.parametrize(("told", "status", "offset"), [(BODY, 204, len(BODY)), (b"else", 460, 0)])
def test_a_checksum_behind_the_body_is_verified(
    tus: Tus, told: bytes, status: int, offset: int
) -> None:
    # Wire case 153.
    path = tus.create(len(BODY))
    fields = {**TUS, **APPEND, **CHUNKED, "Upload-Offset": "0", "Trailer": "Upload-Checksum"}
    trailer = f"Upload-Checksum: {sha1(told)}\r\nUpload-Offset: 9\r\n\r\n".encode()
    with Connection(tus.port) as connection:
        connection.send(head(f"PATCH {path}", fields) + b"400\r\n" + BODY + b"\r\n0\r\n" + trailer)
        assert connection.receive().status == status
    assert tus.offset(path) == offset


def test_a_checksum_before_and_behind_the_body_is_refused(tus: Tus) -> None:
    # Wire case 154.
    path = tus.create(len(BODY))
    fields = {**TUS, **APPEND, **CHUNKED, "Upload-Offset": "0", "Trailer": "Upload-Checksum"}
    with Connection(tus.port) as connection:
        connection.send(head(f"PATCH {path}", fields | {"Upload-Checksum": sha1(BODY)}))
        connection.send(b"400\r\n" + BODY + b"\r\n0\r\nUpload-Checksum: %b\r\n\r\n" % b"sha1 YQ==")
        assert connection.receive().status == 400
    assert tus.offset(path) == 0


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"Content-Length: nonsense\r\n\r\n", 400),
        (b"X: %b" % bytes(100_000), 400),
        (b"X: much\r\n" * 10_000, 431),
    ],
)
def test_a_page_of_another_origin_can_read_why_its_request_is_none(
    tus: Tus, bad: bytes, status: int
) -> None:
    origin = b"Origin: https://page.example\r\n"
    with Connection(tus.port) as connection:
        connection.send(b"POST /files/ HTTP/1.1\r\nHost: x\r\n" + origin + bad)
        answer = connection.receive()
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")
    assert "Tus-Resumable" in answer.headers["access-control-expose-headers"]


def test_an_unfinished_request_of_any_kind_costs_others_nothing(tus: Tus) -> None:
    with Connection(tus.port) as one, Connection(tus.port) as other:
        one.send(b"PATCH /fi")
        other.send(head("POST /files/", {**TUS, "Upload-Length": "5", "Content-Length": "5"}))
        assert tus.post(5).status == 201


def test_a_body_for_a_page_that_is_not_there_is_not_swallowed(tus: Tus) -> None:
    with Connection(tus.port) as connection:
        connection.send(head("POST /elsewhere", {"Content-Length": str(2**40)}) + BODY)
        answer = connection.receive()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        with pytest.raises(ConnectionError):
            connection.receive()


def receive_final(connection: Connection) -> Response:
    while (answer := connection.receive()).status < 200:
        pass
    return answer


def test_a_server_that_stops_cuts_uploads_of_the_ietf_dialect(site: Site) -> None:
    # A phone resumes after a cut; an answer would be the end to it.
    server = site.serve()
    fields = {"Upload-Complete": "?1", "Upload-Draft-Interop-Version": "6", "Content-Length": "900"}
    with Connection(server.port) as connection:
        connection.send(head("POST /files/", fields) + BODY[:100])
        interim = connection.receive()
        assert interim.status == 104
        path = interim.headers["location"]
        server.terminate()
        with pytest.raises(ConnectionError):
            receive_final(connection)
    assert server.wait() == 0
    assert Tus(site.serve().port).offset(path) == 100
