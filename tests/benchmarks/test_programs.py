"""The programs in C: what the load generator takes for wrong, and what bare receivers store."""

from __future__ import annotations

import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from benchmarks.measure import Bench
from benchmarks.programs import LOAD, RECEIVER, CannotBuild, build
from benchmarks.rows import rows
from benchmarks.servers import Kind, Running, bare, bare_asgi, place, started
from tests.acceptance.process import unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CREATED = "201 Created\r\nLocation: /files/1\r\nUpload-Offset: 0"
RIGHT = {
    "POST": f"HTTP/1.1 {CREATED}\r\nContent-Length: 0\r\n\r\n",
    "PATCH": "HTTP/1.1 204 No Content\r\nUpload-Offset: 10240\r\n\r\n",
    "HEAD": "HTTP/1.1 200 OK\r\nUpload-Offset: 0\r\nContent-Length: 9\r\n\r\n",
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both, for the tests alone."""
    if shutil.which("cc") is None:
        unavailable("cc is not on PATH (sudo apt install gcc libc6-dev)")
    directory = tmp_path_factory.mktemp("programs")
    build(LOAD, directory)
    return build(RECEIVER, directory).parent


def load(programs: Path, mode: str, port: int, *words: str) -> dict[str, Any]:
    """Run the load generator on one connection and return what it tells."""
    once = ("--connections", "1", "--seconds", "60", "--most-errors", "1")
    command = [str(programs / "load"), mode, "--port", str(port), *once, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


class FakeServer:
    """Answer each method with the same text, whatever was asked; hang up where there is none."""

    def __init__(self, answers: dict[str, str]) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as requests:
                self._answer(connection, requests)

    def _answer(self, connection: socket.socket, requests: Any) -> None:
        try:
            while line := requests.readline():
                length = 0
                while (field := requests.readline()) not in {b"\r\n", b""}:
                    name, _, value = field.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                requests.read(length)
                answer = self._answers[line.split()[0].decode()].encode()
                connection.sendall(answer)
                if not answer:
                    return
        except OSError:
            # The client left.
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # accept() of the thread would sleep on if it were only closed.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def told_of(programs: Path, mode: str, *words: str, **answers: str) -> dict[str, Any]:
    with FakeServer(RIGHT | answers) as server:
        return load(programs, mode, server.port, *words)


@pytest.mark.parametrize("mode", ["create_patch", "head"])
def test_right_answers_are_operations_and_no_errors(programs: Path, mode: str) -> None:
    told = told_of(programs, mode, "--most", "20")
    assert (told["operations"], told["errors"]) == (20, 0)


def test_interim_answers_are_passed_over(programs: Path) -> None:
    patch = "HTTP/1.1 100 Continue\r\n\r\n" + RIGHT["PATCH"]
    told = told_of(programs, "create_patch", "--most", "20", PATCH=patch)
    assert (told["operations"], told["errors"]) == (20, 0)


def test_answers_in_chunks_are_read_to_their_end(programs: Path) -> None:
    post = f"HTTP/1.1 {CREATED}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    told = told_of(programs, "create_patch", "--most", "20", POST=post)
    assert (told["operations"], told["errors"]) == (20, 0)


@pytest.mark.parametrize(
    ("mode", "method", "answer", "said"),
    [
        ("create_patch", "PATCH", "204 No Content\r\nUpload-Offset: 10239", 'got "10239"'),
        ("create_patch", "PATCH", "204 No Content", 'expected Upload-Offset 10240, got ""'),
        ("create_patch", "PATCH", "200 OK\r\nUpload-Offset: 10240", 'answered "HTTP/1.1 200 OK'),
        ("create_patch", "POST", "201 Created", "no Location"),
        ("create_patch", "POST", "503 Service Unavailable\r\nLocation: /files/1", "503"),
        ("creation_with_upload", "POST", CREATED, "expected Upload-Offset 10240"),
        ("head", "HEAD", "200 OK\r\nUpload-Offset: 1", "expected Upload-Offset 0"),
        ("head", "HEAD", "423 Locked\r\nUpload-Offset: 0", 'answered "HTTP/1.1 423 Locked'),
        ("bytes", "PATCH", "204 No Content\r\nUpload-Offset: 0", 'got "0"'),
    ],
)
def test_a_wrong_answer_is_an_error_and_no_operation(
    programs: Path, mode: str, method: str, answer: str, said: str
) -> None:
    wrong = {method: f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"}
    told = told_of(programs, mode, **wrong)
    assert (told["operations"], told["errors"]) == (0, 1)
    assert said in told["first_error"]


def test_a_connection_that_ends_without_an_answer_is_an_error(programs: Path) -> None:
    told = told_of(programs, "create_patch", POST="")
    assert (told["operations"], told["errors"]) == (0, 1)
    assert "closed the connection" in told["first_error"]


def test_nobody_who_listens_is_an_error(programs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = load(programs, "create_patch", port)
    assert (told["operations"], told["errors"]) == (0, 1)


@pytest.fixture(params=["splice", "recv", "bare-asgi"])
def receiver(request: pytest.FixtureRequest, programs: Path, tmp_path: Path) -> Iterator[Running]:
    way = request.param
    kind = bare_asgi() if way == "bare-asgi" else bare(way, programs / "receiver")
    with place(tmp_path) as below, started([kind], below) as [running]:
        yield running


def ask(port: int, method: str, path: str, body: bytes = b"", offset: int = 0) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Upload-Offset": str(offset)})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return {name.lower(): value for name, value in answer.getheaders()}


def test_a_receiver_stores_what_was_sent(receiver: Running) -> None:
    content = bytes(range(256)) * 20_000
    created = ask(receiver.port, "POST", "/files/", content[:10_000])
    path = created["location"]
    assert created["upload-offset"] == "10000"
    # Large enough for a pipe, then a rest that is not.
    told = ask(receiver.port, "PATCH", path, content[10_000:-5000], 10_000)
    assert told["upload-offset"] == str(len(content) - 5000)
    ask(receiver.port, "PATCH", path, content[-5000:], len(content) - 5000)
    assert ask(receiver.port, "HEAD", path)["upload-offset"] == str(len(content))
    assert receiver.directory is not None
    assert (receiver.directory / "uploads" / path.rpartition("/")[2]).read_bytes() == content


@pytest.mark.parametrize(
    "words",
    [
        ("create_patch", "--most", "50"),
        ("creation_with_upload", "--most", "50"),
        ("head", "--most", "50"),
        ("bytes", "--connections", "3", "--size", "3000000", "--piece", "1000000"),
        ("trickle", "--connections", "20", "--seconds", "1"),
    ],
)
def test_the_load_generator_finds_nothing_wrong_with_a_receiver(
    receiver: Running, programs: Path, words: tuple[str, ...]
) -> None:
    mode, *rest = words
    told = load(programs, mode, receiver.port, *rest)
    assert told["errors"] == 0, told
    assert told["operations"] > 0


def test_a_receiver_is_sent_every_byte_once(receiver: Running, programs: Path) -> None:
    words = ("--connections", "3", "--size", "3000000", "--piece", "1000000")
    assert load(programs, "bytes", receiver.port, *words)["bytes"] == 9_000_000
    assert receiver.directory is not None
    stored = [path.read_bytes() for path in (receiver.directory / "uploads").iterdir()]
    assert [len(content) for content in stored] == [3_000_000] * 3
    assert len(set(stored)) == 1
    assert b"\0" * 64 not in stored[0]


def test_what_was_measured_is_cut_and_a_journal_is_kept(receiver: Running) -> None:
    path = ask(receiver.port, "POST", "/files/", b"v" * 100_000)["location"]
    assert receiver.directory is not None
    uploads = receiver.directory / "uploads"
    (uploads / "upload.log").write_text("one line")
    receiver.clear()
    assert (uploads / path.rpartition("/")[2]).stat().st_size == 0
    assert (uploads / "upload.log").read_text() == "one line"


def test_what_a_server_removes_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    for name in ("record.tmp", "upload"):
        (uploads / name).write_bytes(b"v" * 100_000)
    scan = os.scandir

    def scan_and_remove(path: Path) -> list[os.DirEntry[str]]:
        found = list(scan(path))
        (uploads / "record.tmp").unlink()
        return found

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    Running(Kind("there", ()), 1, os.getpid(), tmp_path).clear()
    assert (uploads / "upload").stat().st_size == 0


def test_a_server_that_keeps_the_client_waiting_is_an_error_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    hangs = tmp_path / "load"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    [row] = [row for row in rows() if row.name == "head_16"]
    said: list[str] = []
    bench = Bench(hangs, [], [row], tmp_path, math.inf, said.append, patience=0.1)
    figures = bench.once(Running(Kind("silent", ()), 1), row, 0)
    assert figures.told["errors"] == 1
    assert "1 errors" in said[0]


def test_without_a_compiler_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuild, match="there is no cc on PATH"):
        build(LOAD, tmp_path)
