"""tuspy, the client of Python, against a real server over a connection that breaks."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tusclient.client import TusClient

from tests.acceptance.process import DEADLINE, Process, Server, Site, new_directory
from tests.acceptance.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.raw import Tus

MIB = 2**20
NO_VIDEO = "File must be a video (mp4, avi, mov, mkv, webm, flv)"
# A client of its own process: it remembers where its upload is, as an app on a phone does.
CLIENT = textwrap.dedent(
    """
    import sys
    from tusclient.client import TusClient
    from tusclient.fingerprint.fingerprint import Fingerprint
    from tusclient.storage.filestorage import FileStorage

    url, path, remembered = sys.argv[1:]
    uploader = TusClient(url).uploader(
        path, chunk_size=2**20, store_url=True, url_storage=FileStorage(remembered),
        fingerprinter=Fingerprint(),
    )
    print("begins at", uploader.offset, flush=True)
    uploader.upload()
    print("sent", uploader.url, flush=True)
    """
)


def random_bytes(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311  cheap content, no secret


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Share one site: no test here minds the uploads of another."""
    with Site(new_directory(), KEEP_UPLOADS_SECONDS="-1") as site:
        yield site
    shutil.rmtree(site.directory)


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve()


@pytest.fixture(scope="module")
def worker(site: Site, server: Server) -> Process:
    del server
    return site.work()


def send(url: str, content: bytes, **more: object) -> str:
    """Send by tuspy in chunks, going on after errors; return the path of the upload's URL."""
    uploader = TusClient(url).uploader(
        file_stream=io.BytesIO(content), chunk_size=MIB, retries=20, retry_delay=0, **more
    )
    uploader.upload()
    assert uploader.url
    return urlsplit(uploader.url).path


@pytest.mark.usefixtures("worker")
def test_an_upload_in_chunks_is_stored_whole_and_what_is_no_video_says_so(
    site: Site, server: Server, tus: Tus
) -> None:
    content = random_bytes(1, 3 * MIB + 17)
    path = send(server.url, content, metadata={"filename": "noise.mp4", "filetype": "video/mp4"})
    assert digest(site.stored(path).read_bytes()) == digest(content)
    job = tus.wait_for_job(path)
    assert (job["status"], job["message"]) == ("failed", NO_VIDEO)


def test_an_upload_whose_connection_is_reset_again_and_again_resumes_and_is_whole(
    site: Site, server: Server, tus: Tus
) -> None:
    content = random_bytes(2, 6 * MIB)
    with Proxy(server.port, after=MIB + 4321, times=4) as proxy:
        path = send(proxy.url, content)
        assert proxy.cuts_left == 0
    assert tus.offset(path) == len(content)
    assert digest(site.stored(path).read_bytes()) == digest(content)


def test_an_upload_without_metadata_is_accepted(site: Site, server: Server, tus: Tus) -> None:
    path = send(server.url, b"no name")
    assert "upload-metadata" not in tus.head(path).headers
    assert site.stored(path).read_bytes() == b"no name"


def test_pieces_with_checksums_are_taken_also_where_one_was_cut(
    site: Site, server: Server, tus: Tus
) -> None:
    content = random_bytes(4, 4 * MIB)
    with Proxy(server.port, after=MIB + 4321, times=2) as proxy:
        path = send(proxy.url, content, upload_checksum=True)
        assert proxy.cuts_left == 0
    assert tus.offset(path) == len(content)
    assert digest(site.stored(path).read_bytes()) == digest(content)


def test_an_upload_is_resumed_by_its_url(site: Site, server: Server, tus: Tus) -> None:
    content = random_bytes(5, 2 * MIB)
    path = tus.create(len(content))
    assert tus.patch(path, 0, content[:1_000_000]).status == 204
    url = f"http://127.0.0.1:{server.port}{path}"
    uploader = TusClient(server.url).uploader(file_stream=io.BytesIO(content), url=url)
    assert uploader.offset == 1_000_000
    uploader.upload()
    assert digest(site.stored(path).read_bytes()) == digest(content)


@pytest.mark.usefixtures("worker")
def test_an_empty_file_is_uploaded_and_its_job_says_that_it_is_empty(
    server: Server, tus: Tus
) -> None:
    path = send(server.url, b"", metadata={"filename": "empty.mp4"})
    job = tus.wait_for_job(path)
    assert (job["status"], job["message"]) == ("failed", "Uploaded file is empty")


def test_a_client_killed_in_mid_upload_is_followed_by_one_that_resumes(
    site: Site, server: Server
) -> None:
    content = random_bytes(3, 4 * MIB)
    source = site.directory / "source.bin"
    source.write_bytes(content)
    before = set(site.uploads.glob("*.log"))
    with Proxy(server.port, after=5 * MIB // 2, then="hold") as proxy:
        words: list[str | Path] = [sys.executable, "-c", CLIENT, proxy.url]
        words += [source, site.directory / "remembered"]
        first = site.run_python("client", words, kind=Process)
        assert proxy.reached.wait(DEADLINE)
        first.kill9()
        second = site.run_python("client", words, kind=Process)
        assert second.wait() == 0, second.log
    began = int(second.wait_for(r"begins at (\d+)")[1])
    # Two chunks were acknowledged, and of the third what had come may be there too.
    assert 2 * MIB <= began < 5 * MIB // 2
    stored = site.stored(urlsplit(second.wait_for(r"sent (\S+)")[1]).path)
    assert digest(stored.read_bytes()) == digest(content)
    assert len(set(site.uploads.glob("*.log")) - before) == 1
