"""Clients that cannot run here, as they behave on the wire; and curl, which can.

What each does is read in its source, or seen on the wire: TUSKit and URLSession of iOS 17 and
newer, tus-java-client (Android's too). No one of them has a header, a retry or an order of its own
here that it does not have there.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.acceptance.process import Server, Site, eventually, new_directory, unavailable
from tests.acceptance.raw import APPEND, TUS, Connection, Response, Tus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 2**20
CONTENT = random.Random(6).randbytes(MIB)  # noqa: S311  cheap content, no secret
TUSKIT = {"TUS-Resumable": "1.0.0"}
INTEROP_6 = {"Upload-Draft-Interop-Version": "6"}
# What iOS adds to every upload task.
IOS = INTEROP_6 | {"Upload-Complete": "?1"}
JAVA = {
    "X-HTTP-Method-Override": "PATCH",
    "Expect": "100-continue",
    "Transfer-Encoding": "chunked",
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        (site.directory / "source.bin").write_bytes(CONTENT)
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def path_of(response: Response) -> str:
    return urlsplit(response.headers["location"]).path


def assert_whole(tus: Tus, path: str) -> None:
    download = tus.request("GET", path).body
    assert hashlib.sha256(download).digest() == hashlib.sha256(CONTENT).digest()
    assert tus.job(path)["status"] == "pending"


def counted(tus: Tus, path: str, count: int) -> None:
    """Wait until the server has so many bytes, without disturbing who sends them."""
    share = count / len(CONTENT)
    eventually(lambda: tus.job(path)["progress"] >= share - 1e-3 or None, f"{count} bytes")


class TusKit:
    """TUSKit: tus, sent by a background upload task to which iOS adds the draft's headers."""

    def __init__(self, port: int) -> None:
        self._port = port

    def create(self) -> str:
        metadata = "filename c291cmNlLmJpbg==,filetype dmlkZW8vbXA0"
        length = {"Upload-Length": str(len(CONTENT)), "Upload-Extension": "creation"}
        with Connection(self._port) as connection:
            headers = {**TUSKIT, **length, "Upload-Metadata": metadata}
            answer = connection.request("POST", "/files/", headers)
        assert answer.status == 201, answer
        return path_of(answer)

    def offset(self, path: str) -> int:
        """Ask where it stands; without a length, or with another one, the client gives up."""
        with Connection(self._port) as connection:
            answer = connection.request("HEAD", path, TUSKIT)
        assert answer.status == 200, answer
        assert answer.headers["upload-length"] == str(len(CONTENT))
        return answer.offset

    def begin(self, path: str, offset: int) -> Connection:
        """Begin to send the rest of the file."""
        connection = Connection(self._port)
        at = {"Upload-Offset": str(offset), "Content-Length": str(len(CONTENT) - offset)}
        connection.begin("PATCH", path, {**TUSKIT, **APPEND, **at, **IOS})
        return connection


