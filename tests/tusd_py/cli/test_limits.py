from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

from structlog.testing import capture_logs

from tusd_py.cli.limits import Exhaustion

if TYPE_CHECKING:
    import pytest


def test_that_no_file_can_be_opened_is_said_once_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    exhaustion = Exhaustion()
    with capture_logs() as logs:
        for _ in range(2):
            exhaustion.look()
            with monkeypatch.context() as exhausted:
                exhausted.setattr(os, "open", refuse)
                exhaustion.look()
                exhaustion.look()
    assert [line["event"] for line in logs] == ["files.exhausted", "files.exhausted"]
