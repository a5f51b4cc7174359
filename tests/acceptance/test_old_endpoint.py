"""The old endpoint as its clients know it: curl, real processes, and whatever ends them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cv2
import numpy as np
import pytest

from tests.acceptance.process import DEADLINE, eventually, unavailable
from tests.acceptance.raw import Connection, Response, Tus
from tests.tusd_py.test_multipart import NAMED, TYPE, form, option, part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.powercut import Disk
    from tests.acceptance.process import Server, Site

MB = 2**20
FRAMES = 10
PATH = "/process/video/upload/async"
HERE = "http://localhost:8000"
UPLOAD = """curl -X POST "http://localhost:8000/process/video/upload/async" \\
  -F "file=@large_video.mp4" \\
  -F "frame_skip=2" \\
  -F "min_confidence=0.3"
"""
ANOTHER = """curl -X POST "http://localhost:8000/process/video/upload/async" \\
  -F "file=@test_200mb.mp4" \\
  -F "frame_skip=5"
"""
JOB = """curl "http://localhost:8000/jobs/550e8400-e29b-41d4-a716-446655440000"
"""
SAMPLE = "550e8400-e29b-41d4-a716-446655440000"
NOT_A_VIDEO = "File must be a video (mp4, avi, mov, mkv, webm, flv)"
# What a video begins with, and enough behind it that it is not all here at the first glance.
VIDEO = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 4096
FILE = part(NAMED, VIDEO)


def curl(server: Server, lines: str, cwd: Path, *more: str) -> Any:
    """Run lines of the document against this server, and return what it answered."""
    if shutil.which("curl") is None:
        unavailable("curl is not on PATH (sudo apt install curl)")
    base = f"http://127.0.0.1:{server.port}"
    typed = shlex.join(["--silent", "--show-error", *more])
    command = ["sh", "-c", f"{lines.replace(HERE, base).rstrip()} {typed}"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def sparse(path: Path, size: int) -> Path:
    """Make a file that begins as a video and has so many bytes."""
    with path.open("wb") as file:
        file.write(VIDEO)
        file.truncate(size)
    return path


def road(path: Path) -> Path:
    """Draw a video that is quick to analyse."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 6.0, (96, 64))
    for index in range(FRAMES):
        writer.write(np.full((64, 96, 3), index * 10, np.uint8))
    writer.release()
    return path


class Sender:
    """Send a form in two goes, by hand."""

    def __init__(self, server: Server, body: bytes, **headers: str) -> None:
        self.job_id = str(uuid4())
        self._connection = Connection(server.port)
        named = {"Content-Type": TYPE, "Content-Length": str(len(body)), "X-Job-ID": self.job_id}
        self._connection.begin("POST", PATH, named | headers)
        self._left = body

    def send(self, size: int | None = None) -> None:
        """Send so much of what is left, or all."""
        piece, self._left = self._left[:size], self._left[size:] if size else b""
        self._connection.send(piece)

    def first(self) -> Response:
        """Return the first answer, an interim one too."""
        return self._connection.receive()

    def answer(self) -> Response:
        with self._connection:
            return self._connection.final()

    def vanish(self) -> None:
        self._connection.reset()


def is_stored(site: Site, job_id: str, size: int) -> bool:
    file = site.uploads / job_id
    return file.exists() and file.stat().st_size >= size


def left(site: Site) -> list[str]:
    """Name what is there of uploads."""
    return sorted(path.name for path in site.uploads.iterdir() if path.name[8:9] == "-")


