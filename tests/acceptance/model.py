"""What a client may rely on: one upload as it is known from answers alone, in either dialect."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.acceptance.raw import APPEND, TUS

if TYPE_CHECKING:
    from tests.acceptance.process import Server
    from tests.acceptance.raw import Connection, Response

PARTIAL_TYPE = {"Content-Type": "application/partial-upload"}
# In the first version that has it the flag is the other way round.
INVERTED, TYPED = 3, 6


@dataclass(frozen=True, slots=True)
class Dialect:
    """Say the same in tus, or in the draft of an interop version."""

    version: int | None = None

    def __str__(self) -> str:
        return "tus" if self.version is None else f"interop {self.version}"

    @property
    def mark(self) -> dict[str, str]:
        """Return what every request carries."""
        if self.version is None:
            return TUS
        return {"Upload-Draft-Interop-Version": str(self.version)}

    def create(self, length: int | None, *, ends: bool) -> dict[str, str]:
        """Ask for an upload, with a body."""
        if self.version is not None:
            declared = {} if length is None else {"Upload-Length": str(length)}
            return self.mark | self._flag(ends=ends) | declared
        deferred = {"Upload-Defer-Length": "1"}
        return TUS | APPEND | (deferred if length is None else {"Upload-Length": str(length)})

    def append(self, offset: int, *, ends: bool) -> dict[str, str]:
        """Add to an upload; `ends` is said only where the dialect has a word for it."""
        at = {"Upload-Offset": str(offset)}
        if self.version is None:
            return TUS | APPEND | at
        kind = PARTIAL_TYPE if self.version >= TYPED else {}
        return self.mark | kind | at | self._flag(ends=ends)

    def told_end(self, response: Response) -> bool:
        """Read whether an answer calls the upload complete."""
        if self.version == INVERTED:
            return response.headers["upload-incomplete"] == "?0"
        return response.headers["upload-complete"] == "?1"

    def _flag(self, *, ends: bool) -> dict[str, str]:
        if self.version == INVERTED:
            return {"Upload-Incomplete": f"?{int(not ends)}"}
        return {"Upload-Complete": f"?{int(ends)}"}


@dataclass(eq=False, slots=True)
class Sending:
    """A request without an answer: of its bytes, from `start` to `end`, any number may land."""

    server: Server
    dialect: Dialect
    start: int
    end: int
    #: It says that the upload ends with it.
    ends: bool
    #: Held open by its client, who has yet to send the rest of the body, up to `last`.
    connection: Connection | None = None
    rest: bytes = b""
    last: int = 0
    #: Redis lost who writes, so nobody can ask for the upload.
    unasked: bool = False

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


@dataclass(eq=False, slots=True)
class Model:
    """One upload: `told` is the highest offset of any answer, `sent` what can be there at most."""

    path: str
    content: bytes
    #: What may be told of its length; None is one not declared yet.
    lengths: set[int | None]
    told: int = 0
    sent: int = 0
    #: What may be told of its end. For tus it is there with the last byte, for the drafts only
    #: once a client said so; it is complete when either finds it so.
    ends: set[bool] = field(default_factory=lambda: {False})
    partial: bool = False
    final: bool = False
    removed: bool = False
    sendings: list[Sending] = field(default_factory=list)

    def __str__(self) -> str:
        state = "removed" if self.removed else f"{self.told}..{self.sent} of {len(self.content)}"
        return f"{self.path[-4:]} ({state}, {self.lengths}, {self.ends})"

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.content).digest()

    @property
    def rest(self) -> bytes:
        return self.content[self.told :]

    @property
    def exact(self) -> bool:
        """Tell whether there is only one offset that it can have."""
        return self.told == self.sent

    @property
    def complete(self) -> bool:
        """Tell whether it has to be."""
        return self.ends == {True}

    def expect(self, sending: Sending) -> None:
        """Take account of bytes that are on their way."""
        self.sent = max(self.sent, sending.end)
        self.sendings.append(sending)

    def expect_length(self) -> None:
        """Take account of a request that declares the length."""
        self.lengths = self.lengths | {len(self.content)}

    def expect_end(self, dialect: Dialect, at: int, *, ends: bool) -> None:
        """Take account of a request up to `at` that may have completed the upload."""
        last = at == len(self.content) and at in self.lengths
        if last and (ends or dialect.version is None):
            self.ends = self.ends | {True}

    def end(self, sending: Sending) -> None:
        """Take account of a request of which nothing more can land."""
        sending.close()
        self.sendings.remove(sending)

    def tell(self, offset: int) -> list[Sending]:
        """Check an offset that a server told; return the requests that had to let go for it.

        Whoever sends from elsewhere is one of them, or comes too late for its own offset.
        """
        assert self.told <= offset <= self.sent, f"{offset} was told of {self}"
        self.told = offset
        ended = [one for one in self.sendings if one.start != offset and not one.unasked]
        self.sendings = [one for one in self.sendings if one not in ended]
        self.sent = max([offset, *(one.end for one in self.sendings)])
        return ended

    def tell_head(self, dialect: Dialect, response: Response) -> list[Sending]:
        """Check an answer to HEAD; as `tell`."""
        ended = self.tell(response.offset)
        told = response.headers.get("upload-length")
        self.tell_length(None if told is None else int(told))
        self.tell_end(dialect, response)
        return ended

    def tell_length(self, length: int | None) -> None:
        """Check a length that was told: once it is known it stays."""
        assert length in self.lengths, f"the length {length} was told of {self}"
        if length is not None or not self.sendings:
            self.lengths = {length}

    def tell_end(self, dialect: Dialect, response: Response) -> None:
        """Check whether an answer calls the upload complete, and where it has to."""
        if dialect.version is not None:
            complete = dialect.told_end(response)
        elif self.told in self.lengths and len(self.lengths) > 1:
            self.ends = self.ends | {True}
            return
        else:
            # What is filled is complete for tus, and from then on for both.
            complete = self.lengths == {self.told}
            self.ends = self.ends | ({True} if complete else set())
        assert complete in self.ends, f"complete {complete} was told of {self}"
        if complete:
            assert self.told == len(self.content), f"{self} was told to be complete"
            self.lengths = {self.told}
        if complete or not self.sendings:
            self.ends = {complete}
