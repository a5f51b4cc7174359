from __future__ import annotations

import itertools
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tusd_py.cli import CommandError
from tusd_py.cli.stage import Child, Cutter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def alive() -> Iterator[int]:
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


def test_a_child_that_ends_is_named_with_its_last_words(tmp_path: Path, alive: int) -> None:
    child = Child(("serve", "--port", "much"), {}, tmp_path / "serve.log", alive=alive)
    while child.code is None:
        pass
    with pytest.raises(CommandError, match="`tusd-py serve` ended with 2") as found:
        child.check()
    assert "--port: expected an integer" in str(found.value)


def test_a_child_is_gone_after_it_was_stopped(tmp_path: Path, alive: int) -> None:
    env = {"UPLOAD_DIR": str(tmp_path / "data"), "REDIS_URL": f"unix://{tmp_path}/none"}
    child = Child(("serve", "--port", "0"), env, tmp_path / "serve.log", alive=alive)
    while "Listening" not in child.said():
        child.check()
    child.stop()
    assert child.code == 0


def test_the_connection_breaks_once_after_so_many_bytes() -> None:
    told: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as target:
        received = bytearray()

        def take() -> None:
            for _ in range(2):
                one, _ = target.accept()
                with one:
                    try:
                        while block := one.recv(65536):
                            received.extend(block)
                            one.sendall(b"answer")
                    except (BrokenPipeError, ConnectionResetError):
                        received.extend(b"|")

        taker = threading.Thread(target=take)
        taker.start()
        cutter = Cutter(
            target.getsockname()[1], cut_after=50_000, rate=100_000_000, told=told.append
        )
        with socket.create_connection(("127.0.0.1", cutter.port)) as client:
            endless = (client.send(b"x" * 10_000) for _ in itertools.count())
            with pytest.raises(OSError, match=r"reset|pipe"):
                list(endless)
        with socket.create_connection(("127.0.0.1", cutter.port)) as client:
            client.sendall(b"y" * 100_000)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        taker.join()
        cutter.close()
    first, second = bytes(received).split(b"|")
    assert len(first) == told[0] >= 50_000
    assert cutter.cut
    assert second == b"y" * 100_000
