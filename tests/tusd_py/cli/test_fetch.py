from __future__ import annotations

import os
import resource
import socket
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from processing.weights import WeightFile
from tests.tusd_py.cli.file_server import FileServer, serving
from tusd_py.cli import CommandError, Exit
from tusd_py.cli.fetch import fetch, is_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = os.urandom(300_000)
FILE = WeightFile("a.onnx", len(CONTENT), sha256(CONTENT).hexdigest(), "https://example.org/a.onnx")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "origin.onnx"
    path.write_bytes(CONTENT)
    return path


def quiet(_count: int) -> None:
    """Tell nobody."""


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(source: Path | str, folder: Path) -> CommandError:
    """Fetch what cannot be had; another file of the name must stay, and nothing else appear."""
    (folder / FILE.name).write_bytes(b"before")
    with pytest.raises(CommandError) as caught:
        fetch(FILE, source, folder, quiet)
    assert listing(folder) == {FILE.name: b"before"}
    return caught.value


def test_a_file_comes_whole_from_a_server(server: FileServer, folder: Path) -> None:
    server.files["/models/a.onnx"] = CONTENT
    told: list[int] = []
    fetch(FILE, f"{server.url}/a.onnx", folder, told.append)
    assert listing(folder) == {FILE.name: CONTENT}
    assert is_there(FILE, folder)
    assert told == sorted(told)
    assert told[-1] == FILE.size


def test_a_file_comes_whole_from_a_path_and_others_may_read_it(origin: Path, folder: Path) -> None:
    fetch(FILE, origin, folder, quiet)
    assert listing(folder) == {FILE.name: CONTENT}
    # As any file that is made here: the worker may be another user.
    assert (folder / FILE.name).stat().st_mode == origin.stat().st_mode


def test_another_file_of_the_name_is_replaced(origin: Path, folder: Path) -> None:
    (folder / FILE.name).write_bytes(CONTENT[:-1])
    assert not is_there(FILE, folder)
    fetch(FILE, origin, folder, quiet)
    assert listing(folder) == {FILE.name: CONTENT}


def test_a_file_that_differs_in_one_bit_is_not_there(folder: Path) -> None:
    (folder / FILE.name).write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    assert not is_there(FILE, folder)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", f"got 0 bytes with SHA-256 {sha256(b'').hexdigest()}"),
        (CONTENT[:-1], f"got 299999 bytes with SHA-256 {sha256(CONTENT[:-1]).hexdigest()}"),
        (CONTENT[::-1], f"got 300000 bytes with SHA-256 {sha256(CONTENT[::-1]).hexdigest()}"),
        (CONTENT * 3, "got more"),
    ],
    ids=["empty", "short", "other bytes", "long"],
)
def test_what_has_not_the_size_and_hash_is_refused(
    content: bytes, got: str, server: FileServer, folder: Path, origin: Path
) -> None:
    server.files["/models/a.onnx"] = content
    origin.write_bytes(content)
    for source in (f"{server.url}/a.onnx", origin):
        error = refusal(source, folder)
        assert str(error) == (f"{source}: expected 300000 bytes with SHA-256 {FILE.sha256}, {got}")
        assert error.code == Exit.FAILED


def test_a_status_that_is_no_success_is_told(server: FileServer, folder: Path) -> None:
    error = refusal(f"{server.url}/a.onnx", folder)
    assert str(error) == f"{server.url}/a.onnx: the server answered 404 Not Found"
    assert error.code == Exit.FAILED


def test_a_connection_that_breaks_midway_is_told(server: FileServer, folder: Path) -> None:
    server.files["/models/a.onnx"] = CONTENT[:200_000]
    server.missing = 100_000
    error = refusal(f"{server.url}/a.onnx", folder)
    assert str(error) == f"{server.url}/a.onnx: the connection was lost"
    assert error.code == Exit.UNREACHABLE


def test_a_server_that_is_not_there_is_told_without_the_password_of_its_address(
    folder: Path,
) -> None:
    with socket.socket() as bound:
        # Bound but not listening: nobody else gets it, and it refuses.
        bound.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{bound.getsockname()[1]}/a.onnx"
        error = refusal(f"http://user:secret@{place}", folder)
    assert str(error) == f"http://{place}: the server cannot be reached"
    assert error.code == Exit.UNREACHABLE


def test_an_address_that_is_none_is_told(folder: Path) -> None:
    error = refusal("http://host:port/a.onnx", folder)
    assert str(error) == "http://host:port/a.onnx: this is no address that can be asked"


def test_a_path_without_a_file_is_told(folder: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.onnx"
    assert str(refusal(absent, folder)) == f"{absent}: no such file"
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    assert str(refusal(pipe, folder)) == f"{pipe}: expected a file, got something else"


@contextmanager
def full_after(count: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_told(origin: Path, folder: Path) -> None:
    with full_after(200_000):
        error = refusal(origin, folder)
    assert str(error) == f"{folder / FILE.name} cannot be written: File too large"
    assert error.code == Exit.FAILED


def test_what_never_ends_does_not_fill_the_disk(origin: Path, folder: Path) -> None:
    os.truncate(origin, 50_000_000)
    with full_after(400_000):
        error = refusal(origin, folder)
    assert str(error).endswith(", got more")


def test_a_folder_that_has_the_name_is_told(origin: Path, folder: Path) -> None:
    (folder / FILE.name).mkdir()
    with pytest.raises(CommandError, match=r"a\.onnx cannot be written: Is a directory"):
        fetch(FILE, origin, folder, quiet)
    assert [path.name for path in folder.iterdir()] == [FILE.name]


def test_nothing_is_left_of_a_fetch_that_is_interrupted(origin: Path, folder: Path) -> None:
    def interrupt(_count: int) -> None:
        assert len(listing(folder)) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(FILE, origin, folder, interrupt)
    assert listing(folder) == {}
