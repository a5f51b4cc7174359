"""Plates and names of files are personal data: no log tells them, and DELETE leaves none behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from tests.acceptance.process import Site, eventually
from tests.acceptance.raw import Tus, plates

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Clip

NAME = "Erika Mustermann.mp4"
JOB_ENDED = r"job\.(completed|dropped)"


def test_a_whole_run_logs_neither_plates_nor_names(
    new_site: Callable[..., Site], clip: Clip
) -> None:
    site = new_site(KEEP_UPLOADS_SECONDS="-1")
    server, worker = site.serve(), site.work()
    tus = Tus(server.port)
    upload = tus.upload(clip.content, {"filename": NAME, "frame_skip": "5"})
    broken = tus.upload(b"no video", {"filename": NAME})
    assert tus.wait_for_job(upload)["status"] == "completed"
    assert tus.wait_for_job(broken)["status"] == "failed"
    found = plates(tus.result(upload))
    assert found == clip.plates
    assert tus.request("GET", upload).status == 200
    assert tus.delete(upload).status == 204
    worker.wait_for("job.completed")
    logged = f"{server.log}{worker.log}"
    assert upload.rpartition("/")[2] in logged
    for secret in (*found, "Erika", "Mustermann", "RXJpa2E"):
        assert secret not in logged


def texts_in(site: Site) -> bytes:
    """Return all that the data directory holds, but for its Redis, names of files included."""
    paths = [path for path in site.uploads.rglob("*") if "redis" not in path.parts]
    contents = [path.read_bytes() for path in paths if path.is_file()]
    return b"\n".join(
        [*(str(path.relative_to(site.uploads)).encode() for path in paths), *contents]
    )


def traces(site: Site, upload_id: str) -> dict[str, bytes]:
    """Return what Redis has of an upload, beside that it was removed."""
    with redis.Redis.from_url(site.redis_url) as client:
        values = {key.decode(): client.dump(key) or b"" for key in client.scan_iter()}
    told = {f"tusd:job:{upload_id}", "tusd:expiring"}
    return {
        key: value
        for key, value in values.items()
        if key not in told and (upload_id in key or upload_id.encode() in value)
    }


@pytest.mark.parametrize("state", ["processing", "completed"])
def test_a_deleted_job_leaves_nothing_behind_though_it_runs(
    new_site: Callable[..., Site], clip: Clip, state: str
) -> None:
    site = new_site(KEEP_UPLOADS_SECONDS="-1")
    server, worker = site.serve(), site.work()
    tus = Tus(server.port)
    every = "1" if state == "processing" else "10"
    upload = tus.upload(clip.content, {"filename": NAME, "frame_skip": every})
    upload_id = upload.rpartition("/")[2]
    job = tus.wait_for_job(upload, state, more_than=0.05)
    assert job["filename"] == NAME
    assert tus.request("DELETE", f"/jobs/{upload_id}").status == 204
    for path in (f"/jobs/{upload_id}", f"/jobs/{upload_id}/result", upload):
        assert tus.request("GET", path).status == 410
    # It does not end by itself: what it was to find is nobody's any more.
    ended = worker.wait_for(JOB_ENDED)[1]
    assert ended == ("dropped" if state == "processing" else "completed")
    eventually(lambda: not traces(site, upload_id), "end of all traces in Redis")
    left = texts_in(site)
    for secret in (*clip.plates, "Erika", "RXJpa2E", f"results/{upload_id}", f"crops/{upload_id}"):
        assert secret.encode() not in left
    assert not site.stored(upload).exists()
    assert tus.job(upload)["status"] == "cancelled"
