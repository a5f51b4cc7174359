"""Fixtures of the acceptance tests: our programs as real processes in a directory of their own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests import scene
from tests.acceptance.powercut import Disk, mounted
from tests.acceptance.process import Process, Server, Site, new_directory
from tests.acceptance.raw import Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Clip:
    """A small video and the plates in it, sorted."""

    path: Path
    plates: list[str]

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def new_site() -> Iterator[Callable[..., Site]]:
    """Return a maker of sites for tests that need other settings, or more than one."""
    sites: list[Site] = []

    def make(**settings: str) -> Site:
        sites.append(Site(new_directory(), **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()
        shutil.rmtree(site.directory)


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    """Return an empty site that keeps the bytes of its uploads."""
    return new_site(KEEP_UPLOADS_SECONDS="-1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a disk that can be full, fail and lose what was not synced."""
    with mounted(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def server(site: Site) -> Server:
    """Run a server with its private Redis."""
    return site.serve()


@pytest.fixture
def worker(site: Site, server: Server) -> Process:
    """Run a worker beside the server."""
    del server
    return site.work()


@pytest.fixture
def tus(server: Server) -> Tus:
    """Return a client of the server."""
    return Tus(server.port)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Draw two seconds of a road with one plate: 5 MB to send, 4 s of work to analyse."""
    path = tmp_path_factory.mktemp("clip") / "cars.mp4"
    shown = scene.write(path, scene.Setting(seconds=2, plates=1))
    return Clip(path, sorted(one.text for one in shown))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show beside a failure what our programs said."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        found = [value for value in item.funcargs.values() if isinstance(value, Site)]
        for process in (process for one in found for process in one.processes):
            report.sections.append((f"output of {process.name}", process.log))
    return report
