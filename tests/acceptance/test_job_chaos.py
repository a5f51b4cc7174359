"""Workers, web processes and Redis are killed, and Redis is emptied, while videos come and go.

Each finished upload ends in one completed job, whose one result can be fetched and never changes.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import redis

from tests.acceptance.process import Process, Server, Site, eventually, is_dead, new_directory
from tests.acceptance.raw import APPEND, TUS, Tus
from tests.slow_jobs import TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.acceptance.raw import Response

# The command itself, with an engine that is quick and sure.
WORK = """
import worker
from tests import slow_jobs
worker.analyse = slow_jobs.briskly
from tusd_py.__main__ import main
raise SystemExit(main(["work", "--processes", "2"]))
"""
FRAMES = 24
# By it each video is done in three of them.
SEGMENTS = {"ANALYSIS_SEGMENT_SECONDS": "0.3"}
CLIENTS = 4
# What a client tries again: nobody is there, or somebody says that Redis is not.
PASSING = {423, 500, 502, 503}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "small.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 6.0, (96, 64))
    for index in range(FRAMES):
        writer.write(np.full((64, 96, 3), index * 10, np.uint8))
    writer.release()
    return path.read_bytes()


class Chaos:
    """One server and one parent of workers, both on one Redis, and what may happen to them."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.dice = random.Random(seed)  # noqa: S311  no secret
        self.server: Server = site.serve()
        self.tus = Tus(self.server.port)
        self.workers = self._work()
        self.trail: list[str] = []

    def _work(self) -> Process:
        return self.site.run_python("work", [sys.executable, "-c", WORK], kind=Process)

    def strike(self) -> None:
        """Let something happen."""
        faults = (self.kill_server, self.kill_workers, self.kill_one, self.kill_redis, self.empty)
        fault = self.dice.choice(faults)
        self.trail.append(fault.__name__)
        fault()

    def kill_server(self) -> None:
        self.server.kill9()
        self.server = self.site.serve(port=self.tus.port)

    def kill_workers(self) -> None:
        children = self.workers.children()
        self.workers.kill9()
        for child in children:
            eventually(lambda: is_dead(child), "end of a worker")  # noqa: B023  called here
        self.workers = self._work()

    def kill_one(self) -> None:
        """Kill one worker under its parent, which starts another one."""
        if children := self.workers.children():
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(children), 9)

    def kill_redis(self) -> None:
        if self.site.redis_pid() is not None:
            self.site.kill_redis()

    def empty(self) -> None:
        with suppress(redis.RedisError), redis.Redis.from_url(self.site.redis_url) as client:
            client.flushall()


def persist(step: Callable[[], Response], *expected: int) -> Response:
    """Ask until there is an answer that lasts, which is to be one of those."""

    def look() -> Response | None:
        with suppress(OSError):
            answer = step()
            if answer.status not in PASSING:
                return answer
        return None

    answer = eventually(look, f"answer of {expected}")
    assert answer.status in expected, answer
    return answer


def send(tus: Tus, video: bytes) -> str:
    """Upload a video in two pieces, whatever happens meanwhile; return its path."""
    answer = persist(lambda: tus.post(len(video)), 201)
    path = "/files/" + answer.headers["location"].rpartition("/")[2]
    offset = 0
    while offset < len(video):
        piece = video[offset : offset + len(video) // 2 + 1]
        headers = {**TUS, **APPEND, "Upload-Offset": str(offset)}
        with suppress(OSError):
            tus.request("PATCH", path, headers, piece)
        found = persist(lambda: tus.head(path), 200).offset
        assert found >= offset
        offset = found
    return path


def result_of(tus: Tus, path: str) -> dict[str, Any]:
    """Return the result once there is one: of a failed or cancelled job there never is."""
    job = tus.wait_for_job(path, "completed")
    assert job["plates"] == 1, job
    answer = persist(lambda: tus.request("GET", f"/jobs/{job['job_id']}/result"), 200)
    document: dict[str, Any] = answer.json()
    return document


def go_through(
    seed: int, uploads: int, strikes: int, video: bytes, segments: Mapping[str, str]
) -> None:
    directory = new_directory()
    with Site(directory, KEEP_UPLOADS_SECONDS="-1", MIN_FREE_BYTES="0", **segments) as site:
        chaos = Chaos(site, seed)
        try:
            _go_through(chaos, uploads, strikes, video, segments)
        except BaseException as error:
            error.add_note(f"seed {seed}: {chaos.trail}")
            for process in site.processes:
                error.add_note(f"{process.name}:\n{process.log[-3000:]}")
            raise
    shutil.rmtree(directory)


def _go_through(
    chaos: Chaos, uploads: int, strikes: int, video: bytes, segments: Mapping[str, str]
) -> None:
    sent = threading.Semaphore(0)

    def one() -> tuple[str, dict[str, Any]]:
        path = send(chaos.tus, video)
        sent.release()
        return path, result_of(chaos.tus, path)

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(one) for _ in range(uploads)]
        for _ in range(strikes):
            # Between two strikes some come through, unless a client has failed.
            for _ in range(chaos.dice.randrange(1, 1 + uploads // strikes)):
                while not sent.acquire(timeout=0.1) and any(not each.done() for each in running):
                    _raise_from(running)
            time.sleep(chaos.dice.random() / 10)
            chaos.strike()
        results = dict(each.result() for each in running)
    in_segments = any("job.shared" in process.log for process in chaos.site.processes)
    assert in_segments == bool(segments)
    assert_one_effect_each(chaos, results)


def _raise_from(running: list[Any]) -> None:
    for each in running:
        if each.done():
            each.result()


def assert_one_effect_each(chaos: Chaos, results: dict[str, dict[str, Any]]) -> None:
    for path, first in results.items():
        assert [plate["text"] for plate in first["plates"]] == [TEXT]
        # What was fetched first stands: no second run has published another one.
        assert result_of(chaos.tus, path) == first
    ids = sorted(path.rpartition("/")[2] for path in results)
    assert chaos.site.results() == [f"{one}.json" for one in ids]
    crops = sorted(found.name for found in (chaos.site.uploads / "crops").iterdir())
    # What a killed run left aside goes after an hour.
    assert [name for name in crops if not name.startswith(".")] == ids
    eventually(lambda: not shared(chaos), "end of all that was shared")


def shared(chaos: Chaos) -> list[str]:
    """Return the ids of the videos whose segments lie there."""
    found = (chaos.site.uploads / "shares").glob("*")
    return [path.name for path in found if not path.name.startswith(".")]


@pytest.mark.parametrize("segments", [{}, SEGMENTS], ids=["in one pass", "in segments"])
def test_each_video_has_one_result_whatever_is_killed(
    video: bytes, segments: Mapping[str, str]
) -> None:
    go_through(1, uploads=12, strikes=4, video=video, segments=segments)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_each_video_has_one_result_whatever_is_killed_for_minutes(video: bytes) -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        segments = SEGMENTS if seed % 2 else {}
        go_through(seed, uploads=200, strikes=40, video=video, segments=segments)
        seed += 1