def begun(server: Server, site: Site, body: bytes) -> Sender:
    """Send most of a form, and wait until the beginning of its file is stored."""
    sender = Sender(server, body)
    sender.send(len(body) - 1000)
    eventually(lambda: is_stored(site, sender.job_id, len(VIDEO) // 2), "bytes")
    return sender


# --- the document's own lines


def test_the_lines_of_the_document_are_answered_word_for_word_and_the_job_runs(
    site: Site, server: Server, tus: Tus, tmp_path: Path
) -> None:
    video = road(tmp_path / "large_video.mp4")
    answer = curl(server, UPLOAD, tmp_path)
    size = video.stat().st_size / MB
    assert answer == {
        "job_id": answer["job_id"],
        "status": "pending",
        "message": f"Video processing job created ({size:.2f}MB uploaded). "
        "Use the job_id to check status.",
        "status_url": f"/jobs/{answer['job_id']}",
    }
    job = curl(server, JOB.replace(SAMPLE, answer["job_id"]), tmp_path)
    assert (job["job_id"], job["status"], job["progress"]) == (answer["job_id"], "pending", 0)
    site.work()
    path = f"/files/{answer['job_id']}"
    job = tus.wait_for_job(path)
    assert job["status"] == "completed", job
    done = rf"Processed {FRAMES}/{FRAMES} frames \(\d unique plates, \d total detections\)"
    assert re.fullmatch(done, job["message"])
    result = tus.result(path)
    # Every second frame was looked at: what the form asked for.
    assert (result["frames"], result["frames_analysed"]) == (FRAMES, FRAMES // 2)
    assert tus.request("GET", path).body == video.read_bytes()


def test_another_form_of_the_document_is_taken_too(
    site: Site, server: Server, tmp_path: Path
) -> None:
    sparse(tmp_path / "test_200mb.mp4", 12 * MB)
    answer = curl(server, ANOTHER, tmp_path)
    assert "(12.00MB uploaded)" in answer["message"]
    assert is_stored(site, answer["job_id"], 12 * MB)


def test_wrong_forms_of_the_document_have_its_answers(
    new_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = new_site(MAX_FILE_SIZE=str(3 * MB))
    server, video = site.serve(), tmp_path / "large_video.mp4"
    for content, status, detail in [
        (b"", 400, "Uploaded file is empty"),
        (b"this is no video" * 99_999, 400, NOT_A_VIDEO),
        (VIDEO * 3, 413, "File too large. Maximum size is 3MB. Current size exceeds limit."),
    ]:
        video.write_bytes(content)
        for more in ((), ("--header", "Transfer-Encoding: chunked")):
            answer = curl(server, UPLOAD, tmp_path, *more)
            assert answer == {"detail": detail, "status_code": status}
    video.write_bytes(VIDEO)
    answer = curl(server, UPLOAD.replace("frame_skip=2", "frame_skip=1001"), tmp_path)
    detail = "frame_skip: expected an integer from 1 to 1000, got '1001'"
    assert answer == {"detail": detail, "status_code": 400}
    assert left(site) == []


@pytest.mark.soak
def test_the_documents_sizes_are_answered_word_for_word(site: Site, tmp_path: Path) -> None:
    server = site.serve()
    sparse(tmp_path / "large_video.mp4", 196 * MB)
    answer = curl(server, UPLOAD, tmp_path)
    assert "(196.00MB uploaded)" in answer["message"]
    assert re.search(r"✓ File uploaded successfully: 196\.00MB in \d+\.\ds \(", server.log)
    assert len(re.findall(r"Upload progress \[[-0-9a-f]{36}\]: Uploading: ", server.log)) >= 39
    sparse(tmp_path / "large_video.mp4", 600 * MB)
    for more in ((), ("--header", "Transfer-Encoding: chunked")):
        answer = curl(server, UPLOAD, tmp_path, *more)
        limit = "File too large. Maximum size is 500MB. Current size exceeds limit."
        assert answer == {"detail": limit, "status_code": 413}
    assert len(left(site)) == len(("the first one's file", "its journal"))


# --- while it runs


def test_who_named_the_job_watches_the_upload(server: Server, tus: Tus) -> None:
    body = form(part(NAMED, VIDEO + bytes(12 * MB - len(VIDEO))), option("frame_skip", "2"))
    sender = Sender(server, body)
    sender.send(6 * MB)
    path = f"/files/{sender.job_id}"

    def shown() -> Any:
        with suppress(AssertionError):
            job = tus.job(path)
            return job if job["progress"] > 0 else None
        return None

    job = eventually(shown, "progress")
    assert job["status"] == "uploading"
    sentence = r"Uploading: \d\.\dMB \(\d\d%\) at \d+\.\dMB/s - ETA: \d+s"
    assert re.fullmatch(sentence, job["message"]), job
    assert re.search(rf"Upload progress \[{sender.job_id}\]: {sentence}", server.log)
    sender.send()
    assert sender.answer().status == 200
    server.wait_for(r"✓ File uploaded successfully: 12\.00MB in \d+\.\ds \(\d+\.\d\dMB/s\)")
    assert tus.job(path)["status"] == "pending"
    # The name of a file may tell a plate.
    assert "cars.mp4" not in server.log


def test_a_head_that_cannot_be_taken_is_answered_before_the_body_is_asked_for(
    server: Server,
) -> None:
    waits = {"Expect": "100-continue"}
    refused = Sender(server, form(FILE), **waits, **{"X-Job-ID": "job-123"})
    assert refused.first().status == 400
    refused.vanish()
    taken = Sender(server, form(FILE), **waits)
    assert taken.first().status == 100
    taken.send()
    assert taken.answer().status == 200


def test_a_form_in_small_chunks_is_taken(server: Server, tus: Tus) -> None:
    body, job_id = form(FILE, option("frame_skip", "2")), str(uuid4())
    with Connection(server.port) as connection:
        headers = {"Content-Type": TYPE, "Transfer-Encoding": "chunked", "X-Job-ID": job_id}
        connection.begin("POST", PATH, headers)
        for start in range(0, len(body), 9973):
            piece = body[start : start + 9973]
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
        assert connection.final().status == 200
    assert tus.request("GET", f"/files/{job_id}").body == VIDEO


# --- whatever ends it, nothing is left


def test_a_client_that_vanishes_leaves_nothing(site: Site, server: Server) -> None:
    sender = begun(server, site, form(FILE))
    sender.vanish()
    eventually(lambda: left(site) == [], "cleaned directory")


def test_a_body_that_stalls_is_given_up(site: Site) -> None:
    server = site.serve(UPLOAD_TIMEOUT_SECONDS="1")
    sender = begun(server, site, form(FILE))
    response = sender.answer()
    assert (response.status, response.json()["status_code"]) == (408, 408)
    assert left(site) == []


def test_a_server_that_is_told_to_end_says_so_and_leaves_nothing(
    site: Site, server: Server
) -> None:
    sender = begun(server, site, form(FILE))
    server.terminate()
    response = sender.answer()
    assert (response.status, response.json()["status_code"]) == (503, 503)
    assert response.headers["retry-after"]
    assert server.wait() == 0
    assert left(site) == []


def test_a_name_is_free_again_when_the_server_was_killed(site: Site, server: Server) -> None:
    sender = begun(server, site, form(FILE))
    server.kill9()
    sender.vanish()
    assert left(site) == [sender.job_id, f"{sender.job_id}.log"]
    server = site.serve()
    again = Sender(server, form(FILE), **{"X-Job-ID": sender.job_id})
    again.send()
    assert again.answer().status == 200
    tus = Tus(server.port)
    assert tus.request("GET", f"/files/{sender.job_id}").body == VIDEO
    assert tus.job(f"/files/{sender.job_id}")["status"] == "pending"


def test_a_form_outlives_a_redis_that_is_killed(site: Site, server: Server, tus: Tus) -> None:
    sender = begun(server, site, form(FILE, option("frame_skip", "7")))
    site.kill_redis()
    sender.send()
    response = sender.answer()
    assert response.status == 200, response
    path = f"/files/{sender.job_id}"
    assert tus.request("GET", path).body == VIDEO
    assert tus.job(path)["options"]["frame_skip"] == 7


def test_a_form_outlives_a_watcher_that_asks_for_its_upload(
    site: Site, server: Server, tus: Tus
) -> None:
    sender = begun(server, site, form(FILE))
    path = f"/files/{sender.job_id}"
    # As a resuming client would ask, which takes the upload over.
    assert [tus.head(path).status for _ in range(3)] == [200] * 3
    sender.send()
    assert sender.answer().status == 200
    assert tus.request("GET", path).body == VIDEO


def test_a_form_whose_job_is_cancelled_is_gone(site: Site, server: Server, tus: Tus) -> None:
    sender = begun(server, site, form(FILE))
    assert tus.request("DELETE", f"/jobs/{sender.job_id}").status == 204
    with suppress(ConnectionError):
        sender.send()
    assert sender.answer().status == 410
    assert left(site) == [f"{sender.job_id}.log"]
    assert tus.job(f"/files/{sender.job_id}")["status"] == "cancelled"


def test_a_disk_that_is_full_is_told_and_gets_its_room_back(
    disk: Disk, new_site: Callable[..., Site]
) -> None:
    site = new_site()
    site.uploads = disk.place / "data"
    server = site.serve()
    before = disk.used
    disk.limit(before + 24 * MB)
    sender = Sender(server, form(part(NAMED, VIDEO * 30)))
    with suppress(ConnectionError):
        sender.send()
    response = sender.answer()
    assert (response.status, response.json()["status_code"]) == (507, 507)
    assert left(site) == []
    disk.limit(2**40)
    again = Sender(server, form(FILE), **{"X-Job-ID": sender.job_id})
    again.send()
    assert again.answer().status == 200


# --- how much memory it takes


def peak_after(site: Site, size: int, chunk_size: int) -> int:
    """Send a form, and return the peak RSS in bytes of the server that took it."""
    server, buffer = site.serve(CHUNK_SIZE=str(chunk_size)), bytes(MB)
    head, tail = form(FILE).split(VIDEO)
    with Connection(server.port) as connection:
        length = len(head) + len(tail) + size
        headers = {"Content-Type": TYPE, "Content-Length": str(length), "Expect": "100-continue"}
        connection.begin("POST", PATH, headers)
        assert connection.receive().status == 100
        connection.send(head + VIDEO)
        for start in range(len(VIDEO), size, MB):
            connection.send(buffer[: size - start])
        connection.send(tail)
        assert connection.final().status == 200
    peak = server.rss_peak()
    server.stop()
    return peak


def test_a_large_form_takes_the_memory_of_a_chunk_and_a_smaller_chunk_less(site: Site) -> None:
    small = peak_after(site, 5 * MB, 64 * 1024)
    assert peak_after(site, 60 * MB, 64 * 1024) - small < 8 * MB
    assert peak_after(site, 60 * MB, 4 * MB) - small > 2 * MB
