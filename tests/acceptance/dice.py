"""Chances: what a random walk of clients says next."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import TYPE_CHECKING

from tests.acceptance.model import Dialect

if TYPE_CHECKING:
    from tests.acceptance.model import Model

ALGORITHMS = ("sha1", "md5", "sha256", "sha512")


class Dice(random.Random):
    """Choose; the same seed chooses the same."""

    def dialect(self) -> Dialect:
        """Choose tus, or a version of the drafts."""
        return Dialect(self.choice([None, None, None, None, 3, 5, 6, 8]))

    def cut(self, content: bytes) -> int:
        """Choose how much of it: often all."""
        return len(content) if self.random() < 0.3 else self.randint(0, len(content))

    def checksum(self, body: bytes, *, always: bool = False) -> dict[str, str]:
        """Say what the body is, now and then."""
        name = self.choice(ALGORITHMS)
        digest = base64.b64encode(hashlib.new(name, body).digest()).decode()
        wanted = always or self.random() < 0.3
        return {"Upload-Checksum": f"{name} {digest}"} if wanted else {}

    def declared(self, one: Model, *, always: bool = False) -> dict[str, str]:
        """Declare a length that was left open, now or later."""
        now = None in one.lengths and (always or self.random() < 0.4)
        return {"Upload-Length": str(len(one.content))} if now else {}
