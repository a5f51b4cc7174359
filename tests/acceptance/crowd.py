"""Clients that go on whatever happens, each comparing what it is told with what it was told."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import redis

from storage import redis_schema as schema
from tests.acceptance.dice import Dice
from tests.acceptance.model import Dialect
from tests.acceptance.process import eventually
from tests.acceptance.raw import TERMINAL, TUS, Connection, Response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from tests.acceptance.process import Site

# Clients come again by themselves.
LATER = (423, 503, 507)
# Seconds between two tries at a server that is away.
_PAUSE = 0.02
# Small ones are the most; the large ones go from socket to file by other ways.
_SIZES = (0, 1, 1000, 1000, 30_000, 30_000, 30_000, 300_000, 300_000, 3_000_000)


@dataclass(eq=False, slots=True)
class Upload:
    """What one client knows of one upload: answers only ever add to it."""

    content: bytes
    dialect: Dialect
    headers: dict[str, str]
    path: str = ""
    #: The highest offset of any answer, and how many bytes were ever sent.
    told: int = 0
    sent: int = 0
    complete: bool = False
    #: A removal was sent, and answered.
    doomed: bool = False
    removed: bool = False
    #: A request was not answered: where it stands has to be asked.
    unsure: bool = False
    #: All that it was told, for who reads a failure.
    trail: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        marks = [name for name in ("complete", "doomed", "removed") if getattr(self, name)]
        where = f"{self.told}..{self.sent} of {len(self.content)}"
        marks += [f"{name}: {value}" for name, value in self.headers.items()]
        return f"{self.path} ({self.dialect}, {where}, {marks}): {'; '.join(self.trail[-9:])}"

    @property
    def partial(self) -> bool:
        return self.headers.get("Upload-Concat") == "partial"

    @property
    def key(self) -> bool:
        return "Idempotency-Key" in self.headers

    def tell(self, response: Response) -> None:
        """Compare an answer that has an offset with those before it."""
        offset = response.offset
        assert self.told <= offset <= self.sent, f"{offset} was told of {self}"
        self.told, self.unsure = offset, False
        filled = offset == len(self.content)
        ended = filled if self.dialect.version is None else self.dialect.told_end(response)
        assert ended or not self.complete, f"it was told not to be complete: {self}"
        assert filled or not ended, f"it was told to be complete: {self}"
        self.complete = ended


class Client:
    """Upload one thing after the other; the same seed begins with the same ones."""

    def __init__(self, ports: Sequence[int], seed: int, *, removals: bool = True) -> None:
        self._ports = ports
        self._dice = Dice(seed)
        self._removals = removals
        self.uploads: list[Upload] = []
        #: How many requests were answered with success.
        self.answers = 0

    def step(self) -> None:
        """Do one thing; raise OSError where the server is away."""
        going = [one for one in self.uploads if not (one.complete or one.removed or one.doomed)]
        if not going:
            self._begin()
            return
        one = going[0]
        if not one.path:
            self._create(one)
        elif one.unsure:
            self.look(one)
        else:
            chances = [self._append] * 6 + [self._break_off] * 2 + [self.look]
            if self._removals and self._dice.random() < 0.05:
                chances = [self._remove]
            self._dice.choice(chances)(one)
        if self._dice.random() < 0.2:
            self.look(self._dice.choice(self.uploads))
        whole = [one for one in self.uploads if one.complete and not one.doomed]
        if whole and self._removals and self._dice.random() < 0.05:
            # Of a part nothing is missing where it was put to others before.
            self._remove(self._dice.choice(whole))

    def finish(self) -> None:
        """Complete what is left, and compare all of it."""
        for one in list(self.uploads):
            eventually(lambda: self._finished(one), f"end of {one}")  # noqa: B023  called here
        for one in list(self.uploads):
            if one.path and not (one.removed or one.partial):
                self._compare(one)

    def _compare(self, one: Upload) -> None:
        answer = self._ask("GET", one.path, {})
        found = f"{len(answer.body)} bytes, {digest(answer.body)}"
        assert answer.status == 200, (answer.status, found, str(one))
        assert digest(answer.body) == digest(one.content), (found, str(one))

    # --- what is done

    def _begin(self) -> None:
        whole = [one for one in self.uploads if one.partial and one.complete and not one.doomed]
        if len(whole) > 1 and self._dice.random() < 0.5:
            self._concatenate(self._dice.sample(whole, 2))
            return
        content = self._dice.randbytes(self._dice.choice(_SIZES))
        dialect = self._dice.dialect()
        headers = {"Idempotency-Key": f"key {self._dice.randbytes(16).hex()}"}
        if self._dice.random() < 0.5:
            headers = {}
        if dialect.version is None and self._dice.random() < 0.4:
            headers |= {"Upload-Concat": "partial"}
        self.uploads.append(Upload(content, dialect, headers))

    def _create(self, one: Upload) -> None:
        """Create it, be it once more; what has no key was perhaps made in vain."""
        length = len(one.content) if one.dialect.version is None else None
        body = one.content[: self._dice.cut(one.content)] if self._dice.random() < 0.5 else b""
        # With a key it has to be the same request.
        body = one.content if one.key else body
        one.sent = max(one.sent, len(body))
        headers = one.dialect.create(length, ends=one.key) | one.headers
        answer = self._ask("POST", "/files/", headers, body)
        one.trail.append(f"created {answer.status}")
        if answer.status in LATER:
            return
        assert answer.status in {200, 201}, (answer, str(one))
        one.path, one.unsure = urlsplit(answer.headers["location"]).path, True

    def _concatenate(self, parts: list[Upload]) -> None:
        concat = {"Upload-Concat": "final;" + " ".join(one.path for one in parts)}
        answer = self._ask("POST", "/files/", TUS | concat)
        if answer.status in LATER:
            return
        assert answer.status == 201, (answer, [str(one) for one in parts])
        content = b"".join(one.content for one in parts)
        path = urlsplit(answer.headers["location"]).path
        sizes = len(content), len(content)
        self.uploads.append(Upload(content, Dialect(), concat, path, *sizes, complete=True))

    def _append(self, one: Upload, *, most: bool = False) -> None:
        rest = one.content[one.told :]
        body = rest if most else rest[: self._dice.cut(rest)]
        ends = len(body) == len(rest)
        one.sent, one.unsure = max(one.sent, one.told + len(body)), True
        answer = self._ask("PATCH", one.path, one.dialect.append(one.told, ends=ends), body)
        one.trail.append(f"{len(body)} at {one.told}: {answer.status}")
        if answer.status in {200, 201, 204}:
            assert answer.offset == one.told + len(body), (answer, str(one))
            one.tell(answer)
        else:
            # Whoever was not answered may have got further, or to the end.
            assert answer.status in {400, 409, *LATER}, (answer, str(one))

    def _break_off(self, one: Upload) -> None:
        """Send a part of a request and vanish."""
        rest = one.content[one.told :]
        now = self._dice.cut(rest)
        one.sent, one.unsure = max(one.sent, one.told + now), True
        one.trail.append(f"{now} at {one.told}, broken off")
        with Connection(self._port()) as connection:
            size = {"Content-Length": str(len(rest))}
            connection.begin("PATCH", one.path, one.dialect.append(one.told, ends=True) | size)
            connection.send(rest[:now])

    def _remove(self, one: Upload) -> None:
        one.doomed = True
        answer = self._ask("DELETE", one.path, one.dialect.mark)
        one.trail.append(f"removed {answer.status}")
        assert answer.status in {204, 404, 410, *LATER}, (answer, str(one))
        one.removed = answer.status in {204, 404, 410}

    def look(self, one: Upload) -> bool:
        """Ask where it stands and compare; tell whether that was said."""
        if not one.path:
            return False
        answer = self._ask("HEAD", one.path, one.dialect.mark)
        one.trail.append(f"head {answer.status} {answer.headers.get('upload-offset', '')}")
        if answer.status in LATER:
            return False
        gone = answer.status in {404, 410}
        assert gone == one.removed or (one.doomed and not one.removed), (answer, str(one))
        if gone:
            one.removed = True
        else:
            assert answer.status in {200, 204}, (answer, str(one))
            one.tell(answer)
        return True

    def _finished(self, one: Upload) -> bool:
        try:
            if not one.path:
                self._create(one)
            elif self.look(one) and not (one.complete or one.removed):
                self._append(one, most=True)
        except OSError:
            return False
        return (one.complete or one.removed) and self.look(one)

    # --- how it is asked

    def _port(self) -> int:
        return self._dice.choice(self._ports)

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        sized = {"Content-Length": str(len(body))} if method in {"POST", "PATCH"} else {}
        with Connection(self._port()) as connection:
            connection.begin(method, path, {**headers, **sized})
            # An answer may come before the body is wanted.
            with suppress(ConnectionError):
                connection.send(body)
            answer = connection.final(head=method == "HEAD")
        self.answers += answer.status < 300
        return answer


class Crowd:
    """Run clients at once; what any of them finds wrong is raised by `check` and at the end."""

    def __init__(
        self, ports: Sequence[int], seed: int, *, clients: int = 6, removals: bool = True
    ) -> None:
        self._clients = [
            Client(ports, 1000 * seed + number, removals=removals) for number in range(clients)
        ]
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[None]] = []

    @property
    def uploads(self) -> list[Upload]:
        return [one for client in self._clients for one in client.uploads]

    @property
    def answers(self) -> int:
        return sum(client.answers for client in self._clients)

    def begin(self) -> None:
        """Let the clients go."""
        self._stop.clear()
        self._running = [self._pool.submit(self._live, one) for one in self._clients]

    def _live(self, client: Client) -> None:
        while not self._stop.is_set():
            try:
                client.step()
            except OSError:
                self._stop.wait(_PAUSE)

    def wait_for(self, answers: int) -> None:
        """Return when so many more requests were answered."""
        wanted = self.answers + answers

        def look() -> bool:
            self.check()
            return self.answers >= wanted

        eventually(look, f"{answers} answers more")

    def check(self) -> None:
        """Raise what a client found."""
        for one in self._running:
            if one.done():
                one.result()

    def finish(self) -> list[Upload]:
        """Let all clients end their uploads; return those that have to be jobs."""
        self._stop.set()
        for one in self._running:
            one.result()
        for done in [self._pool.submit(client.finish) for client in self._clients]:
            done.result()
        return [one for one in self.uploads if one.path and not (one.removed or one.partial)]

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown()


def assert_each_ran_once(site: Site, uploads: Sequence[Upload]) -> None:
    """Let a worker run the jobs of these uploads."""
    site.work()
    left = {one.path.rpartition("/")[2]: one for one in uploads}
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
        while left:
            ended = eventually(lambda: _ended(client, left), f"end of a job of {len(left)}")
            for upload_id, (state, attempt) in ended.items():
                # Random bytes are no video, but for some that OpenCV takes for one of one frame.
                assert state in {"failed", "completed"}, (state, str(left[upload_id]))
                assert attempt == "1", (attempt, str(left[upload_id]))
                del left[upload_id]


def _ended(client: redis.Redis, ids: Iterable[str]) -> dict[str, list[str]]:
    with client.pipeline(transaction=False) as pipeline:
        for upload_id in ids:
            pipeline.hmget(schema.job_key(upload_id), "state", "attempt")
        answers = pipeline.execute()
    return {one: found for one, found in zip(ids, answers, strict=True) if found[0] in TERMINAL}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
