"""Whatever is uploaded ends in plates, or in one clear sentence, within bounded memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.scene import Setting, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDINGS = ("mp4", "webm", "avi", "mkv")
# The engines stand in: what decodes is what is tried here.
ANALYSE = """
import json, sys
from processing.errors import ProcessingError
from processing.pipeline import analyse
from tests.processing.doubles import FixedDetector, FixedReader
for path in sys.argv[1:]:
    try:
        found = analyse(path, FixedDetector(), FixedReader(), lambda _: None, every=1)
        state = {"frames": found.frames, "warnings": found.warnings}
    except ProcessingError as error:
        state = {"error": type(error).__name__, "sentence": str(error)}
    print(json.dumps(state))
# Not ru_maxrss, which begins with what the process had that started this one.
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak)
"""

IN_SEGMENTS = """
import json, sys
from processing import spans
from processing.engines import Engine
from processing.errors import ProcessingError
from processing.options import Options
from tests.processing.doubles import FixedDetector, FixedReader
# Or such short videos would be looked at from their start.
spans.LEAST_OVERLAP = 0.5
engine, options = Engine(FixedDetector(), FixedReader(), "fixed", ""), Options(frame_skip=1)
for path in sys.argv[1:]:
    try:
        plan = spans.plan(path, engine, options, 0.9)
        found = [
            spans.analyse_span(path, engine, plan.every, span, lambda _: None)
            for span in (plan.spans if plan else ())
        ]
        whole = plan and spans.merged(found, plan, engine, options, seconds=1.0)
        state = {"spans": len(found), "frames": whole and whole.frames}
    except ProcessingError as error:
        state = {"error": type(error).__name__}
    print(json.dumps(state))
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def bomb(side: int = 16_384) -> bytes:
    """Return a PNG of a few hundred kilobytes that is hundreds of megabytes of pixels."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(side + 1)) for _ in range(side)) + squeeze.flush()
    header = side.to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def damaged(whole: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield a video broken in many ways."""
    size = len(whole)
    yield from (whole[: size * share // 100] for share in (1, 10, 50, 99))
    yield whole[size // 2 :]
    middle = size // 2 - size // 3
    yield whole[: size // 3] + bytes(middle) + whole[size // 2 :]
    yield whole[: size // 3] + chance.randbytes(middle) + whole[size // 2 :]
    for flips in (10, 100, 1000):
        fuzzed = bytearray(whole)
        for _ in range(flips):
            fuzzed[chance.randrange(size)] ^= 1 << chance.randrange(8)
        yield bytes(fuzzed)
    header = bytearray(whole)
    for _ in range(40):
        header[chance.randrange(min(size, 1000))] = chance.randrange(256)
    yield bytes(header)


def grey(path: Path, side: int, frames: int) -> None:
    """Write a video of grey pictures."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP90"), 100, (side, side))
    for _ in range(frames):
        writer.write(np.full((side, side, 3), 90, np.uint8))
    writer.release()


@pytest.fixture(scope="module")
def malformed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return more than 50 files that are no sound videos."""
    folder = tmp_path_factory.mktemp("malformed")
    chance = random.Random(7)  # noqa: S311 - the same damage each time
    found = [folder / "empty.mp4", folder / "noise.mp4", folder / "bomb.png"]
    found[0].touch()
    found[1].write_bytes(chance.randbytes(100_000))
    found[2].write_bytes(bomb())
    setting = Setting(seed=1, width=320, height=192, fps=10, seconds=4.0, plates=1)
    for ending in ENDINGS:
        sound = folder / f"sound.{ending}"
        write(sound, setting)
        for number, content in enumerate(damaged(sound.read_bytes(), chance)):
            found.append(folder / f"{number}.{ending}")
            found[-1].write_bytes(content)
    # A single frame, and thousands of tiny ones.
    found += [folder / "one.mkv", folder / "many.mkv"]
    grey(found[-2], 320, frames=1)
    grey(found[-1], 16, frames=2000)
    return found


def test_malformed_videos_end_in_a_clear_state_in_bounded_memory(malformed: list[Path]) -> None:
    assert len(malformed) >= 49
    command = [sys.executable, "-c", ANALYSE, *map(str, malformed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, memory = done.stdout.splitlines()
    states = {path.name: json.loads(line) for path, line in zip(malformed, lines, strict=True)}
    assert all(state.get("sentence") or state["frames"] > 0 for state in states.values())
    assert states["empty.mp4"]["error"] == "EmptyVideo"
    assert states["noise.mp4"]["error"] == "NotAVideo"
    assert states["bomb.png"]["error"] == "TooLarge"
    assert states["one.mkv"]["frames"] == 1
    assert states["many.mkv"]["frames"] == 2000
    # Damage in the middle costs the frames it hit, and is told.
    assert states["5.mp4"]["frames"] > 20
    assert states["5.mp4"]["warnings"]
    assert done.stderr == ""
    # Kilobytes.
    assert int(memory) < 600_000


def test_malformed_videos_are_analysed_in_segments_or_it_is_said_that_they_cannot(
    malformed: list[Path],
) -> None:
    whole, parts = (states_of(program, malformed) for program in (ANALYSE, IN_SEGMENTS))
    for name, state in parts.items():
        if "error" not in state and state["spans"]:
            # What is lost where a span begins is lost twice.
            assert state["frames"] == pytest.approx(whole[name]["frames"], abs=5), name
        elif "error" in state:
            assert state["error"] in {whole[name].get("error"), "Unseekable"}, name
    in_segments = [name for name, state in parts.items() if state.get("spans")]
    assert len(in_segments) > 10


def states_of(program: str, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Return what a program makes of each file."""
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        path.name: json.loads(line)
        for path, line in zip(paths, done.stdout.splitlines(), strict=False)
    }
