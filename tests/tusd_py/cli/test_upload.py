from __future__ import annotations

import json
import os
import signal
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from tests.tusd_py.cli.command import run, start
from tests.tusd_py.cli.tus_server import Fault, TusServer, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 8 * 2**20


@pytest.fixture
def server() -> Iterator[TusServer]:
    with serving() as found:
        yield found


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a video, with a comma.mp4"
    path.write_bytes(os.urandom(CHUNK + 1000))
    return path


def receipts(home: Path) -> list[Path]:
    return list((home / "state" / "tusd-py").glob("*"))


def test_an_upload_arrives_whole_and_its_plates_are_printed(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, "upload", str(video), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert [bytes(stored) for stored in server.uploads.values()] == [video.read_bytes()]
    assert "AB12CDE" in done.stdout
    assert "Plate reader: rapidocr (it was chosen by name)." in done.stdout
    (metadata,) = server.metadata.values()
    assert f"filename {b64encode(video.name.encode()).decode()}" in metadata
    assert f"filetype {b64encode(b'video/mp4').decode()}" in metadata
    assert receipts(tmp_path) == []


def test_progress_goes_to_stderr_and_the_result_to_stdout(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, "upload", str(video), "--json", "--url", server.url)
    document = json.loads(done.stdout)
    assert document["file"] == str(video)
    assert document["status"] == "completed"
    assert document["job_id"] in server.uploads
    assert document["plates"][0]["text"] == "AB12CDE"
    assert "Upload a video, with a comma.mp4: 8.0 MB of 8.0 MB" in done.stderr


def test_a_cut_connection_is_resumed_from_the_servers_offset(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    server.faults["PATCH"] = [Fault(after=2 * 2**20)]
    done = run(tmp_path, "upload", str(video), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert "; resuming at 2.0 MB" in done.stderr
    assert "connection lost at " in done.stderr
    assert [bytes(stored) for stored in server.uploads.values()] == [video.read_bytes()]
    assert server.methods("POST") == ["POST"]


@pytest.mark.parametrize(
    ("method", "status"),
    [("POST", 503), ("HEAD", 423), ("HEAD", 503), ("GET", 502)]
    + [("PATCH", status) for status in (409, 423, 429, 500, 503)],
)
def test_a_passing_refusal_is_tried_again(
    method: str, status: int, server: TusServer, tmp_path: Path
) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"0123456789")
    server.faults[method] = [Fault(status, Retry_After="0")]
    # Without a failure before it there is no HEAD.
    server.faults.setdefault("PATCH", [Fault(after=4)])
    done = run(tmp_path, "upload", str(video), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert f"the server answered {status}" in done.stderr
    assert [bytes(stored) for stored in server.uploads.values()] == [b"0123456789"]


def test_a_refusal_that_stays_is_told_in_the_servers_words(
    server: TusServer, tmp_path: Path
) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    server.faults["POST"] = [Fault(413)]
    done = run(tmp_path, "upload", "v.mp4", "--url", server.url)
    assert done.returncode == 1
    assert done.stdout == "v.mp4: The server answered 413: not now\n"


def test_a_killed_client_goes_on_with_the_same_upload(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    server.hold.clear()
    with start(tmp_path, "upload", str(video), "--url", server.url) as first:
        server.arrived.wait()
        first.kill()
        first.communicate()
    server.hold.set()
    assert len(receipts(tmp_path)) == 1
    done = run(tmp_path, "upload", str(video), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert "continuing the upload of an earlier run; resuming at" in done.stderr
    assert server.methods("POST") == ["POST"]
    assert [bytes(stored) for stored in server.uploads.values()] == [video.read_bytes()]
    assert receipts(tmp_path) == []


def test_an_interrupted_client_says_how_to_go_on(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    server.hold.clear()
    with start(tmp_path, "upload", str(video), "--url", server.url) as first:
        server.arrived.wait()
        first.send_signal(signal.SIGINT)
        _, err = first.communicate()
    assert first.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err


def test_an_upload_the_server_no_longer_has_begins_anew(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    server.jobs = [{"status": "processing", "progress": 0.5, "message": "Processed 5/10 frames"}]
    with start(tmp_path, "upload", str(video), "--url", server.url) as first:
        assert first.stderr is not None
        while "Analysis" not in first.stderr.readline():
            pass
        first.kill()
        first.communicate()
    server.uploads = {"other": bytearray()}
    server.jobs = [{"status": "completed", "progress": 1, "message": "Processed 10/10 frames"}]
    done = run(tmp_path, "upload", str(video), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert "the server no longer has this upload; it begins anew" in done.stderr
    assert bytes(server.uploads.popitem()[1]) == video.read_bytes()


def test_a_damaged_state_file_is_ignored_with_a_note(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    server.hold.clear()
    with start(tmp_path, "upload", str(video), "--url", server.url) as first:
        server.arrived.wait()
        first.kill()
        first.communicate()
    server.hold.set()
    receipts(tmp_path)[0].write_text("{ damaged")
    done = run(tmp_path, "upload", str(video), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert "is damaged and was ignored" in done.stderr
    assert server.methods("POST") == ["POST", "POST"]


def test_two_clients_do_not_send_the_same_file_at_once(
    server: TusServer, video: Path, tmp_path: Path
) -> None:
    server.hold.clear()
    with start(tmp_path, "upload", str(video), "--url", server.url) as first:
        server.arrived.wait()
        second = run(tmp_path, "upload", str(video), "--url", server.url)
        assert second.returncode == 1
        assert "is being sent by another tusd-py" in second.stdout
        server.hold.set()
        first.communicate()
    assert first.returncode == 0


def test_a_server_that_restarts_is_waited_for(video: Path, tmp_path: Path) -> None:
    with serving() as server:
        server.hold.clear()
        port, url = server.server_address[1], server.url
        client = start(tmp_path, "upload", str(video), "--url", url)
        server.arrived.wait()
        server.faults["PATCH"] = [Fault(after=0)] * 100
        server.faults["HEAD"] = [Fault(503)] * 100
        uploads, lengths = server.uploads, server.lengths
        server.hold.set()
    with serving(port) as again:
        again.uploads, again.lengths = uploads, lengths
        _, err = client.communicate()
    assert client.returncode == 0, err
    assert bytes(next(iter(uploads.values()))) == video.read_bytes()


def test_an_unreachable_server_exits_with_4(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    with serving() as server:
        url = server.url
    done = run(tmp_path, "upload", "v.mp4", "--url", url, "--retry-seconds", "0.5")
    assert done.returncode == 4
    assert "the server does not listen" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_failed_job_exits_with_1_and_its_sentence(server: TusServer, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    server.jobs = [{"status": "failed", "progress": 0.0, "message": "File must be a video"}]
    done = run(tmp_path, "upload", "v.mp4", "--url", server.url)
    assert done.returncode == 1
    assert done.stdout == "v.mp4: File must be a video\n"


def test_a_bad_file_does_not_stop_the_rest(server: TusServer, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    (tmp_path / "empty.mp4").write_bytes(b"")
    words = ("nosuch.mp4", ".", "v.mp4", "empty.mp4")
    done = run(tmp_path, "upload", *words, "--json", "--url", server.url)
    assert done.returncode == 1
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["file"] for document in documents] == list(words)
    errors = [document.get("error") for document in documents]
    assert errors == ["no such file", "not a regular file", None, None]
    assert sorted(server.lengths.values()) == [0, 1]


def test_no_wait_tells_the_jobs_url_and_keeps_nothing(server: TusServer, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    done = run(tmp_path, "upload", "v.mp4", "--no-wait", "--url", server.url)
    assert done.returncode == 0
    (name,) = server.uploads
    assert done.stdout.rstrip().endswith(f"/jobs/{name}")
    assert server.methods("GET") == []
    assert receipts(tmp_path) == []


def test_a_name_that_is_no_text_is_sent_and_printed(server: TusServer, tmp_path: Path) -> None:
    (tmp_path / "v\udcff.mp4").write_bytes(b"x")
    done = run(tmp_path, "upload", "v\udcff.mp4", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("v\\udcff.mp4: ")
    assert b64encode("v\ufffd.mp4".encode()).decode() in server.metadata.popitem()[1]


def test_a_url_without_a_path_means_the_servers_files(server: TusServer, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    done = run(tmp_path, "upload", "v.mp4", "--url", server.url.removesuffix("/files/"))
    assert done.returncode == 0, done.stderr


def test_a_url_of_another_kind_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "upload", "v.mp4", "--url", "ftp://example")
    assert done.returncode == 2
    assert "expected http://HOST:PORT/files/, got 'ftp://example'" in done.stderr


@pytest.mark.parametrize("patience", ["nan", "inf", "-1", "soon"])
def test_a_patience_without_an_end_is_refused(patience: str, tmp_path: Path) -> None:
    done = run(tmp_path, "upload", "v.mp4", f"--retry-seconds={patience}")
    assert done.returncode == 2
    assert f"--retry-seconds: expected seconds, 0 or more, got '{patience}'" in done.stderr
