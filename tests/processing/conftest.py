from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.scene import Setting, Shown, truth, write

if TYPE_CHECKING:
    from tests.processing.doubles import SharedFolder

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small() -> Setting:
    """Return a scene that is drawn and read within seconds."""
    return Setting(seed=3, fps=10, seconds=4.0, plates=2)


@pytest.fixture(scope="session")
def small_clip(small: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small scene as an mp4 file."""
    path = tmp_path_factory.mktemp("scene") / "small.mp4"
    write(path, small)
    return path


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clip for decoding only: 20 frames of 320 x 192 at 10 a second."""
    path = tmp_path_factory.mktemp("scene") / "tiny.mkv"
    write(path, Setting(seed=1, width=320, height=192, fps=10, seconds=2.0, plates=1))
    return path


@pytest.fixture(scope="session")
def small_truth(small: Setting) -> list[Shown]:
    """Return what is true of the small scene."""
    return truth(small)


@pytest.fixture(scope="session")
def demo_clip() -> Path:
    """Return the clip that is shipped."""
    return REPOSITORY / "tusd_py" / "demo_clip" / "clip.webm"


@pytest.fixture(scope="session")
def shared() -> SharedFolder:
    """Return a finder of evaluation data, which lies beside a developer's checkout only."""

    def find(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"evaluation data {name} is not beside this checkout")
        return path

    return find
