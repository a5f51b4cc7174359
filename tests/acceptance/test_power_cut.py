"""After a power cut everything that was acknowledged is there, and goes on to its end."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from redis import Redis

from storage import redis_schema as schema
from storage.embedded import Embedded
from tests import scene
from tests.acceptance.crowd import Crowd, assert_each_ran_once
from tests.acceptance.forgetful import PAGE, ForgetfulDisk
from tests.acceptance.powercut import Disk, mounted
from tests.acceptance.process import Server, Site, eventually, is_dead, new_directory
from tests.acceptance.raw import TUS, Connection, Tus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SEEDS = range(40)
OTHER_KEY = {"Idempotency-Key": "of another creation"}


def seen_after_cuts(*, sync: bool, sync_names: bool) -> set[bytes | None]:
    """Return what is found after cuts of a file that was written anew behind a synced page."""
    found: set[bytes | None] = set()
    for seed in SEEDS:
        disk = ForgetfulDisk()
        file = disk.make(disk.root, "file", 0o100644)
        disk.write(file, 0, b"a" * PAGE)
        disk.sync(file)
        if sync_names:
            disk.sync(disk.root)
        disk.write(file, PAGE, b"b" * PAGE)
        if sync:
            disk.sync(file)
        disk.cut(random.Random(seed))  # noqa: S311  no secret
        node = disk.root.entries.get("file")
        found.add(None if node is None else bytes(node.content))
    return found


def test_what_was_synced_outlives_every_cut() -> None:
    assert seen_after_cuts(sync=True, sync_names=True) == {b"a" * PAGE + b"b" * PAGE}


def test_what_was_not_synced_is_kept_torn_lost_or_zeros() -> None:
    found = seen_after_cuts(sync=False, sync_names=True)
    assert all(one is not None and one.startswith(b"a" * PAGE) for one in found)
    assert {b"a" * PAGE, b"a" * PAGE + b"b" * PAGE, b"a" * PAGE + bytes(PAGE)} < found


def test_a_name_that_was_not_synced_may_be_lost_with_a_file_that_was() -> None:
    assert None in seen_after_cuts(sync=True, sync_names=False)


def test_a_page_that_a_sync_failed_for_is_not_kept_by_the_next_one() -> None:
    disk = ForgetfulDisk()
    file = disk.make(disk.root, "file", 0o100644)
    disk.sync(disk.root)
    disk.write(file, 0, b"lost")
    disk.failing = [errno.EIO]
    with pytest.raises(OSError, match="failed"):
        disk.sync(file)
    disk.sync(file)
    disk.cut(random.Random(1))  # noqa: S311  no secret
    assert bytes(disk.root.entries["file"].content) == bytes(4)


def test_the_kernel_reads_from_it_what_it_wrote_and_finds_it_after_a_cut(disk: Disk) -> None:
    kept, lost = disk.place / "kept", disk.place / "lost"
    for path in (kept, lost):
        path.write_bytes(os.urandom(300_000))
    content = kept.read_bytes()
    for path in (kept, disk.place):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    kept.rename(disk.place / "renamed")
    for seed in SEEDS:
        disk.cut(seed)
        names = {path.name for path in disk.place.iterdir()}
        assert len(names & {"kept", "renamed"}) == 1
        [path] = (disk.place / name for name in names & {"kept", "renamed"})
        assert path.read_bytes() == content


# --- our server on it


class Powered:
    """A server with its private Redis on a disk whose power is cut."""

    def __init__(self, site: Site, disk: Disk, seed: int) -> None:
        self.site = site
        self._disk = disk
        self._dice = random.Random(seed)  # noqa: S311  no secret
        self.server: Server = site.serve()

    def cut(self) -> None:
        """Kill everything at once, and lose what was not synced; Redis may have lost all."""
        self._kill()
        self._disk.cut(self._dice.randrange(2**32))
        self._start(forgetting=self._dice.random() < 0.3)

    def cut_all(self) -> None:
        """Lose all that was not synced, and all that Redis knew."""
        self._kill()
        self._disk.cut(None)
        self._start(forgetting=True)

    def _kill(self) -> None:
        kill(self.server)
        if self.site.redis_pid() is not None:
            self.site.kill_redis()

    def _start(self, *, forgetting: bool) -> None:
        if forgetting:
            shutil.rmtree(self.site.uploads / "redis", ignore_errors=True)
        self.server = self.site.serve(port=self.server.port)


def kill(server: Server) -> None:
    """Kill a server, and return when none of its processes is left."""
    children = server.children()
    server.kill9()
    for child in children:
        eventually(lambda: is_dead(child), "end of a worker of the server")  # noqa: B023  called here


@contextmanager
def powered(seed: int, **settings: str) -> Iterator[Powered]:
    directory = new_directory()
    with (
        mounted(directory / "disk") as disk,
        Site(directory, KEEP_UPLOADS_SECONDS="-1", **settings) as site,
    ):
        # Made by the server, which has to sync that, too.
        site.uploads = disk.place / "data"
        try:
            yield Powered(site, disk, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            for process in site.processes:
                error.add_note(f"{process.name}:\n{process.log[-3000:]}")
            raise
    shutil.rmtree(directory)


def cut_again_and_again(seed: int, cuts: int, answers: int, **settings: str) -> None:
    """Cut the power under a crowd, so often, behind so many answers at most; then run the jobs."""
    dice = random.Random(seed)  # noqa: S311  no secret
    with powered(seed, **settings) as place, Crowd([place.server.port], seed) as crowd:
        for _ in range(cuts):
            crowd.wait_for(dice.randrange(answers))
            # At any moment of what is under way.
            time.sleep(dice.random() / 50)
            place.cut()
        crowd.wait_for(answers // 2)
        jobs = crowd.finish()
        place.cut()
        assert_each_ran_once(place.site, jobs)


KINDS: tuple[dict[str, str], ...] = ({}, {"DURABILITY": "interval"}, {"WORKERS": "2"})


@pytest.mark.parametrize(("cuts", "kind"), [(2, KINDS[0]), (1, KINDS[1]), (1, KINDS[2])], ids=str)
def test_nothing_acknowledged_is_lost_by_power_cuts(cuts: int, kind: dict[str, str]) -> None:
    cut_again_and_again(1, cuts, 20, **kind)


def test_how_a_job_ended_and_what_came_of_it_outlive_a_power_cut_and_redis(
    tmp_path: Path,
) -> None:
    scene.write(tmp_path / "car.mp4", scene.Setting(seconds=0.4, plates=0))
    video = (tmp_path / "car.mp4").read_bytes()
    with powered(3) as place:
        site, tus = place.site, Tus(place.server.port)
        read, refused = tus.upload(video), tus.upload(b"no video")
        worker = site.work()
        ends = {path: tus.wait_for_job(path) for path in (read, refused)}
        assert [end["status"] for end in ends.values()] == ["completed", "failed"]
        result = tus.result(read)
        worker.kill9()
        place.cut_all()
        # Nobody is there who would run them again.
        for path, end in ends.items():
            job = tus.wait_for_job(path)
            assert (job["status"], job["message"]) == (end["status"], end["message"])
        assert tus.result(read) == result


def test_without_syncs_the_same_cuts_lose_what_was_acknowledged() -> None:
    with powered(2, DURABILITY="none") as place:
        tus = Tus(place.server.port)
        paths = [tus.upload(os.urandom(30_000)) for _ in range(8)]
        place.cut_all()
        assert any(tus.head(path).status != 200 for path in paths)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_nothing_acknowledged_is_lost_by_power_cuts_for_minutes() -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        cut_again_and_again(seed, 8, 100, **KINDS[seed % len(KINDS)])
        seed += 1


class Interrupted:
    """A server that is killed in a sync, with a Redis that outlives it."""

    def __init__(self, disk: Disk, site: Site, redis: Embedded) -> None:
        site.uploads = disk.place / "data"
        self._disk = disk
        self._site = site
        self._redis = redis
        self._server = site.serve()
        self.tus = Tus(self._server.port)

    @contextmanager
    def killed(self, *, behind: int) -> Iterator[None]:
        """Kill it in a sync that never takes place, behind so many that do; start it again."""
        self._disk.hold_syncs(passing=behind)
        with suppress(ConnectionError):
            yield
        eventually(lambda: self._disk.held, "sync that waits")
        self._server.signal(signal.SIGKILL)
        self._disk.let_go()
        self._server.wait()
        self._server = self._site.serve(port=self._server.port)

    def empty_redis(self) -> None:
        with Redis.from_url(self._redis.url) as client:
            client.flushall()

    def lose_power(self) -> None:
        """Lose all that was not synced, and all that Redis had; start again."""
        self._server.kill9()
        self._disk.cut(None)
        self.empty_redis()
        self._server = self._site.serve(port=self._server.port)


@pytest.fixture
def interrupted(disk: Disk, new_site: Callable[..., Site]) -> Iterator[Interrupted]:
    with Embedded(new_site().directory / "redis") as redis:
        site = new_site(REDIS_URL=redis.url)
        yield Interrupted(disk, site, redis)
        site.close()


def test_a_server_cut_off_at_its_very_start_finds_its_redis_again(
    disk: Disk, new_site: Callable[..., Site]
) -> None:
    # This one outlives the cut, and with it whose it is.
    with Embedded(new_site().directory / "redis") as embedded:
        site = new_site(REDIS_URL=embedded.url)
        site.uploads = disk.place / "data"
        starting = site.begin_to_serve()
        with Redis.from_url(embedded.url) as client:
            eventually(lambda: client.exists(schema.MARKER), "marker in Redis")
        starting.kill9()
        disk.cut(None)
        tus = Tus(site.serve().port)
        assert tus.offset(tus.upload(b"as before")) == 9
        site.close()


@pytest.mark.parametrize("redis_emptied", [False, True])
def test_an_offset_that_a_dead_server_did_not_sync_is_synced_before_it_is_told(
    interrupted: Interrupted, *, redis_emptied: bool
) -> None:
    tus = interrupted.tus
    path = tus.create(300)
    assert tus.patch(path, 0, b"a" * 100).offset == 100
    # The data are synced, the line that counts them is not.
    with interrupted.killed(behind=1), tus.begin_patch(path, 100, 100) as connection:
        connection.send(b"b" * 100)
    if redis_emptied:
        interrupted.empty_redis()
    told = tus.offset(path)
    interrupted.lose_power()
    assert tus.offset(path) >= told >= 100


def test_a_removal_that_a_dead_server_did_not_sync_is_synced_before_it_is_told(
    interrupted: Interrupted,
) -> None:
    tus = interrupted.tus
    for _ in range(5):
        path = tus.create(300)
        with interrupted.killed(behind=0), Connection(tus.port) as connection:
            connection.begin("DELETE", path, TUS)
        told = tus.head(path).status
        # Else it was killed in a sync of its upkeep, before it came to the removal.
        if told != 200:
            break
    interrupted.lose_power()
    assert told == tus.head(path).status == 410


def test_a_creation_with_a_key_that_a_dead_server_did_not_sync_is_synced_before_it_is_told(
    interrupted: Interrupted,
) -> None:
    headers = {**TUS, "Upload-Length": "300", "Idempotency-Key": "named by its client"}
    # Of another one, so that all there is to make for keys is made.
    assert interrupted.tus.request("POST", "/files/", headers | OTHER_KEY).status == 201
    with interrupted.killed(behind=1), Connection(interrupted.tus.port) as connection:
        connection.begin("POST", "/files/", headers)
    answer = interrupted.tus.request("POST", "/files/", headers)
    interrupted.lose_power()
    assert interrupted.tus.offset(urlsplit(answer.headers["location"]).path) == 0
