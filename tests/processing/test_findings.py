from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields

import pytest

from processing.findings import Findings
from processing.result import Box, Reading, Text
from processing.track import Event

READING = Reading(
    frame=7,
    time=0.1 + 0.2,
    box=Box(1, 2, 3, 4),
    text="AB12CDE",
    confidence=1 / 3,
    characters=(0.1, 1 / 7),
    crop=b"\xff\xd8 any bytes \x00",
    views=(Text("ab-12 CDE", 2 / 3, (0.5,)), Text("", 0.0)),
    score=0.123456789,
)
FOUND = Findings(
    events=(Event(0.3, (READING, READING)), Event(0.4, held=READING)),
    frames=20,
    analysed=4,
    undecodable=1,
    duration=10 / 3,
    seconds={"decode": 0.1},
)


def test_the_example_leaves_no_field_of_a_reading_at_its_default() -> None:
    for field in fields(Reading):
        assert field.default is MISSING or getattr(READING, field.name) != field.default


def test_nothing_is_rounded_or_lost_on_the_way() -> None:
    again = Findings.from_json(json.loads(json.dumps(FOUND.to_json())))
    assert asdict(again) == asdict(FOUND)


@pytest.mark.parametrize("document", [{}, {"events": [{}]}, {"events": 5}, []])
def test_another_document_is_refused(document: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Findings.from_json(document)  # type: ignore[arg-type]
