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

from tests.acceptance.process import DEADLINE, Process, Server, Site, new_directory, unavailable
from tests.acceptance.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.raw import Tus

MIB = 2**20
JS = Path(__file__).parent / "js"
CONTENT = random.Random(4).randbytes(12 * MIB)  # noqa: S311  cheap content, no secret
DIGEST = hashlib.sha256(CONTENT).digest()
# Of tus, and of the drafts with interop versions 5 and 6.
PROTOCOLS = ("tus-v1", "ietf-draft-03", "ietf-draft-05")
# How the last piece and how HEAD is answered.
ENDS = {"tus-v1": 204, "ietf-draft-03": 201, "ietf-draft-05": 201}
HEADS = {"tus-v1": 200, "ietf-draft-03": 204, "ietf-draft-05": 204}

Event = dict[str, Any]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        (site.directory / "source.bin").write_bytes(CONTENT)
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


def node() -> str:
    """Find what runs the client."""
    found = shutil.which("node")
    if found is None:
        unavailable("node is not on PATH (sudo apt install nodejs npm)")
    if not (JS / "node_modules" / "tus-js-client").is_dir():
        unavailable("tus-js-client is not installed (make js)")
    return found or ""


class Client:
    """One run of the client; it remembers uploads in a file of `home`."""

    def __init__(self, site: Site, home: Path, endpoint: str, **more: object) -> None:
        job = {
            "endpoint": endpoint,
            "file": str(site.directory / "source.bin"),
            "remembered": str(home / "remembered.json"),
            **more,
        }
        words: list[str | Path] = [node(), JS / "upload.mjs", json.dumps(job)]
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


def path_of(event: Event) -> str:
    return urlsplit(event["url"]).path


def answers(events: list[Event]) -> list[tuple[str, int]]:
    return [(one["method"], one["status"]) for one in events if one["event"] == "response"]


def assert_whole(tus: Tus, events: list[Event]) -> None:
    """Check that the client is content, and the upload what was sent."""
    assert events[-1]["event"] == "success", events
    path = path_of(events[-1])
    assert tus.offset(path) == len(CONTENT)
    assert hashlib.sha256(tus.request("GET", path).body).digest() == DIGEST
    assert tus.job(path)["status"] == "pending"


def test_the_lock_file_names_no_place_and_every_package_is_hashed() -> None:
    lock = json.loads((JS / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert all("integrity" in package and "resolved" not in package for package in packages)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_is_uploaded_whole(
    site: Site, server: Server, tus: Tus, tmp_path: Path, protocol: str
) -> None:
    events = Client(site, tmp_path, server.url, options={"protocol": protocol}).events()
    assert_whole(tus, events)
    assert answers(events) == [("POST", 201), ("PATCH", ENDS[protocol])]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_connection_that_is_reset_twice_is_taken_up_again_by_the_clients_own_retries(
    site: Site, server: Server, tus: Tus, tmp_path: Path, protocol: str
) -> None:
    with Proxy(server.port, after=3 * MIB, times=2) as proxy:
        events = Client(site, tmp_path, proxy.url, options={"protocol": protocol}).events()
    assert_whole(tus, events)
    assert [one["status"] for one in events if one["event"] == "retry"] == [0, 0]
    # One upload: nothing was begun anew.
    head, end = ("HEAD", HEADS[protocol]), ("PATCH", ENDS[protocol])
    assert answers(events) == [("POST", 201), head, head, end]


def test_an_upload_that_was_given_up_is_resumed_by_a_new_process_from_its_stored_url(
    site: Site, server: Server, tus: Tus, tmp_path: Path
) -> None:
    with Proxy(server.port, after=5 * MIB, then="hold") as proxy:
        client = Client(site, tmp_path, proxy.url)
        assert proxy.reached.wait(DEADLINE)
        first = client.give_up()
        second = Client(site, tmp_path, proxy.url).events()
    assert_whole(tus, second)
    assert path_of(second[-1]) == path_of(first[-1])
    assert answers(second) == [("HEAD", 200), ("PATCH", 204)]
    # All but the head of the request was the upload's.
    assert 5 * MIB - 4096 < second[0]["offset"] < 5 * MIB


def test_a_file_of_unknown_length_is_sent_in_pieces_and_declared_with_the_last(
    site: Site, server: Server, tus: Tus, tmp_path: Path
) -> None:
    options = {"uploadLengthDeferred": True, "chunkSize": 5 * MIB}
    events = Client(site, tmp_path, server.url, stream=True, options=options).events()
    assert_whole(tus, events)
    # The source tells that it is at its end when it is read once more.
    assert answers(events)[:4] == [("POST", 201), *3 * [("PATCH", 204)]]
    assert set(answers(events)[4:]) <= {("PATCH", 204)}


def test_where_patch_does_not_pass_a_post_that_says_so_does(
    site: Site, server: Server, tus: Tus, tmp_path: Path
) -> None:
    options = {"overridePatchMethod": True, "chunkSize": 5 * MIB}
    events = Client(site, tmp_path, server.url, options=options).events()
    assert_whole(tus, events)
    assert answers(events) == [("POST", 201), *3 * [("POST", 204)]]


@pytest.mark.parametrize("resets", [0, 4])
def test_a_file_in_parallel_parts_is_put_together_also_over_a_bad_connection(
    site: Site, server: Server, tus: Tus, tmp_path: Path, resets: int
) -> None:
    with Proxy(server.port, after=MIB, times=resets) as proxy:
        events = Client(site, tmp_path, proxy.url, options={"parallelUploads": 3}).events()
        assert proxy.cuts_left == 0
    assert_whole(tus, events)
    told = answers(events)
    # Three parts and what was made of them, however often their connections broke.
    assert told.count(("POST", 201)) == 4
    assert told.count(("PATCH", 204)) == 3
    assert told[-1] == ("POST", 201)


def test_an_upload_that_is_terminated_is_gone_with_its_bytes(
    site: Site, server: Server, tus: Tus, tmp_path: Path
) -> None:
    with Proxy(server.port, after=5 * MIB, then="hold") as proxy:
        client = Client(site, tmp_path, proxy.url, terminate=True)
        assert proxy.reached.wait(DEADLINE)
        events = client.give_up()
    assert answers(events)[-1] == ("DELETE", 204)
    path = path_of(events[-1])
    assert tus.head(path).status in {404, 410}
    assert not site.stored(path).exists()
    assert tus.job(path)["status"] == "cancelled"
