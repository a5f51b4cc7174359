"""All jobs, for who runs the server: ids are capabilities, so nobody else may list them."""

from __future__ import annotations

import hmac
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from anyio import to_thread
from pydantic import BaseModel, Field
from starlette.responses import Response

from storage.errors import StorageError
from storage.job import JobState, Place
from tusd_py.headers import Headers
from tusd_py.problems import NO_STORE, problem, refused
from tusd_py.resource import JobResource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

    from storage.interfaces import DataStore, Listing
    from storage.job import Listed
    from tusd_py.origin import Origin

MOST = 200
USUAL = 50
# Jobs that one request looks at, whatever its filters leave of them.
_LOOKED_AT = 1000
_BATCH = 100
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE | re.ASCII)
# RFC 3339, section 5.6: day, time of the day, fraction of the second, offset.
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII | re.IGNORECASE,
)
CURSOR = r"^[0-9]{1,12}(\.[0-9]{1,17})?_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_CURSOR = re.compile(CURSOR, re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,3}", re.ASCII)
_NOT_IN_PLATES = re.compile(r"[^A-Z0-9]+")


class JobPage(BaseModel):
    """Hold some of the jobs, the newest first."""

    jobs: list[JobResource] = Field(description="What the filters left; it may be empty.")
    next: str | None = Field(
        description="The cursor that goes on from here; null: there are no more.",
        examples=["1764246965.25_550e8400-e29b-41d4-a716-446655440000"],
    )


class InvalidQuery(ValueError):
    """Refuse a query: the sentence says what was expected and what came."""

    def __init__(self, name: str, expected: str, came: str) -> None:
        super().__init__(f"{name}: expected {expected}, got {came[:60]!r}")


@dataclass(frozen=True, slots=True)
class Query:
    """Say which jobs are wanted; times are seconds since the epoch."""

    start: Place
    until: float = -math.inf
    limit: int = USUAL
    states: frozenset[JobState] = frozenset()
    filename: str = ""
    plate: str | None = None

    @classmethod
    def parse(cls, given: QueryParams) -> Query:
        """Read a query; raise InvalidQuery."""
        start = Place(math.inf, "")
        if (before := given.get("created_before")) is not None:
            start = Place(_time("created_before", before), "")
        if (cursor := given.get("cursor")) is not None:
            start = min(start, _place(cursor))
        after = given.get("created_after")
        return cls(
            start,
            -math.inf if after is None else _time("created_after", after),
            _limit(given.get("limit", str(USUAL))),
            frozenset(_state(name) for name in given.getlist("status")),
            given.get("filename", "").casefold(),
            _plate(given.get("plate", "")),
        )

    def wants(self, listed: Listed, resource: JobResource) -> bool:
        """Tell whether a job is wanted, as far as its record tells."""
        if self.states and listed.job.state not in self.states:
            return False
        return self.filename in (resource.filename or "").casefold()


class Jobs:
    """Serve `GET /jobs` to who knows the token."""

    def __init__(self, listing: Listing, data: DataStore, origin: Origin, token: str) -> None:
        self._listing = listing
        self._data = data
        self._origin = origin
        self._token = token.encode()

    async def list(self, request: Request) -> Response:
        """Return a page of jobs; 401 without the token."""
        headers = Headers(request.scope["headers"])
        if (refusal := self._refusal(headers)) is not None:
            return refusal
        base = self._origin.of(request.scope, headers).base
        try:
            page = await self._page(Query.parse(request.query_params), base)
        except InvalidQuery as error:
            return problem(400, str(error))
        except StorageError as error:
            return refused(error)
        return Response(page.model_dump_json(), media_type="application/json", headers=NO_STORE)

    def _refusal(self, headers: Headers) -> Response | None:
        challenge = 'Bearer realm="jobs"'
        lines = headers.lines("authorization")
        if not lines:
            detail = "expected the ADMIN_TOKEN of this server as a bearer token"
            return problem(401, detail, {"www-authenticate": challenge})
        found = _BEARER.fullmatch(lines[0]) if len(lines) == 1 else None
        if found and hmac.compare_digest(found[1].encode(), self._token):
            return None
        challenge += ', error="invalid_token"'
        return problem(401, "this is not the token", {"www-authenticate": challenge})

    async def _page(self, query: Query, base: str) -> JobPage:
        found: list[JobResource] = []
        place, looked = query.start, 0
        while looked < _LOOKED_AT:
            batch = await self._listing.after(place, query.until, _BATCH)
            if not batch:
                return JobPage(jobs=found, next=None)
            looked += len(batch)
            for listed in batch:
                place = listed.place
                resource = JobResource.of_upload(listed.job, listed.upload, base)
                if query.wants(listed, resource) and await self._shows(listed.job.id, query.plate):
                    found.append(resource)
                if len(found) == query.limit:
                    return JobPage(jobs=found, next=_cursor(place))
        return JobPage(jobs=found, next=_cursor(place))

    async def _shows(self, job_id: str, plate: str | None) -> bool:
        """Tell whether the result of a job has this plate, or one with this in it."""
        if plate is None:
            return True
        # What has no letter and no digit is in no plate.
        result = await to_thread.run_sync(self._data.result, job_id) if plate else None
        return result is not None and any(str(plate) in text for text in _texts(result))


def _plate(text: str) -> str | None:
    return _NOT_IN_PLATES.sub("", text.upper()) if text else None


def _texts(result: bytes) -> Iterator[str]:
    return (str(plate["text"]) for plate in json.loads(result)["plates"])


def _state(name: str) -> JobState:
    try:
        return JobState(name)
    except ValueError:
        raise InvalidQuery("status", f"one of {', '.join(JobState)}", name) from None


def _limit(text: str) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= MOST:
        raise InvalidQuery("limit", f"a number from 1 to {MOST}", text)
    return int(text)


def _time(name: str, text: str) -> float:
    refusal = InvalidQuery(name, "a time such as 2026-11-27T12:00:00Z", text)
    # Python takes more than RFC 3339 allows, but neither its leap seconds nor its year 0.
    found = _TIME.fullmatch(text)
    if not found:
        raise refusal
    day, clock, fraction, offset = found.groups()
    clock, leaps = (f"{clock[:-2]}59", 1) if clock.endswith(":60") else (clock, 0)
    day = "0001" + day[4:] if day.startswith("0000") else day
    try:
        second = datetime.fromisoformat(f"{day}T{clock}{offset.upper()}").timestamp()
    except (ValueError, OverflowError):
        raise refusal from None
    return second + leaps + float(f"0{fraction or ''}")


def _cursor(place: Place) -> str:
    return f"{place.created_at!r}_{place.job_id}"


def _place(cursor: str) -> Place:
    if not _CURSOR.fullmatch(cursor):
        raise InvalidQuery("cursor", "what `next` said", cursor)
    seconds, _, job_id = cursor.partition("_")
    return Place(float(seconds), job_id)
