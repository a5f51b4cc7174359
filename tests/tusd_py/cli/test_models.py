from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from processing import weights
from processing.weights import MODELS
from tests.tusd_py.cli.command import ROOT, run, start
from tests.tusd_py.cli.file_server import FileServer, serving
from tusd_py.cli import Exit, models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = [model.name for model in MODELS]
FILES = [file for model in MODELS for file in model.files]
DETECTOR = FILES[0]
EXAMPLE = "https://host/models"
DEADLINE = 60
EVALUATED = ROOT.parent / "shared" / "models"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as found:
        yield found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Let the known models be of random bytes, run in this process; return their contents."""
    contents = {file.name: os.urandom(1000) for file in FILES}
    known = tuple(
        replace(
            model,
            files=tuple(
                replace(file, size=1000, sha256=sha256(contents[file.name]).hexdigest())
                for file in model.files
            ),
        )
        for model in MODELS
    )
    monkeypatch.setattr(weights, "MODELS", known)
    # Its handlers would stay in this process.
    monkeypatch.setattr(models, "stop_on", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return contents


def laid(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_model_is_listed_with_what_has_to_be_known_of_it(tmp_path: Path) -> None:
    done = run(tmp_path, "models", "list")
    assert done.returncode == 0, done.stderr
    for model in MODELS:
        assert f"{model.name}: {model.task}, {model.licence}, {model.origin}\n" in done.stdout
    for file in FILES:
        assert f"{file.size} bytes, SHA-256 {file.sha256}\n    {file.url}\n" in done.stdout


def test_programs_get_the_list_as_json_with_what_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / DETECTOR.name).write_bytes(b"another")
    done = run(tmp_path, "models", "list", "--json", env={"ALPR_MODEL_DIR": str(tmp_path)})
    detector, reader = (json.loads(line) for line in done.stdout.splitlines())
    assert (detector["name"], detector["licence"]) == (NAMES[0], "MIT")
    (file,) = detector["files"]
    assert (file["sha256"], file["size"]) == (DETECTOR.sha256, DETECTOR.size)
    assert file["state"] == "another"
    assert [file["state"] for file in reader["files"]] == ["missing", "missing"]


def test_all_come_from_a_folder_into_one_that_is_made(
    drawn: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = laid(tmp_path / "stick", drawn)
    assert models.main(["fetch", "--from", str(mirror), "--into", "deep/models"]) == Exit.OK
    assert listing(tmp_path / "deep/models") == drawn
    said = capsys.readouterr().out
    assert all(f"deep/models/{name}: fetched, 1000 bytes" in said for name in drawn)
    models.main(["list", "--into", "deep/models"])
    assert capsys.readouterr().out.count(": there, whole and right\n") == 3


def test_those_that_are_named_come_from_a_mirror_into_the_folder_of_the_setting(
    drawn: dict[str, bytes],
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ALPR_MODEL_DIR", "models")
    server.files = {f"/models/{name}": content for name, content in drawn.items()}
    assert models.main(["fetch", NAMES[0], "--from", f"{server.url}/"]) == Exit.OK
    assert listing(tmp_path / "models") == {DETECTOR.name: drawn[DETECTOR.name]}
    assert server.requests == [f"/models/{DETECTOR.name}"]
    said = capsys.readouterr().out
    assert "PLATE_READER=auto does not take alpr yet: there is no cct_*_global.onnx" in said


def test_a_right_file_is_left_alone_and_a_damaged_one_replaced(
    drawn: dict[str, bytes], server: FileServer, tmp_path: Path
) -> None:
    folder = laid(tmp_path / "models", drawn | {DETECTOR.name: b"damaged"})
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    server.files = {f"/models/{name}": content for name, content in drawn.items()}
    for _ in range(2):
        assert models.main(["fetch", "--from", server.url, "--into", str(folder)]) == Exit.OK
    assert listing(folder) == drawn
    assert server.requests == [f"/models/{DETECTOR.name}"]
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert {name for name in drawn if after[name] != before[name]} == {DETECTOR.name}


def test_a_failure_is_a_sentence_and_leaves_nothing_half(
    server: FileServer, tmp_path: Path
) -> None:
    server.files = {f"/models/{file.name}": b"<html>Log in</html>" for file in FILES}
    done = run(
        tmp_path,
        *("models", "fetch", "--from", server.url, "--into", "models"),
        env={"no_proxy": "*"},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"tusd-py: {server.url}/{DETECTOR.name}: expected {DETECTOR.size} bytes with SHA-256"
        f" {DETECTOR.sha256}, got 19 bytes with SHA-256"
        f" {sha256(b'<html>Log in</html>').hexdigest()}"
    )
    assert "Traceback" not in done.stderr
    assert listing(tmp_path / "models") == {}


def test_nothing_is_left_of_a_fetch_that_is_told_to_end(server: FileServer, tmp_path: Path) -> None:
    server.files = {f"/models/{DETECTOR.name}": os.urandom(200_000)}
    server.missing = DETECTOR.size - 200_000
    server.let_go.clear()
    words = ("models", "fetch", "--from", server.url, "--into", "models")
    with start(tmp_path, *words, env={"no_proxy": "*"}) as process:
        deadline = time.monotonic() + DEADLINE
        while not list((tmp_path / "models").glob(".*.part")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert listing(tmp_path / "models") == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fetch",), "Where to? Give --into DIR or set ALPR_MODEL_DIR"),
        (("fetch", "yolo", "--into", "m"), f"NAME: expected one of {', '.join(NAMES)}, got 'yolo'"),
        (("list", "yolo"), f"NAME: expected one of {', '.join(NAMES)}, got 'yolo'"),
        *(
            (
                ("fetch", "--into", "m", "--from", origin),
                f"--from: expected a folder, or an address such as {EXAMPLE}, got {origin!r}",
            )
            for origin in (
                "",
                "absent",
                "ftp://host/m",
                "file:///m",
                "http://",
                "http://[",
                "http://a?b",
            )
        ),
        (("burn",), "invalid choice: 'burn'"),
    ],
)
def test_what_is_wrong_with_the_command_is_told_and_nothing_made(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "models", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not EVALUATED.is_dir(), reason="the weights are not beside this checkout")
def test_after_a_fetch_auto_takes_alpr(tmp_path: Path) -> None:
    pytest.importorskip("open_image_models")
    pytest.importorskip("fast_plate_ocr")
    words = ("models", "fetch", "--from", str(EVALUATED), "--into", "models")
    done = run(tmp_path, *words, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "With ALPR_MODEL_DIR=models PLATE_READER=auto takes alpr:"
        f" {DETECTOR.name} and {FILES[1].name}."
    )
    assert sorted(listing(tmp_path / "models")) == sorted(file.name for file in FILES)
