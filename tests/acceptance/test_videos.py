"""Real videos, where they lie beside the project: sent, analysed, and believable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.process import ROOT, Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.process import Site

SHARED = ROOT.parent / "shared"


def video(name: str) -> Path:
    path = SHARED / "videos" / name
    if not path.is_file():
        pytest.skip(f"the video {name} does not lie beside the project")
    return path


@pytest.fixture
def upload(new_site: Callable[..., Site]) -> Callable[[Path], dict[str, Any]]:
    """Return what sends a video by `tusd-py upload` and returns what that printed."""
    if not (SHARED / "models").is_dir():
        pytest.skip("the models of the alpr reader do not lie beside the project")
    site = new_site(PLATE_READER="alpr", ALPR_MODEL_DIR=str(SHARED / "models"))
    server = site.serve()
    site.work()

    def send(path: Path) -> dict[str, Any]:
        words: list[str | Path] = ["upload", "--json", "--url", server.url, path]
        client = site.run("upload", *words, kind=Process)
        assert client.wait() == 0, client.log
        document: dict[str, Any] = json.loads(client.wait_for(r"(?m)^\{.*\}$")[0])
        assert document["status"] == "completed"
        assert document["reader"].startswith("alpr")
        # The result is durable, so the video is no longer here.
        assert not site.stored(document["job_id"]).exists()
        return document

    return send


def test_plates_at_a_toll_booth_are_read_and_nothing_else_is_taken_for_one(
    upload: Callable[[Path], dict[str, Any]],
) -> None:
    document = upload(video("parkpow_cars.mp4"))
    sure = {plate["text"] for plate in document["plates"] if plate["confidence"] >= 0.5}
    # Read by eye there are three; the clock and the text burnt into the picture are none.
    assert {"34A36837", "34A23126"} <= sure <= {"34A36837", "34A23126", "89C20339"}


def test_unreadable_plates_are_not_guessed(upload: Callable[[Path], dict[str, Any]]) -> None:
    document = upload(video("intel_car-detection.mp4"))
    assert [plate for plate in document["plates"] if plate["confidence"] >= 0.5] == []