def test_tuskit_speaks_tus_whatever_ios_adds_and_resumes(server: Server, tus: Tus) -> None:
    client = TusKit(server.port)
    path = client.create()
    with client.begin(path, 0) as connection:
        connection.send(CONTENT[: MIB // 2])
        counted(tus, path, MIB // 2)
    offset = client.offset(path)
    assert offset == MIB // 2
    with client.begin(path, offset) as connection:
        connection.send(CONTENT[offset:])
        # No 104 before it: that would be the other dialect's.
        answer = connection.receive()
    assert (answer.status, answer.offset) == (204, len(CONTENT))
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert "upload-complete" not in answer.headers
    assert_whole(tus, path)


def test_tuskit_that_is_wrong_of_the_offset_is_told_it_and_goes_on(
    server: Server, tus: Tus
) -> None:
    client = TusKit(server.port)
    path = client.create()
    with client.begin(path, 0) as connection:
        connection.send(CONTENT[:1000])
        counted(tus, path, 1000)
        assert client.offset(path) == 1000
    with client.begin(path, 0) as connection:
        answer = connection.receive()
    # It looks at this header alone, and not at the status.
    assert (answer.status, answer.offset) == (409, 1000)
    with client.begin(path, answer.offset) as connection:
        connection.send(CONTENT[answer.offset :])
        assert connection.receive().offset == len(CONTENT)
    assert_whole(tus, path)


class UrlSession:
    """An upload task of iOS itself: the draft with interop version 6."""

    def __init__(self, port: int) -> None:
        self._port = port

    def begin(self) -> tuple[Connection, str]:
        """Begin to send the file; return the connection and what can be resumed."""
        connection = Connection(self._port)
        kind = {"Content-Type": "video/mp4", "Content-Length": str(len(CONTENT))}
        connection.begin("POST", "/files/", {**INTEROP_6, "Upload-Complete": "?1", **kind})
        interim = connection.receive()
        # Without it there is nothing to resume: rufh-implementations, issue 9.
        assert interim.status == 104, interim
        assert interim.headers["upload-draft-interop-version"] == "6"
        return connection, path_of(interim)

    def resume(self, path: str) -> Response:
        """Ask for the offset, send the rest, and hand the final response to the app."""
        with Connection(self._port) as connection:
            stands = connection.request("HEAD", path, INTEROP_6)
        assert stands.status == 204, stands
        assert stands.headers["upload-complete"] == "?0"
        rest = CONTENT[stands.offset :]
        kind = {"Content-Type": "application/partial-upload", "Content-Length": str(len(rest))}
        at = {"Upload-Offset": str(stands.offset), "Upload-Complete": "?1"}
        with Connection(self._port) as connection:
            connection.begin("PATCH", path, {**INTEROP_6, **kind, **at})
            connection.send(rest)
            return connection.final()


def assert_job_is_answered(tus: Tus, answer: Response, path: str) -> None:
    assert (answer.status, answer.headers["upload-complete"]) == (201, "?1")
    assert answer.json()["job_id"] == path.rpartition("/")[2]
    assert_whole(tus, path)


def test_an_upload_task_of_ios_sends_a_file_in_one_request_and_gets_its_job(
    server: Server, tus: Tus
) -> None:
    connection, path = UrlSession(server.port).begin()
    with connection:
        connection.send(CONTENT)
        answer = connection.final()
    assert path_of(answer) == path
    assert_job_is_answered(tus, answer, path)


@pytest.mark.parametrize("cut", ["close", "reset"])
def test_an_upload_task_of_ios_that_lost_its_connection_resumes_and_gets_its_job(
    server: Server, tus: Tus, cut: str
) -> None:
    client = UrlSession(server.port)
    connection, path = client.begin()
    connection.send(CONTENT[: MIB // 3])
    counted(tus, path, MIB // 3)
    getattr(connection, cut)()
    assert_job_is_answered(tus, client.resume(path), path)


def test_an_upload_task_of_ios_whose_connection_hangs_resumes_on_another_one(
    server: Server, tus: Tus
) -> None:
    client = UrlSession(server.port)
    connection, path = client.begin()
    with connection:
        connection.send(CONTENT[: MIB // 3])
        counted(tus, path, MIB // 3)
        assert_job_is_answered(tus, client.resume(path), path)


class JavaClient:
    """tus-java-client: chunked bodies that wait for 100, one request a piece, POST for PATCH."""

    def __init__(self, port: int, piece: int) -> None:
        self._port = port
        self._piece = piece

    def create(self) -> str:
        with Connection(self._port) as connection:
            length = {"Upload-Length": str(len(CONTENT))}
            answer = connection.request("POST", "/files/", {**TUS, **length})
        assert 200 <= answer.status < 300, answer
        return path_of(answer)

    def offset(self, path: str) -> int:
        with Connection(self._port) as connection:
            answer = connection.request("HEAD", path, TUS)
        assert 200 <= answer.status < 300, answer
        return answer.offset

    def begin(self, path: str, offset: int) -> Connection:
        """Ask whether a piece may be sent."""
        connection = Connection(self._port)
        at = {"Upload-Offset": str(offset)}
        connection.begin("POST", path, {**TUS, **JAVA, **APPEND, **at})
        return connection

    def send(self, path: str, offset: int) -> int:
        """Send a piece, and return the offset, which has to be behind it."""
        with self.begin(path, offset) as connection:
            answer = connection.receive()
            assert answer.status == 100, answer
            piece = CONTENT[offset : offset + self._piece]
            for start in range(0, len(piece), 64 * 1024):
                self.chunk(connection, piece[start : start + 64 * 1024])
            self.chunk(connection, b"")
            answer = connection.receive()
        assert 200 <= answer.status < 300, answer
        assert answer.offset == offset + len(piece)
        return answer.offset

    @staticmethod
    def chunk(connection: Connection, data: bytes) -> None:
        connection.send(b"%x\r\n%b\r\n" % (len(data), data))


def test_tus_java_client_sends_a_file_in_pieces(server: Server, tus: Tus) -> None:
    client = JavaClient(server.port, 400_000)
    path, offset = client.create(), 0
    while offset < len(CONTENT):
        offset = client.send(path, offset)
    assert_whole(tus, path)


def test_tus_java_client_resumes_a_piece_that_was_cut(server: Server, tus: Tus) -> None:
    client = JavaClient(server.port, MIB)
    path = client.create()
    with client.begin(path, 0) as connection:
        assert connection.receive().status == 100
        client.chunk(connection, CONTENT[:300_000])
        counted(tus, path, 300_000)
    offset = client.offset(path)
    assert offset == 300_000
    assert client.send(path, offset) == len(CONTENT)
    assert_whole(tus, path)


def test_tus_java_client_is_refused_before_it_has_sent_anything(server: Server, tus: Tus) -> None:
    client = JavaClient(server.port, MIB)
    path = client.create()
    with client.begin(path, 7) as connection:
        answer = connection.receive()
    assert (answer.status, answer.offset) == (409, 0)
    assert tus.offset(path) == 0


def curl(url: str, *words: str | Path) -> tuple[list[int], str]:
    """Run curl as a person would; return the statuses that it printed, and all of it."""
    command = shutil.which("curl")
    if command is None:
        unavailable("curl is not on PATH (sudo apt install curl)")
    done = subprocess.run(
        [str(command), "-i", "--silent", "--show-error", url, *words],
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode().replace("\r\n", "\n")
    return [int(found) for found in re.findall(r"(?m)^HTTP/1\.1 (\d+)", text)], text


def test_curl_sends_a_file_in_one_request_sees_where_it_is_and_gets_its_job(
    site: Site, server: Server, tus: Tus
) -> None:
    file = f"@{site.directory / 'source.bin'}"
    version = ("-H", "Upload-Draft-Interop-Version: 8")
    statuses, text = curl(server.url, "-H", "Upload-Complete: ?1", *version, "--data-binary", file)
    assert statuses[0] in {100, 104}
    assert 104 in statuses
    assert statuses[-1] == 201
    [path] = {urlsplit(found).path for found in re.findall(r"(?mi)^location: (\S+)", text)}
    assert json.loads(text.rpartition("\n\n")[2])["job_id"] == path.rpartition("/")[2]
    assert_whole(tus, path)


def test_curl_goes_on_by_hand(site: Site, server: Server, tus: Tus) -> None:
    first, second = site.directory / "first.bin", site.directory / "second.bin"
    first.write_bytes(CONTENT[:500_000])
    second.write_bytes(CONTENT[500_000:])
    version = ("-H", "Upload-Draft-Interop-Version: 8")
    more = ("-H", "Upload-Complete: ?0", *version)
    _, text = curl(server.url, *more, "--data-binary", f"@{first}")
    found = re.search(r"(?mi)^location: (\S+)", text)
    assert found, text
    path = urlsplit(found[1]).path
    url = f"http://127.0.0.1:{server.port}{path}"
    statuses, text = curl(url, *version, "--head")
    assert statuses == [204]
    assert re.search(r"(?mi)^upload-offset: 500000$", text)
    statuses, text = curl(
        url,
        *("-X", "PATCH", "-H", "Upload-Offset: 500000", "-H", "Upload-Complete: ?1", *version),
        *("-H", "Content-Type: application/partial-upload", "--data-binary", f"@{second}"),
    )
    assert statuses[-1] == 201, text
    assert_whole(tus, path)
