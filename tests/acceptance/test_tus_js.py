"""tus-js-client, the client of browsers and Node, against a real server over a bad connection."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.conftest import unavailable
from tests.acceptance.process import DEADLINE, Process
from tests.acceptance.proxy import Proxy

if TYPE_CHECKING:
    from tests.acceptance.process import Server, Site
    from tests.acceptance.raw import Tus

MIB = 2**20
JS = Path(__file__).parent / "js"

Event = dict[str, Any]


@pytest.fixture
def node() -> Path:
    """Find what runs the client."""
    found = shutil.which("node")
    if found is None:
        unavailable("node is not on PATH (sudo apt install nodejs npm)")
    if not (JS / "node_modules" / "tus-js-client").is_dir():
        unavailable("tus-js-client is not installed (make js)")
    return Path(found or "")


@pytest.fixture
def content(site: Site) -> bytes:
    """Put a file beside the client, and return what is in it."""
    written = random.Random(4).randbytes(12 * MIB)  # noqa: S311  cheap content, no secret
    (site.directory / "source.bin").write_bytes(written)
    return written


class Client:
    """One run of the client."""

    def __init__(self, site: Site, node: Path, endpoint: str, **more: object) -> None:
        job = {
            "endpoint": endpoint,
            "file": str(site.directory / "source.bin"),
            "remembered": str(site.directory / "remembered.json"),
            **more,
        }
        words: list[str | Path] = [node, JS / "upload.mjs", json.dumps(job)]
        self._process = site.run_python("node", words, kind=Process)

    def give_up(self) -> list[Event]:
        """Abort the upload and return what it told."""
        self._process.terminate()
        events = self.events()
        assert events[-1]["event"] == "aborted", events
        return events

    def events(self) -> list[Event]:
        """Wait for its end and return what it told."""
        self._process.wait()
        return [json.loads(line) for line in self._process.log.splitlines()]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def path_of(event: Event) -> str:
    return urlsplit(event["url"]).path


def answers(events: list[Event]) -> list[tuple[str, int]]:
    return [(one["method"], one["status"]) for one in events if one["event"] == "response"]


def test_the_lock_file_names_no_place_and_every_package_is_hashed() -> None:
    lock = json.loads((JS / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert all("integrity" in package and "resolved" not in package for package in packages)


def test_a_file_is_uploaded_whole(
    site: Site, server: Server, tus: Tus, node: Path, content: bytes
) -> None:
    events = Client(site, node, server.url).events()
    assert events[-1]["event"] == "success"
    assert answers(events) == [("POST", 201), ("PATCH", 204)]
    path = path_of(events[-1])
    assert tus.offset(path) == len(content)
    assert digest(site.stored(path).read_bytes()) == digest(content)


def test_a_connection_that_is_reset_twice_is_taken_up_again_by_the_clients_own_retries(
    site: Site, server: Server, node: Path, content: bytes
) -> None:
    with Proxy(server.port, after=3 * MIB, times=2) as proxy:
        events = Client(site, node, proxy.url).events()
    assert events[-1]["event"] == "success", events
    assert [one["status"] for one in events if one["event"] == "retry"] == [0, 0]
    # One upload: nothing was begun anew.
    assert answers(events) == [("POST", 201), ("HEAD", 200), ("HEAD", 200), ("PATCH", 204)]
    assert digest(site.stored(path_of(events[-1])).read_bytes()) == digest(content)


def test_an_upload_that_was_given_up_is_resumed_by_a_new_process_from_its_stored_url(
    site: Site, server: Server, node: Path, content: bytes
) -> None:
    with Proxy(server.port, after=5 * MIB, then="hold") as proxy:
        client = Client(site, node, proxy.url)
        assert proxy.reached.wait(DEADLINE)
        first = client.give_up()
        second = Client(site, node, proxy.url).events()
    assert second[-1]["event"] == "success", second
    assert path_of(second[-1]) == path_of(first[-1])
    assert answers(second) == [("HEAD", 200), ("PATCH", 204)]
    # All but the head of the request was the upload's.
    assert 5 * MIB - 4096 < second[0]["offset"] < 5 * MIB
    assert digest(site.stored(path_of(second[-1])).read_bytes()) == digest(content)


@pytest.mark.usefixtures("content")
def test_an_upload_that_is_terminated_is_gone_with_its_bytes(
    site: Site, server: Server, tus: Tus, node: Path
) -> None:
    with Proxy(server.port, after=5 * MIB, then="hold") as proxy:
        client = Client(site, node, proxy.url, terminate=True)
        assert proxy.reached.wait(DEADLINE)
        events = client.give_up()
    assert answers(events)[-1] == ("DELETE", 204)
    path = path_of(events[-1])
    assert tus.head(path).status in {404, 410}
    assert not site.stored(path).exists()
    assert tus.job(path)["status"] == "cancelled"
