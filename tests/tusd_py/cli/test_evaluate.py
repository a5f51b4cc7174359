from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import cv2
import pytest

from tests.scene import Setting, still, truth, write
from tests.tusd_py.cli.command import run

if TYPE_CHECKING:
    from pathlib import Path

SETTING = Setting(seed=3, fps=10, seconds=4.0, plates=2)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Lay out a drawn video and two stills of drawn cars that are near, with their labels."""
    folder = tmp_path / "drawn"
    for name in ("images", "videos"):
        (folder / name).mkdir(parents=True)
    rows = [("videos/road.mp4", shown.text) for shown in write(folder / "videos/road.mp4", SETTING)]
    for seed in (3, 4):
        one = Setting(seed=seed, fps=10, seconds=4.0, plates=1)
        (car,) = truth(one)
        picture = still(one, car.last_seen - 0.3)
        cv2.imwrite(str(folder / f"images/{seed}.png"), picture)
        rows.append((f"images/{seed}.png", car.text))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "text"), *rows])
    return folder


def test_drawn_plates_are_read_right_and_no_others_are_reported(
    drawn: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, "evaluate", str(drawn), "--json", "--plate-reader", "rapidocr")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["reader"] == "rapidocr"
    assert set(document["scores"]) == {"videos", "images", "all"}
    assert document["scores"]["all"]["labels"] == 4
    assert document["scores"]["all"]["exact"] == 1
    assert document["scores"]["all"]["error_rate"] == 0
    assert document["scores"]["videos"]["false_per_minute"] == 0
    assert document["scores"]["videos"]["speed"] > 0


def test_people_get_a_table_and_a_file_that_cannot_be_read_is_told(
    drawn: Path, tmp_path: Path
) -> None:
    (drawn / "images/3.png").write_bytes(b"broken")
    done = run(tmp_path, "evaluate", str(drawn), "--part", "1/3", "--plate-reader", "rapidocr")
    assert done.returncode == 1
    assert "images/3.png: File must be a video" in done.stderr
    assert "Exact" in done.stdout
    assert "0.000" in done.stdout


@pytest.mark.parametrize(
    ("labels", "part", "sentence"),
    [
        (None, "0/1", "labels.csv: No such file or directory"),
        ("name\nx\n", "0/1", "labels.csv: Expected the columns file, text, got name"),
        ("file,text\n", "2/2", "--part: expected I/N with I below N, got '2/2'"),
        ("file,text\n", "all", "--part: expected I/N with I below N, got 'all'"),
    ],
)
def test_what_is_wrong_with_the_command_is_told(
    labels: str | None, part: str, sentence: str, tmp_path: Path
) -> None:
    if labels is not None:
        (tmp_path / "labels.csv").write_text(labels)
    done = run(tmp_path, "evaluate", str(tmp_path), "--part", part, "--plate-reader", "rapidocr")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
