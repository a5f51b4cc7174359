"""A random walk of clients over two servers, beside a model of what they may rely on."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis

from storage import redis_schema as schema
from tests.acceptance.dice import Dice
from tests.acceptance.model import Dialect, Model, Sending
from tests.acceptance.process import Server, Site, eventually
from tests.acceptance.raw import TERMINAL, TUS, Connection, Document, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Bytes were taken: of tus, and of the drafts.
TAKEN = (200, 201, 204)
# Clients go on after these by themselves.
LATER = (423, 503)


class Walk:
    """Take random steps; the same seed takes the same ones."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._dice = Dice(seed)
        self._servers = [one.listen() for one in (site.begin_to_serve(), site.begin_to_serve())]
        self._uploads: list[Model] = []
        #: Redis was away: until every server is ready again, it may ask to be asked later.
        self._shaken = False
        self.trail: list[str] = []

    def steps(self) -> Mapping[Callable[[], None], int]:
        """Return what may come next, and how often it does."""
        return {
            self.create: 8,
            self.append: 12,
            self.append_elsewhere: 4,
            self.append_what_is_too_long: 2,
            self.append_with_a_wrong_checksum: 3,
            self.append_twice_at_once: 3,
            self.break_off: 8,
            self.stall: 8,
            self.go_on: 6,
            self.concatenate: 3,
            self.remove: 2,
            self.kill_servers: 2,
            self.stop_a_server: 1,
            self.kill_redis: 1,
            self.empty_redis: 1,
        }

    def take(self, count: int) -> None:
        """Take steps, and after each look at an upload; at the end finish all."""
        self.create()
        steps = self.steps()
        for step in self._dice.choices(list(steps), list(steps.values()), k=count):
            self.trail.append(step.__name__)
            step()
            self.look(self._any() if self._dice.random() < 0.5 else self._uploads[-1])
        self.trail.append("finish")
        self.finish()

    # --- what is done

    def create(self) -> None:
        dialect = self._dice.dialect()
        content = self._dice.randbytes(self._dice.choice([0, 1, 1000, 50_000, 400_000]))
        length = len(content) if self._dice.random() < 0.6 else None
        first = content[: self._dice.cut(content)] if self._dice.random() < 0.5 else b""
        ends = first == content and self._dice.random() < 0.5
        headers = dialect.create(length, ends=ends)
        if partial := dialect.version is None and self._dice.random() < 0.4:
            headers |= {"Upload-Concat": "partial"}
        if dialect.version is None:
            headers |= self._dice.checksum(first)
        answer = self._ask("POST", "/files/", headers, first)
        assert answer.status == 201, answer
        path, at = urlsplit(answer.headers["location"]).path, len(first)
        one = Model(path, content, {length}, at, at, partial=partial)
        if dialect.version is not None and ends:
            one.expect_length()
        one.expect_end(dialect, at, ends=ends)
        one.tell_end(dialect, answer)
        self._uploads.append(one)
        self._note(f"{dialect} made {one}")

    def concatenate(self) -> None:
        """Make a final upload of whole partial ones."""
        whole = [one for one in self._uploads if one.partial and one.complete and not one.removed]
        parts = self._dice.choices(whole, k=self._dice.randint(1, 3)) if whole else []
        if not parts:
            return
        concat = {"Upload-Concat": "final;" + " ".join(one.path for one in parts)}
        answer = self._ask("POST", "/files/", TUS | concat)
        assert answer.status == 201, answer
        content = b"".join(one.content for one in parts)
        path, length = urlsplit(answer.headers["location"]).path, len(content)
        self._uploads.append(Model(path, content, {length}, length, length, {True}, final=True))
        self._note(f"made {self._uploads[-1]}")

    def append(self) -> None:
        """Go on where the upload should stand."""
        one = self._unfinished()
        self._append(one, one.rest[: self._dice.cut(one.rest)], self._dice.dialect())

    def append_elsewhere(self) -> None:
        """Send bytes for a place at which the upload surely is not."""
        one = self._unfinished()
        places = [at for at in (0, one.told - 1, one.sent + 1) if not one.told <= at <= one.sent]
        if places and (at := self._dice.choice(places)) >= 0:
            dialect = self._dice.dialect()
            headers = dialect.append(at, ends=False)
            answer = self._patch(one, headers, one.content[at : at + 9])
            assert answer.status in self._possible(409), answer

    def append_what_is_too_long(self) -> None:
        """Announce more than fits: nothing of it is read."""
        one = self._unfinished()
        length = {"Upload-Length": str(len(one.content))}
        more = {"Content-Length": str(len(one.rest) + self._dice.randint(1, 10**6))}
        with Connection(self._server().port) as connection:
            headers = Dialect().append(one.told, ends=True) | more | length
            connection.begin("PATCH", one.path, headers)
            answer = connection.receive()
        assert answer.status in self._possible(413, *(() if one.exact else (409,))), answer

    def append_with_a_wrong_checksum(self) -> None:
        """Send what is not what it says: nothing of it may stay, nor the length beside it."""
        one = self._unfinished()
        body = one.rest[: self._dice.cut(one.rest)]
        checksum = self._dice.checksum(body, always=True)
        if body:
            wrong = bytes(byte ^ 255 for byte in body)
            headers = Dialect().append(one.told, ends=True) | checksum | self._dice.declared(one)
            answer = self._patch(one, headers, wrong)
            assert answer.status in self._possible(460, *(() if one.exact else (409,))), answer

    def append_twice_at_once(self) -> None:
        """Send the same twice: as much is here afterwards as after one of them, or part of it."""
        one, dialect = self._unfinished(), self._dice.dialect()
        body, at = one.rest[: self._dice.cut(one.rest)], one.told
        one.sent = max(one.sent, at + len(body))
        one.expect_end(dialect, at + len(body), ends=False)
        headers = dialect.append(at, ends=False)
        with ThreadPoolExecutor(2) as pool:
            ports = [self._server().port, self._server().port]
            answers = [*pool.map(lambda port: patch(port, one.path, headers, body), ports)]
        self._note(f"{dialect} twice {len(body)} for {one}: {[one.status for one in answers]}")
        assert {answer.status for answer in answers} <= {*TAKEN, 400, 409, 413, *LATER}, answers
        for answer in answers:
            if answer.status in TAKEN:
                assert answer.offset == at + len(body)
        self.look(one)

    def break_off(self) -> None:
        """Send a part of a request and vanish, in one way or another."""
        sending = self._begin()
        assert sending.connection
        if self._dice.random() < 0.5:
            sending.connection.reset()
        else:
            sending.connection.close()
        sending.connection = None

    def stall(self) -> None:
        """Send a part of a request, and for now no more."""
        self._begin()

    def go_on(self) -> None:
        """Send the rest of a request that stalled, and see what it is answered."""
        stalled = [(one, sent) for one in self._uploads for sent in one.sendings if sent.connection]
        if not stalled:
            return
        one, sending = self._dice.choice(stalled)
        assert sending.connection
        one.sent = max(one.sent, sending.last)
        one.expect_end(sending.dialect, sending.last, ends=sending.ends)
        with suppress(ConnectionError):
            sending.connection.send(sending.rest)
            answer = sending.connection.final()
            assert answer.status in {*TAKEN, 400, 409, 413, 460, *LATER}, answer
        one.end(sending)
        self.look(one)

    def remove(self) -> None:
        """Remove an upload, whoever writes it."""
        one = self._any()
        if not one.removed:
            answer = self._ask("DELETE", one.path, self._dice.dialect().mark)
            assert answer.status in {204, *((410,) if self._shaken else ())}, answer
            one.removed = True
            self._see_off(one.sendings)
            one.sendings = []

    def kill_servers(self) -> None:
        """Kill one server or both in the middle of whatever they do."""
        killed = self._dice.sample(self._servers, self._dice.choice([1, 1, 2]))
        for server in killed:
            server.kill9()
        self._restart(*killed)

    def stop_a_server(self) -> None:
        """Ask a server to stop, with the requests that it has."""
        server = self._server()
        server.terminate()
        self._see_off([it for one in self._uploads for it in one.sendings if it.server is server])
        assert server.wait() == 0
        self._restart(server)

    def kill_redis(self) -> None:
        """Kill Redis; the servers start it again."""
        self._steady()
        self._site.kill_redis()
        self._shake()

    def empty_redis(self) -> None:
        """Have Redis forget everything."""
        self._steady()
        with redis.Redis.from_url(self._site.redis_url) as client:
            client.flushall()
        self._shake()

    # --- what is checked

    def look(self, one: Model) -> None:
        """Ask where an upload stands, and check that it may."""
        dialect = self._dice.dialect()
        answer = self._ask("HEAD", one.path, dialect.mark)
        if one.removed:
            # Up to -05 whatever is not active had to be 404.
            assert answer.status in ({410} if dialect.version in {None, 8} else {404}), answer
            return
        assert answer.status in {200, 204}, answer
        self._see_off(one.tell_head(dialect, answer))
        self._note(f"{dialect}: is {one}")
        if one.exact and len(one.ends) == 1 and not one.partial:
            job = self._ask("GET", f"/jobs/{one.id}").json()
            assert (job["status"] != "uploading") == one.complete, (job, one)

    def finish(self) -> None:
        """Send what is left, read everything, and have the jobs run."""
        self._steady()
        present = [one for one in self._uploads if not one.removed]
        for one in present:
            eventually(lambda: self._sent(one) or None, f"end of {one}")  # noqa: B023  called here
        self._site.work()
        for one in self._uploads:
            self.look(one)
            if not one.partial:
                self._check_job(one)
            for sending in one.sendings:
                sending.close()

    def _sent(self, one: Model) -> bool:
        self.look(one)
        if not one.complete:
            self._append(one, one.rest, self._dice.dialect(), last=True)
        return one.complete

    def _check_job(self, one: Model) -> None:
        if one.removed:
            assert self._ask("GET", f"/jobs/{one.id}").status == 410
            return
        assert hashlib.sha256(self._ask("GET", one.path).body).digest() == one.digest
        job = eventually(lambda: self._ended(one), f"end of the job of {one}")
        # Random bytes are no video, but for some that OpenCV takes for one of a single frame.
        assert job["status"] in {"failed", "completed"}, job
        with redis.Redis.from_url(self._site.redis_url, decode_responses=True) as client:
            assert client.hget(schema.job_key(one.id), "attempt") == "1"

    def _ended(self, one: Model) -> Document | None:
        job = self._ask("GET", f"/jobs/{one.id}").json()
        return job if job["status"] in TERMINAL else None

    # --- how it is asked

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Ask a server, and after trouble again until it knows."""

        def look() -> Response | None:
            with Connection(self._server().port) as connection:
                connection.begin(method, path, {**(headers or {}), **sized(method, body)})
                connection.send(body)
                answer = connection.final(head=method == "HEAD")
            if self._shaken and answer.status in LATER:
                return None
            return answer

        return eventually(look, f"answer to {method} {path}")

    def _append(self, one: Model, body: bytes, dialect: Dialect, *, last: bool = False) -> None:
        """Append at the right place, and learn from the answer; `last` leaves no length open."""
        at = one.told + len(body)
        # To one that is complete the drafts add nothing, be it nothing.
        doubts = (*(() if one.exact else (409,)), *((400,) if len(one.ends) > 1 else ()))
        ends = at == len(one.content) and (last or self._dice.random() < 0.6)
        headers = dialect.append(one.told, ends=ends)
        if dialect.version is None:
            headers |= self._dice.checksum(body) | self._dice.declared(one, always=last)
        one.sent = max(one.sent, at)
        answer = self._patch(one, headers, body)
        assert answer.status in self._possible(*TAKEN, *doubts), answer
        if "Upload-Length" in headers or (ends and dialect.version is not None):
            one.expect_length()
        one.expect_end(dialect, at, ends=ends)
        if answer.status in TAKEN:
            assert answer.offset == at
            self._see_off(one.tell(at))
            if len(one.lengths - {None}) == 1 and "Upload-Length" in headers:
                one.tell_length(len(one.content))
            one.tell_end(dialect, answer)
            assert dialect.version is None or one.complete >= ends, one

    def _patch(self, one: Model, headers: Mapping[str, str], body: bytes) -> Response:
        self._note(f"{len(body)} for {one} with {headers}")
        return patch(self._server().port, one.path, headers, body)

    def _begin(self) -> Sending:
        """Send a request at the right place, but perhaps not all of its body."""
        one, server, dialect = self._unfinished(), self._server(), self._dice.dialect()
        at, body = one.told, one.rest[: self._dice.cut(one.rest)]
        now, last = self._dice.cut(body), one.told + len(body)
        ends = last == len(one.content) and self._dice.random() < 0.6
        headers = dialect.append(at, ends=ends)
        checksum = self._dice.checksum(body) if dialect.version is None else {}
        declared = self._dice.declared(one) if dialect.version is None else {}
        connection = Connection(server.port)
        headers |= checksum | declared | sized("PATCH", body)
        connection.begin("PATCH", one.path, headers)
        connection.send(body[:now])
        if declared or (ends and dialect.version is not None):
            one.expect_length()
        # What cannot be checked is not kept.
        lands = 0 if checksum and now < len(body) else now
        sending = Sending(server, dialect, at, at + lands, ends, connection, body[now:], last)
        one.expect(sending)
        one.expect_end(dialect, at + now, ends=ends)
        self._note(f"{now} of {len(body)} for {one} with {headers}")
        return sending

    def _see_off(self, ended: Sequence[Sending]) -> None:
        """See what those are answered who had to let go, came too late, or were not waited for."""
        for sending in ended:
            if sending.connection:
                # What was under way may reset the connection before the answer is read.
                with suppress(ConnectionError):
                    answer = sending.connection.final()
                    whole = () if sending.rest else (*TAKEN, 460)
                    assert answer.status in {400, 404, 409, 410, 413, *LATER, *whole}, answer
            sending.close()

    # --- what is around it

    def _note(self, what: str) -> None:
        self.trail.append(f"  {what}")

    def _any(self) -> Model:
        return self._dice.choice(self._uploads)

    def _unfinished(self) -> Model:
        """Choose an upload that goes on; where there is none, make one."""
        going = [one for one in self._uploads if not (one.removed or one.complete or one.final)]
        while not going:
            self.create()
            going = [one for one in self._uploads[-1:] if not one.complete]
        return self._dice.choice(going)

    def _server(self) -> Server:
        return self._dice.choice(self._servers)

    def _possible(self, *statuses: int) -> tuple[int, ...]:
        return (*statuses, *(LATER if self._shaken else ()))

    def _restart(self, *ended: Server) -> None:
        for one in self._uploads:
            for sending in [sent for sent in one.sendings if sent.server in ended]:
                one.end(sending)
        again = [self._site.begin_to_serve(port=server.port) for server in ended]
        self._servers = [one for one in self._servers if one not in ended]
        self._servers += [server.listen() for server in again]

    def _shake(self) -> None:
        self._shaken = True
        for one in self._uploads:
            for sending in one.sendings:
                sending.unasked = True

    def _steady(self) -> None:
        """Wait until nothing of the last trouble is left."""
        for server in self._servers:
            eventually(lambda: self._ready(server), f"readiness of {server.name}")  # noqa: B023  called here
        self._shaken = False

    @staticmethod
    def _ready(server: Server) -> bool:
        with Connection(server.port) as connection:
            return connection.request("GET", "/ready", {}).status == 200


def patch(port: int, path: str, headers: Mapping[str, str], body: bytes) -> Response:
    """Send a whole PATCH and return its final response."""
    with Connection(port) as connection:
        connection.begin("PATCH", path, {**headers, **sized("PATCH", body)})
        connection.send(body)
        return connection.final()


def sized(method: str, body: bytes) -> dict[str, str]:
    return {"Content-Length": str(len(body))} if method in {"POST", "PATCH"} else {}
