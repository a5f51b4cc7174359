"""Watchers that are measured have all seen the last change."""

from __future__ import annotations

import json

import pytest

from benchmarks import watchers


@pytest.mark.parametrize("way", [[], ["--socket"]])
def test_watchers_of_either_way_are_measured(
    way: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert watchers.main(["--watchers", "5", "--changes", "3", *way]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["watchers"] == 5
    assert 5 <= figures["told"] <= 15
    assert figures["rss_mb"] > figures["rss_without_mb"] * 0.5
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["most_ms"] + 1
