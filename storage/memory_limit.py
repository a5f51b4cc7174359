"""What one job may take of memory: the kernel refuses more, and the job can say so."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from pathlib import Path

# That much of it taken, and nothing says any more that all went well.
_ALL = 0.97
_PEAK = re.compile(r"^VmPeak:\s+(\d+) kB$", re.MULTILINE)


class MemoryExhausted(Exception):
    """A job needs more memory than it may take."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Bound the address space of this process by so many bytes; 0 stands for no bound."""

    size: int

    def impose(self) -> None:
        """Let every allocation beyond it fail from here on."""
        if self.size:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (self.size, hard))

    def lift(self) -> None:
        """Allow what was allowed before: to say what happened takes memory too."""
        if self.size:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

    def reached(self) -> bool:
        """Tell whether nearly all of it was taken at some time (proc(5), VmPeak).

        Libraries hide that they got no more: they tell of something else, or of nothing at all.
        """
        found = _PEAK.search(Path("/proc/self/status").read_text()) if self.size else None
        return found is not None and int(found[1]) * 1024 > _ALL * self.size
