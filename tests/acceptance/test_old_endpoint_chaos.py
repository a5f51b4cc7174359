"""Servers and Redis die while forms are sent: who sends a form again has one job of it, whole.

A client of the old endpoint cannot go on; it sends all of it again under the same name, until it
is told that it was taken. Nothing else is left of all its tries.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from redis import Redis

from tests.acceptance.crowd import digest
from tests.acceptance.dice import Dice
from tests.acceptance.process import DEADLINE, Site, eventually, new_directory
from tests.acceptance.raw import Connection, Tus
from tests.acceptance.test_chaos import Chaos
from tests.tusd_py.test_multipart import NAMED, TYPE, form, option, part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.acceptance.raw import Response

PATH = "/process/video/upload/async"
HEAD = b"\0\0\0\x20ftypisom"
_SIZES = (100, 30_000, 300_000, 3_000_000)
# Clients send it again: it was cut short, it is being carried out, or nothing can be.
AGAIN = {408, 409, 503}


@dataclass
class Sent:
    """One form, and what became of it."""

    content: bytes
    headers: dict[str, str]
    body: bytes
    path: str = ""
    trail: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path} {self.headers} {'; '.join(self.trail[-9:])}"


class Client:
    """Send one form after the other, each until it is taken."""

    def __init__(self, ports: Sequence[int], seed: int) -> None:
        self._ports = ports
        self._dice = Dice(seed)
        self.taken: list[Sent] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._send(self._form())

    def _form(self) -> Sent:
        content = HEAD + self._dice.randbytes(self._dice.choice(_SIZES))
        job_id = str(UUID(bytes=self._dice.randbytes(16)))
        key = {"Idempotency-Key": f"key {job_id}"}
        headers = self._dice.choice([{"X-Job-ID": job_id}, key, {"X-Job-ID": job_id} | key])
        options, file = [option("frame_skip", "3")], [part(NAMED, content)]
        parts = options + file if self._dice.random() < 0.5 else file + options
        return Sent(content, headers, form(*parts))

    def _send(self, sent: Sent) -> None:
        end = time.monotonic() + DEADLINE
        while not sent.path:
            assert time.monotonic() < end, f"it is never taken: {sent}"
            try:
                self._try(sent)
            except OSError as error:
                sent.trail.append(type(error).__name__)
            time.sleep(0.02)
        self.taken.append(sent)

    def _try(self, sent: Sent) -> None:
        port = self._dice.choice(self._ports)
        with Connection(port) as connection:
            size = {"Content-Type": TYPE, "Content-Length": str(len(sent.body))}
            connection.begin("POST", PATH, size | sent.headers)
            now = self._dice.cut(sent.body) if self._dice.random() < 0.2 else len(sent.body)
            with suppress(ConnectionError):
                connection.send(sent.body[:now])
            if now < len(sent.body):
                sent.trail.append("vanished")
                return
            answer = connection.final()
        sent.trail.append(f"{answer.status} {answer.body[:60]!r}")
        if answer.status == 200:
            sent.path = f"/files/{answer.json()['job_id']}"
            return
        assert answer.status in AGAIN, str(sent)
        if answer.status == 409 and "Idempotency-Key" not in sent.headers:
            self._look(Tus(port), sent)

    def _look(self, tus: Tus, sent: Sent) -> None:
        """See what there is under a name that is taken: perhaps only the answer was lost."""
        job_id = sent.headers["X-Job-ID"]
        found: Response = tus.request("GET", f"/jobs/{job_id}")
        sent.trail.append(f"job {found.status}")
        if found.status == 200 and found.json()["status"] != "uploading":
            sent.path = f"/files/{job_id}"


def go_through(seed: int, faults: int, forms: int) -> None:
    directory, stop = new_directory(), threading.Event()
    with Site(directory, KEEP_UPLOADS_SECONDS="-1", KEEP_FAILED_SECONDS="-1") as site:
        chaos = Chaos(site, seed)
        clients = [Client(chaos.ports, 1000 * seed + number) for number in range(4)]
        with ThreadPoolExecutor(len(clients)) as pool:
            running = [pool.submit(client.run, stop) for client in clients]
            try:
                for _ in range(faults):
                    wanted = count(clients) + chaos.dice.randrange(forms)
                    eventually(lambda: count(clients) >= wanted or broken(running), "forms")  # noqa: B023
                    time.sleep(chaos.dice.random() / 20)
                    chaos.strike()
            except BaseException as error:
                error.add_note(f"seed {seed}: {chaos.trail}")
                raise
            finally:
                stop.set()
            for one in running:
                one.result()
        compare(site, Tus(chaos.ports[0]), [sent for client in clients for sent in client.taken])
    shutil.rmtree(directory)


def count(clients: Sequence[Client]) -> int:
    return sum(len(client.taken) for client in clients)


def broken(running: Sequence[object]) -> bool:
    return any(one.done() for one in running)  # type: ignore[attr-defined]


def found(tus: Tus, sent: Sent) -> Response | None:
    answer = tus.request("GET", sent.path)
    return answer if answer.status == 200 else None


def compare(site: Site, tus: Tus, taken: Sequence[Sent]) -> None:
    for sent in taken:
        # What Redis knew some time ago is mended when it has been compared with the journals.
        answer = eventually(lambda: found(tus, sent), f"video of {sent}")  # noqa: B023
        assert (answer.status, digest(answer.body)) == (200, digest(sent.content)), str(sent)
        assert tus.job(sent.path)["options"]["frame_skip"] == 3, str(sent)
    # Of all that was tried in vain nothing is left but, perhaps, tombstones.
    names = {path.name for path in site.uploads.iterdir() if path.is_file()}
    bytes_of = {name for name in names if name[8:9] == "-" and not name.endswith(".log")}
    assert bytes_of == {sent.path.rpartition("/")[2] for sent in taken}
    ids = sorted(bytes_of)
    with Redis.from_url(site.redis_url, decode_responses=True) as client:
        # No worker has taken any.
        queue: Any = client
        eventually(lambda: sorted(queue.lrange("rq:queue:tusd", 0, -1)) == ids, "job of each form")


def test_a_form_that_is_sent_again_is_one_job_whatever_dies() -> None:
    go_through(1, 4, 5)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_form_that_is_sent_again_is_one_job_whatever_dies_for_minutes() -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        go_through(seed, 20, 20)
        seed += 1
