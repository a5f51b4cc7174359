"""What is new to one watcher of jobs: what it was told stands in the id of each event.

So a client that comes again goes on where it was. States may be missed, plates are not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import Response

from storage.errors import StorageError, UploadGone
from storage.job import JobState
from tusd_py.problems import refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tusd_py.feeds import Feed, Sight

_CURSOR = re.compile(r"(\d{1,7})\.(\d{0,9})\.([0-9a-f]{0,12})", re.ASCII)


class Event(NamedTuple):
    """Tell something of a job: `data` is a JSON object, `id` is what the watcher then knows."""

    id: str
    name: str
    data: str


@dataclass(slots=True)
class Cursor:
    """Say how much of one job was told: plates, hand-overs, and the end by its name.

    None are hand-overs that nobody knows of yet.
    """

    plates: int = 0
    takeovers: int | None = None
    end: str = ""

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Parse what `str` builds."""
        found = _CURSOR.fullmatch(text)
        if not found:
            return None
        return cls(int(found[1]), int(found[2]) if found[2] else None, found[3])

    def __str__(self) -> str:
        takeovers = "" if self.takeovers is None else self.takeovers
        return f"{self.plates}.{takeovers}.{self.end}"


class _Told:
    """Know what was told of one job, and say what is to be told next."""

    def __init__(self, feed: Feed, cursor: Cursor | None) -> None:
        self.feed = feed
        self.cursor = cursor or Cursor()
        self.returns = cursor is not None
        self._missing = False
        self._body: str | None = None
        self._position: int | None = None

    @property
    def ended(self) -> bool:
        """Tell whether the end of the job was told, perhaps on an earlier connection."""
        sight = self.feed.sight
        return self._missing or (sight is not None and "" != sight.end == self.cursor.end)

    def news(self, base: str) -> Iterator[tuple[str, str]]:
        """Yield names and data of what is new, and take it for told."""
        if self.ended:
            return
        if self.feed.sight is not None:
            yield from self._hand_overs(self.feed.sight)
            yield from self._plates(self.feed.sight)
            yield from self._job(self.feed.sight, base)
            yield from self._queue(self.feed.sight)
        elif self.feed.missing is not None:
            self._missing = True
            yield "missing", _problem(self.feed.job_id, self.feed.missing)

    def _hand_overs(self, sight: Sight) -> Iterator[tuple[str, str]]:
        before, self.cursor.takeovers = self.cursor.takeovers, sight.job.takeovers
        # What happened before somebody began to watch is no news.
        if before is not None and before < sight.job.takeovers:
            yield "lock", _json(job_id=sight.job.id, takeovers=sight.job.takeovers)

    def _plates(self, sight: Sight) -> Iterator[tuple[str, str]]:
        # Fewer than before: the job was begun anew.
        self.cursor.plates = min(self.cursor.plates, len(sight.plates))
        while self.cursor.plates < len(sight.plates):
            number = self.cursor.plates
            self.cursor.plates += 1
            yield "plate", _json(job_id=sight.job.id, number=number, text=sight.plates[number])

    def _queue(self, sight: Sight) -> Iterator[tuple[str, str]]:
        before, self._position = self._position, sight.position
        if sight.position is not None and sight.position != before:
            yield "queue", _json(job_id=sight.job.id, position=sight.position)

    def _job(self, sight: Sight, base: str) -> Iterator[tuple[str, str]]:
        body = self.feed.described(base)
        if body == self._body:
            return
        self._body = body
        self.cursor.end = sight.end
        yield "cancelled" if sight.job.state is JobState.CANCELLED else "job", body


class Watcher:
    """Hold what one client knows of the jobs that it watches."""

    def __init__(self, feeds: Sequence[Feed], base: str, last_event_id: str) -> None:
        cursors = [Cursor.parse(text) for text in last_event_id.split(",")]
        known = len(cursors) == len(feeds) and all(cursors)
        self._told = [
            _Told(feed, cursor if known else None)
            for feed, cursor in zip(feeds, cursors if known else [None] * len(feeds), strict=True)
        ]
        self._base = base

    def refusal(self) -> Response | None:
        """Return the answer for who has nothing to watch here."""
        if all(told.ended for told in self._told):
            # A page's EventSource comes again until it is told so.
            return Response(status_code=204, headers={"cache-control": "no-store"})
        gone = [_gone(told) for told in self._told]
        return refused(gone[0]) if gone[0] is not None and all(gone) else None

    @property
    def ended(self) -> bool:
        """Tell whether there will be nothing more to tell."""
        return all(told.ended for told in self._told)

    def news(self) -> list[Event]:
        """Return what is new, and take it for told."""
        found = []
        for told in self._told:
            for name, data in told.news(self._base):
                found.append(Event(self._id(), name, data))
        return found

    def _id(self) -> str:
        return ",".join(str(told.cursor) for told in self._told)


def _gone(told: _Told) -> StorageError | None:
    sight = told.feed.sight
    # Who watched it when it was cancelled is told so.
    if sight is not None and sight.job.state is JobState.CANCELLED and not told.returns:
        return UploadGone()
    return told.feed.missing


def _problem(job_id: str, error: StorageError) -> str:
    return _json(job_id=job_id, **json.loads(bytes(refused(error).body)))


def _json(**fields: object) -> str:
    return json.dumps(fields, separators=(",", ":"))
