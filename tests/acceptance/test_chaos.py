"""Servers and Redis die, Redis forgets or goes back in time: clients go on, and lose nothing.

A crowd of clients in both dialects uploads all the while. Each of them compares every answer with
those before it: no offset is below one that was told, none covers bytes that were not sent, what
was finished or removed stays so. At the end all content is compared, and each job ran once.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from tests.acceptance.crowd import Crowd, assert_each_ran_once
from tests.acceptance.process import Server, Site, eventually, is_dead, new_directory
from tests.acceptance.raw import Tus
from tests.acceptance.test_crash import nobody_starts_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Chaos:
    """Two servers with one Redis, and what may happen to them."""

    def __init__(self, site: Site, seed: int, **settings: str) -> None:
        self.site = site
        self._settings = settings
        self.dice = random.Random(seed)  # noqa: S311  no secret
        self.servers = [self._start(), self._start()]
        self._snapshot = site.directory / "snapshot"
        self.trail: list[str] = []

    def _start(self, port: int = 0) -> Server:
        return self.site.serve(port=port, CHUNK_SIZE="16384", **self._settings)

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    def faults(self) -> Mapping[Callable[[], None], int]:
        """Return what may happen, and how often it does."""
        return {
            self.kill_one: 3,
            self.kill_both: 2,
            self.stop_one: 2,
            self.kill_redis: 2,
            self.kill_all: 2,
            self.empty_redis: 2,
            self.keep_redis: 2,
            self.roll_redis_back: 3,
        }

    def strike(self) -> None:
        """Let something happen."""
        faults = self.faults()
        [fault] = self.dice.choices(list(faults), list(faults.values()))
        self.trail.append(fault.__name__)
        fault()

    def kill_one(self) -> None:
        self._kill(self.dice.choice(self.servers))

    def kill_both(self) -> None:
        self._kill(*self.servers)

    def _kill(self, *servers: Server) -> None:
        children = [child for server in servers for child in server.children()]
        for server in servers:
            server.kill9()
        for child in children:
            eventually(lambda: is_dead(child), "end of a worker of the server")  # noqa: B023  called here
        self._replace(*servers)

    def _replace(self, *ended: Server) -> None:
        self.servers = [
            self._start(server.port) if server in ended else server for server in self.servers
        ]

    def stop_one(self) -> None:
        server = self.dice.choice(self.servers)
        server.terminate()
        assert server.wait() == 0
        self._replace(server)

    def kill_redis(self) -> None:
        self._ready()
        self.site.kill_redis()

    def kill_all(self) -> None:
        self._ready()
        with nobody_starts_redis(self.site):
            self.site.kill_redis()
            for server in self.servers:
                server.kill9()
        self._replace(*self.servers)

    def empty_redis(self) -> None:
        self._ready()
        with Redis.from_url(self.site.redis_url) as client:
            client.flushall()

    def keep_redis(self) -> None:
        """Remember how Redis stands, for later."""
        shutil.rmtree(self._snapshot, ignore_errors=True)
        shutil.copytree(self._files, self._snapshot)

    def roll_redis_back(self) -> None:
        """Have Redis stand as it stood some time ago."""
        if not self._snapshot.exists():
            self.keep_redis()
            return
        self._ready()
        with nobody_starts_redis(self.site):
            self.site.kill_redis()
            shutil.rmtree(self._files)
            shutil.copytree(self._snapshot, self._files)

    def _ready(self) -> None:
        """Wait until Redis is there."""
        for server in self.servers:
            tus = Tus(server.port)
            eventually(
                lambda: tus.request("GET", "/ready").status == 200,  # noqa: B023  called here
                f"readiness of {server.name}",
            )

    @property
    def _files(self) -> Path:
        return self.site.uploads / "redis" / "appendonlydir"


def go_through(seed: int, faults: int, answers: int, **settings: str) -> None:
    directory = new_directory()
    with Site(directory, KEEP_UPLOADS_SECONDS="-1") as site:
        chaos = Chaos(site, seed, **settings)
        try:
            with Crowd(chaos.ports, seed) as crowd:
                for _ in range(faults):
                    crowd.wait_for(chaos.dice.randrange(answers))
                    # At any moment of what is under way.
                    time.sleep(chaos.dice.random() / 50)
                    chaos.strike()
                crowd.wait_for(answers)
                assert_each_ran_once(site, crowd.finish())
        except BaseException as error:
            error.add_note(f"seed {seed}: {chaos.trail}")
            for process in site.processes:
                error.add_note(f"{process.name}:\n{process.log[-3000:]}")
            raise
    shutil.rmtree(directory)


KINDS: tuple[dict[str, str], ...] = ({}, {"WORKERS": "2"}, {"DURABILITY": "none"})


def test_nothing_is_lost_whatever_dies_or_forgets() -> None:
    go_through(1, 6, 16)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_nothing_is_lost_whatever_dies_or_forgets_for_minutes() -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        go_through(seed, 25, 60, **KINDS[seed % len(KINDS)])
        seed += 1
