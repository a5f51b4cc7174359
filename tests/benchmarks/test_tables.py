"""Medians, ratios with their spread, and the tables that tell them."""

from __future__ import annotations

from benchmarks.report import summary
from benchmarks.rows import rows
from benchmarks.tables import Results, Spread, table
from benchmarks.targets import Target, speed, verdicts
from tests.benchmarks.figures import figures


def ours_and_splice(ours: list[float], splice: list[float]) -> Results:
    return Results(
        [
            figures("big", server, number, speed=value)
            for server, values in (("ours", ours), ("splice", splice))
            for number, value in enumerate(values)
        ]
    )


def test_a_spread_holds_the_median_the_least_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([]) is None
    assert str(Spread(0.5, 0.25, 1)) == "0.50 (0.25..1.00)"


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine was twice as fast in the second round: that is no difference of the servers.
    results = ours_and_splice([50, 100, 60], [100, 200, 100])
    assert results.ratio("big", "ours", "splice", speed) == Spread(0.5, 0.5, 0.6)


def test_a_round_without_the_other_server_is_compared_with_its_median() -> None:
    results = ours_and_splice([50, 50, 50], [100])
    assert results.ratio("big", "ours", "splice", speed) == Spread(0.5, 0.5, 0.5)


def test_there_is_no_ratio_to_a_server_that_was_not_measured() -> None:
    results = ours_and_splice([50], [])
    assert results.ratio("big", "ours", "splice", speed) is None


def test_a_server_that_did_nothing_has_no_ratio_and_no_speed() -> None:
    results = ours_and_splice([50], [0])
    assert results.ratio("big", "ours", "splice", speed) is None
    assert results.median("big", "splice", speed) is None


def test_a_target_is_reached_by_the_median_and_by_nothing_else() -> None:
    target = Target("1 GiB", "big", "ours", "splice", 0.85, speed)
    assert target.cells(ours_and_splice([90, 10, 90], [100, 100, 100]))[-1] == "reached"
    assert target.cells(ours_and_splice([10, 90, 10], [100, 100, 100]))[-1] == "missed"
    assert target.cells(ours_and_splice([90], []))[-1] == "not measured"


def test_a_target_that_is_an_upper_bound_is_missed_above_it() -> None:
    target = Target("CPU", "big", "ours", "splice", 1.2, speed, at_most=True)
    assert target.cells(ours_and_splice([120], [100]))[-1] == "reached"
    assert target.cells(ours_and_splice([121], [100]))[-1] == "missed"


def test_a_figure_with_wrong_answers_reaches_nothing() -> None:
    target = Target("1 GiB", "big", "ours", "splice", 0.85, speed)
    found = [figures("big", "ours", errors=1), figures("big", "splice")]
    assert target.cells(Results(found))[-1] == "wrong answers"


def test_columns_stand_in_their_order_whoever_was_measured_first() -> None:
    found = [figures("big", name) for name in ("other", "ours", "splice")]
    assert Results(found, ("splice", "recv", "ours")).servers() == ["splice", "ours", "other"]


def test_memory_is_the_sum_of_all_processes() -> None:
    below, above = (
        verdicts(Results([figures("big", "ours", peak=peak)])).splitlines()
        for peak in (39_000_000, 41_000_000)
    )
    title = "| peak memory, 1 GiB in one PATCH | < 80 MB |"
    assert f"{title} 78 MB | reached |" in below
    assert f"{title} 82 MB | missed |" in above


def test_processor_time_is_told_for_a_gib_and_for_an_operation() -> None:
    one = figures("big", "ours", cpu=1.5)
    assert one.cpu_per_gib == 1.5
    assert one.cpu_per_operation == 1500


def test_a_table_is_markdown_with_its_figures_on_the_right() -> None:
    assert table(["", "ours"], [["HEAD", "7"]]) == "|  | ours |\n| --- | ---: |\n| HEAD | 7 |"


def test_the_summary_names_wrong_answers() -> None:
    results = Results([figures("big", "ours", errors=3)])
    assert "- ours, big, round 1: 3 (PATCH: expected Upload-Offset 7)" in summary(results, rows())


def test_the_summary_compares_with_the_bare_receiver_and_with_peers() -> None:
    servers = {"ours": 50, "splice": 100, "@tus/server": 25}
    results = Results([figures("big", name, speed=value) for name, value in servers.items()])
    text = summary(results, rows())
    assert "| 1 GiB in one PATCH, MB/s | 50.0 | 100.0 | 25.0 |" in text
    assert "| 1 GiB in one PATCH | 0.50 (0.50..0.50) | 0.25 (0.25..0.25) |" in text
    assert "| 1 GiB in one PATCH | 2.00 (2.00..2.00) |" in text
