"""Plates as a table for spreadsheets (RFC 4180); no I/O."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_COLUMNS = ("text", "confidence", "first_seen", "last_seen", "detections")
_BOX = ("x", "y", "width", "height")
# What a spreadsheet takes for the beginning of a formula, or skips before one (OWASP).
_ACTIVE = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_of(plates: Iterable[Mapping[str, Any]]) -> bytes:
    """Write one row a plate of a result, below a row of names, in UTF-8."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["number", *_COLUMNS, *_BOX])
    for number, plate in enumerate(plates):
        box = plate.get("box") or {}
        cells = [plate.get(name) for name in _COLUMNS] + [box.get(name) for name in _BOX]
        rows.writerow([number, *map(_harmless, cells)])
    return text.getvalue().encode()


def _harmless(value: object) -> object:
    """Let no text be run as a formula by whoever opens the table."""
    if isinstance(value, str) and value.startswith(_ACTIVE):
        return f"'{value}"
    return value
