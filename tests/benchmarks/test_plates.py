from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks import plates
from benchmarks.plate_sets import films, pictures, samples
from processing.evaluate import Label, Outcome, score
from processing.result import Box, Plate

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_rows_that_were_measured_again_are_replaced_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "PLATES.md"
    path.write_text(f"Above.\n\n{plates.MARKS[0]}{plates.MARKS[1]}\nBelow.\n")
    monkeypatch.setattr(plates, "PLACE", path)
    plates._replace(["| alpr | stills us | 1 |\n", "| alpr | drawn | 2 |\n"])
    plates._replace(["| rapidocr | drawn | 3 |\n", "| alpr | stills us | 4 |\n"])
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("Above.", "Below.")
    assert [line for line in lines if line.startswith(plates.ENGINE_CELLS)] == [
        "| rapidocr | drawn | 3 |",
        "| alpr | stills us | 4 |",
        "| alpr | drawn | 2 |",
    ]
    assert "".join(f"{line}\n" for line in lines).count(plates.HEAD) == 1


def test_a_row_has_a_cell_for_each_figure_and_none_for_what_was_not_measured() -> None:
    box = Box(1, 2, 30, 10)
    still = Outcome((Label("AB12", box),), (Plate("AB12", 0.9, 0, 0, 1, box),), 0.0, 0.25)
    row = plates._row("rapidocr", "stills us", score([still]))
    assert row.count("|") == plates.HEAD.splitlines()[0].count("|")
    told = "| rapidocr | stills us | 1 | 1.000 | 0.000 | 1.000 |  | 0.100 |  | 0.25 |"
    assert row.startswith(told)


def test_real_samples_are_taken_where_they_lie_and_left_out_where_not(tmp_path: Path) -> None:
    assert samples("stills", tmp_path, tmp_path) == {}
    (tmp_path / "plates" / "us").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "plates/us/a.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "plates/labels.csv").write_text("file,text\nus/a.png,AB12\n")
    found = samples("stills", tmp_path, tmp_path)
    assert found == {"stills us": [(tmp_path / "plates/us/a.png", (Label("AB12"),))]}


def test_drawn_samples_are_labelled_with_what_they_show(tmp_path: Path) -> None:
    (one, two) = pictures(tmp_path, range(7, 9))
    (label,) = one[1]
    assert label.box is not None
    drawn = cv2.imread(str(one[0]))
    assert drawn is not None
    assert drawn.shape == (544, 960, 3)
    assert two[1][0].box != label.box
    ((path, labels),) = films(tmp_path, range(1, 2))
    assert len(labels) == 3
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 60
