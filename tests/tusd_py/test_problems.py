"""Whatever goes wrong in a store, clients of the API are told in its terms, and no more."""

from __future__ import annotations

import json

import pytest

from storage.errors import (
    DiskFailed,
    JournalDamaged,
    LockLost,
    RecordTooNew,
    StorageError,
    StoreUnavailable,
    UploadGone,
    UploadLocked,
    UploadNotFound,
)
from tusd_py.problems import problem, refused

INNER = "/data/AB12CDE is not for clients"


@pytest.mark.parametrize(
    ("error", "status", "later"),
    [
        (UploadNotFound(INNER), 404, None),
        (UploadGone(INNER), 410, None),
        (JournalDamaged(INNER), 410, None),
        (UploadLocked(INNER), 423, "1"),
        (LockLost(INNER), 503, "1"),
        (StoreUnavailable(INNER), 503, "1"),
        (DiskFailed(INNER), 503, "1"),
    ],
)
def test_the_inner_words_of_a_store_stay_inside(
    error: StorageError, status: int, later: str | None
) -> None:
    answer = refused(error)
    said = json.loads(bytes(answer.body))
    assert (answer.status_code, said["status"]) == (status, status)
    assert answer.headers.get("retry-after") == later
    assert INNER not in said["detail"]


def test_a_record_of_a_newer_program_is_refused_in_its_own_sentence() -> None:
    answer = refused(RecordTooNew("this record has version 2: upgrade"))
    assert answer.status_code == 503
    assert json.loads(bytes(answer.body))["detail"] == "this record has version 2: upgrade"


def test_a_problem_has_the_words_of_its_status_and_is_kept_by_nobody() -> None:
    answer = problem(409, "why", {"x-more": "1"})
    assert json.loads(bytes(answer.body)) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "why",
    }
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["cache-control"], answer.headers["x-more"]) == ("no-store", "1")
