"""A random walk of clients over two servers, beside a model of what they may rely on.

After every step: an offset is never below one that was told and never above what was sent; a
length stays; what is whole is a job, and what is not is none; what was removed stays removed. At
the end everything is whole, byte for byte, and each job ran once. A failure tells seed and steps;
`make soak` walks for as long as one likes.
"""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.acceptance.process import Site, new_directory
from tests.acceptance.walk import Walk


def walk(seed: int, steps: int) -> None:
    """Walk over a site of its own."""
    directory = new_directory()
    with Site(directory, KEEP_UPLOADS_SECONDS="-1", CHUNK_SIZE="16384") as site:
        walk = Walk(site, seed)
        try:
            walk.take(steps)
        except BaseException as error:
            error.add_note("\n".join([f"seed {seed}, the last steps of:", *walk.trail[-80:]]))
            for process in site.processes:
                error.add_note(f"{process.name}:\n{process.log[-3000:]}")
            raise
    shutil.rmtree(directory)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_was_told_is_taken_back_and_everything_ends_whole(seed: int) -> None:
    walk(seed, 80)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_nothing_that_was_told_is_taken_back_for_minutes() -> None:
    seed = int(os.environ["SOAK_SEED"])
    end = time.monotonic() + 60 * float(os.environ["SOAK_MINUTES"])
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)  # noqa: T201  whoever waits wants to know
        walk(seed, 300)
        seed += 1
