"""docs/protocol.md and docs/protocol-resumable.md name proofs; each is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests import proofs
from tests.acceptance import test_conformance, test_wire_cases

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = (proofs.ROOT / "docs" / "protocol.md").read_text()


def rows() -> list[str]:
    """Return the rows of its tables that say something."""
    return [line for line in TEXT.splitlines() if line.startswith("| ") and "---" not in line]


def test_every_test_that_the_protocols_document_names_exists() -> None:
    assert proofs.missing(TEXT) == []


@pytest.mark.parametrize(
    ("short", "cases"),
    [("case", test_wire_cases.CASES), ("public", test_conformance.CASES)],
)
def test_every_case_that_the_protocols_document_names_exists(
    short: str, cases: Mapping[str, object]
) -> None:
    found = re.findall(rf"`{short}\[([^\]]+)\]`", TEXT)
    assert found
    assert set(found) <= cases.keys()


def test_every_row_of_the_protocols_document_names_a_proof() -> None:
    said = [row for row in rows() if not row.endswith("| proof |")]
    assert len(said) > 50
    assert [row for row in said if not re.search(r"`(case|public)\[|::test_", row)] == []


#: What the document of the drafts calls its test files.
FILES = {
    "P": "tests/tusd_py/test_resumable.py",
    "A": "tests/acceptance/test_resumable.py",
    "C": "tests/acceptance/test_resumable_cases.py",
    "F": "tests/acceptance/test_resumable_faults.py",
}


def short_proofs() -> list[tuple[str, str]]:
    """Return file and part of a name of each test in the last column of the drafts' tables."""
    text = (proofs.ROOT / "docs" / "protocol-resumable.md").read_text()
    found = []
    for row in re.findall(r"^\|.*", text, re.MULTILINE):
        file = ""
        for letter, part in re.findall(r"\b([PACF]) (?=`)|`(\w+)`", row.rpartition(" | ")[2]):
            file = letter or file
            if file and part:
                found.append((file, part))
    return found


def test_every_test_that_the_document_of_the_drafts_names_exists() -> None:
    named = short_proofs()
    assert len(named) > 40
    names = {file: " ".join(proofs.tests_of(path)) for file, path in FILES.items()}
    assert [(file, part) for file, part in named if part not in names[file]] == []


def test_a_proof_that_does_not_exist_is_missed() -> None:
    assert proofs.missing("tests/test_proofs.py::test_nothing, tests/none.py::test_x") == [
        "tests/test_proofs.py::test_nothing",
        "tests/none.py::test_x",
    ]


def test_every_test_that_the_document_of_durability_names_exists() -> None:
    text = (proofs.ROOT / "docs" / "durability.md").read_text()
    rows = [row for row in re.findall(r"^\|.*", text, re.MULTILINE) if "::test_" in row]
    assert len(rows) > 15
    assert proofs.missing(text) == []
