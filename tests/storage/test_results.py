"""A result and its pictures come together, of one run, whatever dies on the way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from storage.results import Results

if TYPE_CHECKING:
    from pathlib import Path

ID = str(uuid4())


class Killed(BaseException):
    """The process of a run is killed here."""


@pytest.fixture
def results(tmp_path: Path) -> Results:
    found = Results(tmp_path)
    found.prepare()
    return found


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*"))


def crops(results: Results) -> list[bytes | None]:
    return [results.crop(ID, number) for number in range(3)]


def test_a_result_comes_with_the_pictures_that_there_are(results: Results, tmp_path: Path) -> None:
    assert results.publish(ID, b"{}", [b"first", b"", b"third"])
    assert results.get(ID) == b"{}"
    assert crops(results) == [b"first", None, b"third"]
    published = [f"crops/{ID}/0.jpg", f"crops/{ID}/2.jpg", f"crops/{ID}/result.json"]
    assert files(tmp_path) == [*published, f"results/{ID}.json"]


def test_a_second_result_changes_neither_the_first_nor_its_pictures(
    results: Results, tmp_path: Path
) -> None:
    results.publish(ID, b"1", [b"a"])
    before = files(tmp_path)
    assert not results.publish(ID, b"2", [b"b", b"c"])
    assert (results.get(ID), crops(results)) == (b"1", [b"a", None, None])
    assert files(tmp_path) == before


@pytest.mark.parametrize("step", ["rename", "link", "fsync"])
@pytest.mark.parametrize("call", range(3))
def test_a_run_that_is_killed_leaves_nothing_that_another_one_mixes_with_its_own(
    results: Results, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    calls = 0

    def kill(*args: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise Killed
        return real(*args, **named)

    real = getattr(os, step)
    with monkeypatch.context() as patched:
        patched.setattr(os, step, kill)
        try:
            results.publish(ID, b"1", [b"1", b"1"])
        except Killed:
            assert calls == call + 1
    results.publish(ID, b"2", [b"2", b"2", b"2"])
    found = results.get(ID)
    assert found in {b"1", b"2"}
    assert crops(results) == ([b"1", b"1", None] if found == b"1" else [b"2"] * 3)


def test_of_many_runs_at_once_one_publishes_all_that_it_found(results: Results) -> None:
    def publish(run: int) -> bool:
        return results.publish(ID, b"%d" % run, [b"%d" % run] * 3)

    with ThreadPoolExecutor(8) as threads:
        published = list(threads.map(publish, range(8)))
    result = results.get(ID)
    assert sum(published) == 1
    assert crops(results) == [result] * 3


def test_a_run_whose_result_another_one_names_has_published_it(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, others = os.link, list[bool]()

    def link_late(*names: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        others.append(results.publish(ID, b"theirs", []))
        link(*names)

    monkeypatch.setattr(os, "link", link_late)
    assert results.publish(ID, b"ours", [])
    assert others == [False]
    assert results.get(ID) == b"ours"


@pytest.mark.parametrize("left", ["nothing", "0.jpg"])
def test_what_a_broken_removal_left_is_in_nobodys_way(
    results: Results, tmp_path: Path, left: str
) -> None:
    place = tmp_path / "crops" / ID
    place.mkdir()
    if left != "nothing":
        (place / left).write_bytes(b"of before")
    assert results.publish(ID, b"{}", [b"", b"new"])
    assert crops(results) == [None, b"new", None]


def test_a_removed_result_takes_its_pictures_along(results: Results, tmp_path: Path) -> None:
    results.publish(ID, b"{}", [b"a"])
    results.remove(ID)
    results.remove(ID)
    assert list(tmp_path.glob("*/*")) == []
    assert (results.get(ID), results.crop(ID, 0)) == (None, None)
