from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.embedded import Embedded
from tests.tusd_py.cli.command import ROOT, run, start
from tusd_py.cli.demo import CLIP, compare

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

SEEN = {"confidence": 0.9, "first_seen": 0.0, "last_seen": 1.0, "detections": 5}


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a directory with a space whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="tusd demo "))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def noise(home: Path) -> Path:
    """Return a file that is sent like any other and is no video."""
    path = home / "noise.mp4"
    path.write_bytes(os.urandom(600_000))
    return path


def plate(text: str) -> dict[str, object]:
    return {"text": text, **SEEN}


def verdicts(expected: list[str], got: list[str]) -> list[tuple[str, str, str]]:
    rows = compare(expected, [plate(text) for text in got])
    return [(cells[0], cells[1], cells[-1]) for cells in rows]


def test_a_right_reading_is_right() -> None:
    assert verdicts(["AB12CDE"], ["AB12CDE"]) == [("AB12CDE", "AB12CDE", "right")]


def test_a_wrong_reading_stands_beside_what_it_should_be() -> None:
    assert verdicts(["AB12CDE"], ["A812CDE"]) == [("AB12CDE", "A812CDE", "wrong")]


def test_a_plate_that_was_not_read_is_missing() -> None:
    assert verdicts(["AB12CDE"], []) == [("AB12CDE", "-", "missing")]


def test_a_plate_that_is_not_there_is_extra() -> None:
    found = verdicts(["AB12CDE"], ["AB12CDE", "ZZ99XXX"])
    assert found == [("AB12CDE", "AB12CDE", "right"), ("-", "ZZ99XXX", "extra")]


def test_a_plate_read_twice_is_extra_the_second_time() -> None:
    found = verdicts(["AB12CDE"], ["AB12CDE", "AB12CDE"])
    assert [verdict for _, _, verdict in found] == ["right", "extra"]


def nothing_is_left(home: Path) -> bool:
    return not list(home.glob("tusd-py-demo-*"))


def said(process: subprocess.Popen[str], text: str) -> str:
    """Read stdout up to the line that holds the text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.communicate())


@pytest.mark.skipif(not CLIP.is_file(), reason="the bundled clip is not there")
@pytest.mark.timeout(600)
def test_the_demo_cuts_resumes_and_reads_the_plates_of_its_clip(home: Path) -> None:
    done = run(home, "demo", "--once", "--plate-reader", "rapidocr", env={"TMPDIR": str(home)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the connection is cut on purpose" in done.stderr
    assert "; resuming at" in done.stderr
    assert "Plate reader: rapidocr" in done.stdout
    assert "plates of the clip were read right." in done.stdout
    assert nothing_is_left(home)


def test_a_file_that_is_no_video_fails_with_its_sentence(home: Path, noise: Path) -> None:
    done = run(home, "demo", "--once", "--video", noise.name, env={"TMPDIR": str(home)})
    assert done.returncode == 1
    assert "the connection is cut on purpose" in done.stderr
    assert "tusd-py: File must be a video" in done.stderr
    assert "Traceback" not in done.stderr
    assert nothing_is_left(home)


def test_a_directory_that_cannot_be_made_exits_with_3(home: Path, noise: Path) -> None:
    done = run(home, "demo", "--once", "--video", noise.name, "--data", noise.name)
    assert done.returncode == 3
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_without_room_exits_with_3_and_says_what_to_do(home: Path, noise: Path) -> None:
    env = {"TMPDIR": str(home), "MIN_FREE_BYTES": str(2**60)}
    done = run(home, "demo", "--once", "--video", noise.name, env=env)
    assert done.returncode == 3
    assert "make room, or choose another with --data DIR or TMPDIR" in done.stderr
    assert nothing_is_left(home)


def test_a_video_that_is_not_there_is_told(home: Path) -> None:
    done = run(home, "demo", "--once", "--video", "nosuch.mp4")
    assert done.returncode == 1
    assert done.stderr == "tusd-py: nosuch.mp4: no such file\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_demo_is_ended(
    number: signal.Signals, home: Path, noise: Path
) -> None:
    env = {"TMPDIR": str(home)}
    with start(home, "demo", "--once", "--video", noise.name, env=env) as demo:
        said(demo, "Sending")
        (place,) = home.glob("tusd-py-demo-*")
        redis = Embedded(place / "uploads" / "redis").url.removeprefix("unix://")
        demo.send_signal(number)
        # Its children hold these pipes as well: they end when the last of them has.
        _, err = demo.communicate()
    assert demo.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    assert "Traceback" not in err
    assert nothing_is_left(home)
    with pytest.raises(OSError, match="No such file"), socket.socket(socket.AF_UNIX) as one:
        one.connect(redis)


def test_help_is_told_where_the_project_lies_in_a_path_with_spaces(home: Path) -> None:
    for name in ("tusd_py", "storage", "processing"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.py", "worker.py"):
        shutil.copy(ROOT / name, home / name)
    done = run(home, "demo", "--help", env={"PYTHONPATH": str(home)})
    assert done.returncode == 0, done.stderr
