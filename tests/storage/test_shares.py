"""A job is done in shares: none is lost, whoever dies, and what nobody wants goes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from storage import orphans
from storage import shares as module
from storage.errors import StorageFull
from storage.foreman import Foreman, help_with
from storage.orphans import Orphans
from storage.shares import Claim, ShareGone, Shares, Told, Work, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ID = str(uuid4())
PLAN = b'{"shares": 3}'
DEADLINE = 60.0
HOLD = """
import sys
from pathlib import Path
from storage.shares import Shares, Told
with Shares(Path(sys.argv[1])).join(*sys.argv[2:4]) as work:
    with work.claim(0, fresh=True) as claim:
        claim.tell(Told(3, 2, ("AB12CDE",)))
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def shares(tmp_path: Path) -> Shares:
    return Shares(tmp_path)


@pytest.fixture
def work(shares: Shares) -> Iterator[Work]:
    with shares.begin(ID, PLAN) as found:
        yield found


@pytest.fixture
def holder(tmp_path: Path, work: Work) -> Iterator[subprocess.Popen[str]]:
    """Return another process, which works on the first share."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path), ID, digest(work.plan)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def bring(work: Work, number: int, found: Any) -> None:
    with work.claim(number, fresh=False) as claim:
        assert claim
        claim.bring(found)


def noted() -> tuple[list[int], Callable[[int], int]]:
    """Return a list, and what does a share and puts it there."""
    done: list[int] = []

    def do(number: int) -> int:
        done.append(number)
        return number

    return done, do


def foreman(
    work: Work,
    do: Callable[[int], Any],
    tell: Callable[[Told], None] = lambda _: None,
    call: Callable[[int], None] = lambda _: None,
) -> Foreman:
    return Foreman(work, [10, 10, 10], lambda number, _: do(number), tell=tell, call=call)


def test_what_was_brought_is_found_by_who_joins(shares: Shares, work: Work) -> None:
    bring(work, 1, {"plates": ["Ä"]})
    with shares.join(ID, digest(PLAN)) as joined:
        assert joined
        assert joined.plan == PLAN
        assert [joined.brought(number) for number in range(3)] == [None, {"plates": ["Ä"]}, None]
        assert [joined.is_begun(number) for number in range(3)] == [False, True, False]


def test_what_was_brought_first_stands(work: Work) -> None:
    bring(work, 0, "first")
    bring(work, 0, "second")
    assert work.brought(0) == "first"


def test_a_share_that_somebody_works_on_is_not_to_be_had(
    work: Work, holder: subprocess.Popen[str]
) -> None:
    for fresh in (True, False):
        with work.claim(0, fresh=fresh) as claim:
            assert claim is None
    assert work.told(0) == Told(3, 2, ("AB12CDE",))
    holder.kill()
    holder.wait()
    with work.claim(0, fresh=True) as helper:
        assert helper is None
    with work.claim(0, fresh=False) as claim:
        assert claim


def test_a_share_of_one_who_stands_still_is_done_by_another_one_too(
    work: Work, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder.poll() is None
    with work.claim(0, fresh=False) as claim:
        assert claim is None
    monkeypatch.setattr(module, "_STALLED", 0.0)
    with work.claim(0, fresh=False) as claim:
        assert claim


def test_another_plan_ends_the_work_by_the_former_one(shares: Shares, work: Work) -> None:
    bring(work, 0, "of the former plan")
    with work.claim(1, fresh=True) as claim, shares.begin(ID, b"another") as other:
        assert claim
        assert other.brought(0) is None
        assert_gone(claim, work)
        with shares.join(ID, digest(PLAN)) as former:
            assert former is None


def test_a_job_that_ends_leaves_nothing_and_nothing_comes_back(
    shares: Shares, work: Work, tmp_path: Path
) -> None:
    with work.claim(1, fresh=True) as claim:
        assert claim
        shares.remove(ID)
        assert_gone(claim, work)
    shares.remove(ID)
    assert list((tmp_path / "shares").iterdir()) == []


def assert_gone(claim: Claim, work: Work) -> None:
    with pytest.raises(ShareGone):
        claim.tell(Told(1))
    with pytest.raises(ShareGone):
        claim.bring({})
    with pytest.raises(ShareGone), work.claim(2, fresh=False):
        pass


def test_who_joins_a_job_that_has_ended_finds_nothing(shares: Shares) -> None:
    with shares.join(ID, digest(PLAN)) as work:
        assert work is None


def test_shares_that_nobody_has_open_are_swept_after_an_hour(
    shares: Shares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Orphans(tmp_path)
    with shares.begin(ID, PLAN) as work:
        bring(work, 0, "something")
        assert list(found.find()) == []
        monkeypatch.setattr(orphans, "_OLD", -60.0)
        [orphan] = found.find()
        assert orphan.name == f"shares/{ID}"
        assert not found.remove(orphan)
        assert work.brought(0)
    assert found.uploads_with_crops() == {ID}
    assert found.remove(orphan)
    assert list(found.find()) == []


# --- the foreman


def test_a_foreman_without_helpers_does_all_himself(work: Work) -> None:
    assert foreman(work, lambda number: number * number).run() == [0, 1, 4]


def test_what_others_brought_before_is_not_done_again(work: Work) -> None:
    bring(work, 1, "brought")
    done, do = noted()
    assert foreman(work, do).run() == [0, "brought", 2]
    assert done == [0, 2]


def test_a_foreman_takes_what_nobody_has_begun_first(work: Work) -> None:
    with work.claim(0, fresh=True):
        """Begin it and die."""
    done, do = noted()
    foreman(work, do).run()
    assert done == [1, 2, 0]


def test_a_foreman_waits_for_who_works_and_does_it_himself_when_that_one_dies(
    work: Work, holder: subprocess.Popen[str]
) -> None:
    done, do = noted()
    sums: list[Told] = []

    def tell(told: Told) -> None:
        sums.append(told)
        if set(done) == {1, 2}:
            holder.kill()

    assert foreman(work, do, tell).run() == [0, 1, 2]
    assert done == [1, 2, 0]
    # Two of ten each, and three of the one who died.
    assert sums[-1] == Told(23, 2, ("AB12CDE",))


def test_a_foreman_asks_for_as_many_helpers_as_there_are_shares_that_wait(work: Work) -> None:
    asked: list[int] = []
    bring(work, 0, "brought")
    foreman(work, lambda number: number, call=asked.append).run()
    assert asked == [2]


def test_what_goes_before_it_is_put_together_is_told(shares: Shares, work: Work) -> None:
    bring(work, 0, "brought")

    def do(number: int) -> int:
        if number == 2:
            shares.remove(ID)
        return number

    with pytest.raises(ShareGone):
        foreman(work, do).run()


def test_what_ends_a_run_ends_the_foreman_and_frees_the_share(work: Work) -> None:
    def cancel(_: int) -> Any:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        foreman(work, cancel).run()
    with work.claim(0, fresh=False) as claim:
        assert claim


def test_a_full_disk_costs_a_foreman_nothing_but_what_others_could_have_used(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull

    monkeypatch.setattr(Claim, "bring", full)
    assert foreman(work, lambda number: number).run() == [0, 1, 2]


def test_a_helper_does_only_what_nobody_has_begun(work: Work) -> None:
    with work.claim(0, fresh=True):
        """Begin it and die."""
    assert help_with(work, 3, lambda number, _: number, lambda: False) == 2
    assert [work.brought(number) for number in range(3)] == [None, 1, 2]


def test_a_helper_does_nothing_more_once_it_is_wanted_elsewhere(work: Work) -> None:
    wanted = iter([False, True])
    assert help_with(work, 3, lambda number, _: number, lambda: next(wanted)) == 1
    assert help_with(work, 3, lambda number, _: number, lambda: True) == 0
    assert [work.is_begun(number) for number in range(3)] == [True, False, False]


def test_a_share_that_its_helper_cannot_do_is_left_to_the_foreman(work: Work) -> None:
    def fail(*_: object) -> Any:
        raise LookupError

    for number in range(3):
        with pytest.raises(LookupError):
            help_with(work, 3, fail, lambda: False)
        assert work.is_begun(number)
    # It has killed one helper of each share, and kills no more.
    assert help_with(work, 3, fail, lambda: False) == 0
    assert foreman(work, lambda number: number).run() == [0, 1, 2]


def test_no_share_is_readable_by_everybody(work: Work, tmp_path: Path) -> None:
    bring(work, 0, "AB12CDE")
    files = [path for path in (tmp_path / "shares").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any(path.stat().st_mode & 0o007 for path in files)
