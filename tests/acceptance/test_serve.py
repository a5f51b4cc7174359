"""What `serve` promises beside the protocol: what it needs, what it survives, how it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from storage.embedded import _find_server
from tests.acceptance.process import Process, Server, Site, eventually, wait_until_let_go
from tests.acceptance.raw import APPEND, TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 2**20
NO_VIDEO = "File must be a video (mp4, avi, mov, mkv, webm, flv)"
# The command itself, and after its end what it has loaded.
SERVE_AND_TELL = """
import sys
from tusd_py.__main__ import main
code = main(["serve"])
print("loaded:", *sorted(name for name in sys.modules if sys.modules[name]), flush=True)
sys.exit(code)
"""
# Not installed as far as `serve` is concerned.
LEFT_OUT = {"rich", "watchfiles"}
VISION = {"cv2", "numpy", "onnxruntime", "torch", "rapidocr", "easyocr", "processing.pipeline"}


@contextmanager
def redis_at(path: Path) -> Iterator[None]:
    """Run a Redis of its own at a Unix socket: nobody else can take it, as they can a port."""
    words = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(path.parent)]
    with subprocess.Popen([_find_server(), *words], stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_serve_loads_no_computer_vision_through_a_whole_upload_and_its_job(site: Site) -> None:
    command = [sys.executable, "-c", SERVE_AND_TELL]
    server = site.run_python("serve", command, kind=Server, PORT="0").listen()
    tus = Tus(server.port)
    upload = tus.upload(b"no video")
    worker = site.work()
    assert tus.wait_for_job(upload)["message"] == NO_VIDEO
    assert tus.request("GET", "/ready").json()["workers"] == 1
    worker.stop()
    server.terminate()
    assert server.wait() == 0
    loaded = set(server.wait_for(r"(?m)^loaded: (.*)$")[1].split())
    assert {"tusd_py.uploads", "storage.redis_jobs", "rq"} <= loaded
    assert not loaded & (VISION | LEFT_OUT)


def test_without_a_worker_an_upload_ends_pending_and_a_worker_that_comes_completes_it(
    site: Site, tus: Tus
) -> None:
    upload = tus.upload(b"no video")
    job = tus.wait_for_job(upload, "pending")
    assert (job["progress"], job["message"]) == (
        0.0,
        "Upload complete (0.00MB), waiting for a worker",
    )
    ready = tus.request("GET", "/ready")
    assert (ready.status, ready.json()["workers"]) == (200, 0)
    site.work()
    assert tus.wait_for_job(upload)["status"] == "failed"


def test_a_worker_whose_reader_cannot_run_says_so_before_there_is_a_job(site: Site) -> None:
    site.serve()
    worker = site.work(PLATE_READER="builtin", PLATE_MODEL_DIR=str(site.directory))
    found = worker.wait_for(r"worker\.no_reader +reason=(.*)")
    assert "needs plate-recogniser.onnx in PLATE_MODEL_DIR" in found[1]


def test_without_its_redis_serve_stays_up_answers_503_and_works_when_that_comes(
    site: Site, new_site: Callable[..., Site]
) -> None:
    own = site.directory / "own.sock"
    server = new_site(REDIS_URL=f"unix://{own}").serve()
    tus = Tus(server.port)
    unknown = "/files/00000000-0000-4000-8000-000000000000"
    assert tus.request("GET", "/health").status == 200
    assert tus.request("GET", "/ready").status == 503
    created = tus.post(5)
    assert created.status == 503
    assert int(created.headers["retry-after"]) > 0
    assert tus.head(unknown).status == 423
    with redis_at(own):
        eventually(lambda: tus.request("GET", "/ready").status == 200, "readiness")
        assert tus.head(unknown).status == 404
        upload = tus.upload(b"bytes")
        assert tus.wait_for_job(upload, "pending")
        assert tus.offset(upload) == 5
    assert tus.head(upload).status == 423
    assert server.running


def test_what_lies_in_a_directory_that_is_not_mounted_is_neither_lost_nor_begun_anew(
    site: Site, server: Server
) -> None:
    tus = Tus(server.port)
    upload = tus.create(10)
    assert tus.patch(upload, 0, b"hello").offset == 5
    wait_until_let_go(site.stored(upload))
    away = site.uploads.rename(site.directory / "away")
    site.uploads.mkdir()
    answers = [
        tus.head(upload),
        tus.patch(upload, 5, b"world"),
        tus.delete(upload),
        tus.post(10),
        tus.request("GET", "/ready"),
    ]
    put_there = [*site.uploads.iterdir()]
    # Back before anything is claimed: the private Redis ends where it began.
    shutil.rmtree(site.uploads)
    away.rename(site.uploads)
    assert [answer.status for answer in answers] == [423, 503, 503, 503, 503]
    assert put_there == []
    assert tus.offset(upload) == 5
    assert tus.patch(upload, 5, b"world").offset == 10
    assert site.stored(upload).read_bytes() == b"helloworld"


def test_sigterm_ends_a_server_with_an_open_patch_whose_client_is_told_to_go_on(
    site: Site, server: Server
) -> None:
    tus = Tus(server.port)
    upload = tus.create(3 * MIB)
    with tus.begin_patch(upload, 0, 3 * MIB) as stalled:
        stalled.send(bytes(MIB))
        tus.wait_for_job(upload, "uploading", more_than=0)
        stalled.send(bytes(1000))
        server.terminate()
        answer = stalled.receive()
        assert answer.status in {423, 503}
        assert MIB <= answer.offset <= MIB + 1000
    assert server.wait() == 0
    server = site.serve(port=server.port)
    assert tus.offset(upload) == answer.offset
    rest = bytes(3 * MIB - answer.offset)
    assert tus.patch(upload, answer.offset, rest).status == 204


def test_sigterm_ends_a_server_whose_clients_hold_connections_open_and_send_nothing(
    server: Server, tus: Tus
) -> None:
    upload = tus.create(MIB)
    with Connection(server.port) as idle, Connection(server.port) as silent:
        assert idle.request("GET", "/health", {}).status == 200
        announced = {"Upload-Offset": "0", "Content-Length": str(MIB), "Expect": "100-continue"}
        silent.begin("PATCH", upload, {**TUS, **APPEND, **announced})
        # So the body is waited for.
        assert silent.receive().status == 100
        server.terminate()
        assert silent.receive().status in {423, 503}
        assert server.wait() == 0


def test_a_taken_port_is_refused_in_a_sentence(site: Site, server: Server) -> None:
    second = site.run("second", "serve", kind=Process, PORT=str(server.port))
    assert second.wait() == 3
    assert f"Port {server.port} on 127.0.0.1 is taken" in second.log
    assert "Traceback" not in second.log


def test_ctrl_c_ends_server_worker_and_the_private_redis(
    site: Site, server: Server, worker: Process
) -> None:
    for process in (server, worker):
        process.signal(signal.SIGINT)
    assert (server.wait(), worker.wait()) == (0, 0)
    assert site.redis_pid() is None
