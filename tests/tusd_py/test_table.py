"""A table of plates can be read by every spreadsheet, and none runs what is in it."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd_py.table import csv_of

PLATE = {"text": "AB12CDE", "confidence": 0.98, "first_seen": 1.5, "last_seen": 2.0}
BOX = {"x": 1, "y": 2, "width": 30, "height": 10}


def rows(plates: list[dict[str, Any]]) -> list[list[str]]:
    return list(csv.reader(io.StringIO(csv_of(plates).decode(), newline=""), strict=True))


def test_each_plate_is_a_row_below_the_names_and_lines_end_as_rfc_4180_has_it() -> None:
    text = csv_of([{**PLATE, "detections": 7, "box": BOX}, {**PLATE, "detections": 1, "box": None}])
    assert text == (
        b"number,text,confidence,first_seen,last_seen,detections,x,y,width,height\r\n"
        b"0,AB12CDE,0.98,1.5,2.0,7,1,2,30,10\r\n"
        b"1,AB12CDE,0.98,1.5,2.0,1,,,,\r\n"
    )


def test_no_plates_are_the_names_alone() -> None:
    assert len(rows([])) == 1


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff20"])
def test_what_a_spreadsheet_takes_for_a_formula_is_text(first: str) -> None:
    [_, row] = rows([{"text": f"{first}HYPERLINK(A1)"}])
    assert row[1] == f"'{first}HYPERLINK(A1)"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_comes_back_as_it_was_but_for_the_mark(texts: list[str]) -> None:
    read = [row[1] for row in rows([{"text": text} for text in texts])[1:]]
    assert [one.removeprefix("'") for one in read] == [text.removeprefix("'") for text in texts]
