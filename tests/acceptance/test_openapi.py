"""The server does what its descriptions say, whatever Schemathesis sends."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.process import ROOT, Process, eventually
from tests.acceptance.raw import Tus

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.process import Server, Site

TOKEN = "0123456789abcdef" * 2
# Seconds; a busy machine may take its time.
LONG = 540.0


def explore(site: Site, server: Server, *words: str) -> None:
    """Let Schemathesis try all operations of a server, and each of its checks."""
    # It is run in the directory of the site: of our configuration it knows what these words say.
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", *words]
    explorer = site.run_python("schemathesis", command, kind=Process)
    eventually(lambda: not explorer.running, "end of Schemathesis", deadline=LONG)
    assert explorer.wait() == 0, explorer.log
    tried = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", explorer.log)
    assert tried, explorer.log
    assert tried[1] == tried[2] == tried[3]
    assert "Traceback" not in server.log


def explore_whole(site: Site, server: Server, *options: str) -> None:
    """Let it try both documents as one: what it uploads it also watches, and removes."""
    tus = Tus(server.port)
    whole = tus.request("GET", "/openapi.json").json()
    whole["paths"] |= tus.request("GET", "/openapi-uploads.json").json()["paths"]
    path = site.directory / "whole.json"
    path.write_text(json.dumps(whole))
    # Its own configuration says which answers of uploads and removed jobs are right.
    configuration = ("--config-file", str(ROOT / "schemathesis.toml"))
    where = (str(path), "--url", f"http://127.0.0.1:{server.port}", "--max-redirects", "0")
    token = ("--header", f"Authorization: Bearer {TOKEN}")
    explore(site, server, *configuration, "run", *where, *token, *options)


def test_schemathesis_finds_nothing(site: Site) -> None:
    server = site.serve(ADMIN_TOKEN=TOKEN, MAX_FILE_SIZE="1000000")
    explore_whole(site, server, "--seed", "1", "--generation-deterministic", "--max-examples", "6")


@pytest.mark.parametrize(
    "settings", [{"ADMIN_TOKEN": TOKEN}, pytest.param({}, marks=pytest.mark.soak)]
)
def test_schemathesis_finds_nothing_as_a_stranger(
    new_site: Callable[..., Site], settings: dict[str, str]
) -> None:
    site = new_site(**settings)
    server = site.serve()
    document = f"http://127.0.0.1:{server.port}/openapi.json"
    explore(site, server, "run", document, "--seed", "1", "--max-examples", "6")


@pytest.mark.soak
def test_schemathesis_finds_nothing_for_minutes(site: Site) -> None:
    server = site.serve(ADMIN_TOKEN=TOKEN, MAX_FILE_SIZE="1000000")
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    for seed in itertools.count(int(os.environ["SOAK_SEED"])):
        explore_whole(site, server, "--seed", str(seed), "--max-examples", "60")
        document = f"http://127.0.0.1:{server.port}/openapi.json"
        explore(site, server, "run", document, "--seed", str(seed))
        if time.monotonic() > end:
            break


class Page(HTMLParser):
    """Collect what a page would load or run, and the ids of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        if tag in {"script", "link", "img", "iframe"} or {"src", "style"} & named.keys():
            self.loaded.append(tag)


def test_the_page_for_people_is_whole_and_loads_nothing(tus: Tus) -> None:
    answer = tus.request("GET", "/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page, text = Page(), answer.body.decode()
    page.feed(text)
    assert page.loaded == []
    jobs = tus.request("GET", "/openapi.json").json()
    uploads = tus.request("GET", "/openapi-uploads.json").json()
    assert page.ids == [*jobs["components"]["schemas"]]
    assert all(path in text for path in jobs["paths"] | uploads["paths"])


def test_the_documents_tell_what_the_settings_leave(new_site: Callable[..., Site]) -> None:
    site = new_site(
        DISABLE_TERMINATION="true",
        DISABLE_DOWNLOAD="true",
        UPLOAD_PATH="/uploads/",
        PUBLIC_URL="https://host.example/api",
    )
    tus = Tus(site.serve().port)
    jobs = tus.request("GET", "/openapi.json").json()
    uploads = tus.request("GET", "/openapi-uploads.json").json()
    assert jobs["servers"] == uploads["servers"] == [{"url": "https://host.example/api"}]
    assert "/jobs" not in jobs["paths"]
    assert set(jobs["paths"]["/jobs/{job_id}"]) == {"parameters", "get"}
    assert set(uploads["paths"]["/uploads/{upload_id}"]) == {"parameters", "head", "patch"}
