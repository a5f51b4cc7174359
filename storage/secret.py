"""What keeps ids from being computed from keys by anybody but us."""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from storage.durability import PerRequest
from storage.once import create_once

if TYPE_CHECKING:
    from pathlib import Path


class Secret:
    """Lie in a file of the directory of uploads, made when it is needed first."""

    def __init__(self, directory: Path) -> None:
        """Use that directory."""
        self._path = directory / ".secret"

    def identify(self, key: str) -> str:
        """Return the id that a key names here; raise OSError."""
        digest = hmac.digest(self._bytes(), key.encode(), "sha256")
        return str(UUID(bytes=digest[:16], version=4))

    def _bytes(self) -> bytes:
        with suppress(FileNotFoundError):
            return self._path.read_bytes()
        create_once(self._path, secrets.token_bytes(32), PerRequest(), aside=".secret-")
        return self._path.read_bytes()
