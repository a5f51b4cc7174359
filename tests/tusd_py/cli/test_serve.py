from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tusd_py.cli.command import run, start

if TYPE_CHECKING:
    import subprocess

LISTENING = re.compile(r"Listening on http://127\.0\.0\.1:(\d+)/files/")


def port_of(server: subprocess.Popen[str]) -> int:
    """Wait until the server says where it listens."""
    assert server.stdout is not None
    found = LISTENING.match(server.stdout.readline())
    assert found, server.communicate()
    return int(found[1])


def test_a_taken_port_exits_with_3_and_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(tmp_path, "serve", "--port", str(port))
    assert done.returncode == 3
    assert done.stderr == (
        f"tusd-py: Port {port} on 127.0.0.1 is taken: stop that program, or choose another with "
        "--port or PORT (0 takes a free one)\n"
    )


def test_an_address_of_another_machine_exits_with_3(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--host", "192.0.2.1", "--port", "0")
    assert done.returncode == 3
    assert "HOST: expected an address of this machine, got '192.0.2.1'" in done.stderr


def test_a_directory_that_cannot_be_made_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path, "serve", "--port", "0", "--upload-dir", "file/uploads")
    assert done.returncode == 3
    assert done.stderr.startswith("tusd-py: UPLOAD_DIR cannot be used: ")
    assert "Traceback" not in done.stderr


def test_the_server_holds_none_of_the_libraries_that_analyse(tmp_path: Path) -> None:
    with start(tmp_path, "serve", "--port", "0") as server:
        port_of(server)
        mapped = Path(f"/proc/{server.pid}/maps").read_text()
        server.terminate()
        server.communicate()
    assert "uvloop" in mapped
    assert not [name for name in ("cv2", "numpy", "onnxruntime", "torch") if name in mapped]


def test_the_address_that_is_said_is_the_one_of_the_uploads(tmp_path: Path) -> None:
    with start(tmp_path, "serve", "--port", "0", "--upload-path", "/videos/new") as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        server.terminate()
        server.communicate()
    assert re.match(r"Listening on http://127\.0\.0\.1:\d+/videos/new/ ", said), said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_0_and_nothing_left(
    number: signal.Signals, tmp_path: Path
) -> None:
    with start(tmp_path, "serve", "--port", "0") as server:
        port = port_of(server)
        server.send_signal(number)
        _, err = server.communicate()
    assert server.returncode == 0, err
    assert "Traceback" not in err
    # Its private Redis is gone as well.
    assert not (tmp_path / "data" / "redis" / "redis.sock").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_body_in_flight_is_answered_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    with start(tmp_path, "serve", "--port", "0") as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            create = "POST /files/ HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
            client.sendall(f"{create}Upload-Length: 100\r\nContent-Length: 0\r\n\r\n".encode())
            found = re.search(rb"(?i)location: (\S+)", client.recv(65536))
            assert found
            patch = (
                f"PATCH {found[1].decode()} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
                "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
                "Content-Length: 100\r\n\r\n12345"
            )
            client.sendall(patch.encode())
            stored = tmp_path / "data" / found[1].decode().rpartition("/")[2]
            while not stored.exists() or not stored.stat().st_size:
                assert server.poll() is None
            server.send_signal(signal.SIGTERM)
            # Answered while 95 bytes are still missing: nobody waits for them.
            assert b"423" in client.recv(65536).split(b"\r\n")[0]
        _, err = server.communicate()
    assert server.returncode == 0, err
    assert "Cancel" not in err


def test_a_redis_that_is_away_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nowhere.sock"
    with start(tmp_path, "serve", "--port", "0", "--redis-url", url) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            client.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"503" in client.recv(65536).split(b"\r\n")[0]
        server.terminate()
        server.communicate()
    assert server.returncode == 0
