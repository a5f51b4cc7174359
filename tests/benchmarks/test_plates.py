from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks import plates
from processing.evaluate import Label, Outcome, score
from processing.result import Box, Plate

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_table_replaces_the_one_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "PLATES.md"
    path.write_text(f"Above.\n\n{plates.MARKS[0]}old\n{plates.MARKS[1]}\nBelow.\n")
    monkeypatch.setattr(plates, "PLACE", path)
    for table in ("| first |\n", "| second |\n"):
        plates._replace(table)
    text = path.read_text()
    assert text.startswith("Above.\n")
    assert text.endswith("\nBelow.\n")
    assert "| second |" in text
    assert "old" not in text
    assert "first" not in text


def test_a_row_has_a_cell_for_each_figure_and_none_for_what_was_not_measured() -> None:
    box = Box(1, 2, 30, 10)
    still = Outcome((Label("AB12", box),), (Plate("AB12", 0.9, 0, 0, 1, box),), 0.0, 0.25)
    row = plates._row("rapidocr", "stills us", score([still]))
    assert row.count("|") == plates.HEAD.splitlines()[0].count("|")
    assert row == "| rapidocr | stills us | 1 | 1.000 | 0.000 | 1.000 |  | 0.100 |  | 0.25 |\n"


def test_real_samples_are_taken_where_they_lie_and_left_out_where_not(tmp_path: Path) -> None:
    assert plates._real(tmp_path) == {}
    (tmp_path / "plates" / "us").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "plates/us/a.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "plates/labels.csv").write_text("file,text\nus/a.png,AB12\n")
    found = plates._real(tmp_path)
    assert found == {"stills us": [(tmp_path / "plates/us/a.png", (Label("AB12"),))]}
