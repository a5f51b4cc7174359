"""How many files this process may have open: as many as the system allows."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

import structlog

log = structlog.get_logger()

# Connections that send nothing take one each, uploads on their way three or four.
_ENOUGH = 4096


def how_many_connections() -> int:
    """Return how many there may be, so that files can be opened still."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 2 // 3


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one; say so where that is few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft < _ENOUGH:
        log.warning(
            "files.few", limit=soft, reason="raise the hard limit of open files (ulimit -Hn)"
        )


class Exhaustion:
    """Say when no file can be opened any more: whoever connects then is sent away unheard."""

    def __init__(self) -> None:
        self._told = False

    def look(self) -> None:
        """Say it, once until it is over."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if not self._told:
                log.warning("files.exhausted", reason=error.strerror)
            self._told = True
        else:
            self._told = False
