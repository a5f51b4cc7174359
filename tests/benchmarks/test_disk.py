"""The disk itself is measured, and nothing is left on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks import disk

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = disk.speed(tmp_path, rounds=1)
    assert found is None or found > 0
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_only_the_page_cache_there_is_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    assert disk.speed(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
