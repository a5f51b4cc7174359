"""`tusd-py doctor` tells in a line each what is amiss, mends it, and asks for a person else."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from storage import orphans, redis_sync
from storage import redis_schema as schema
from storage.filestore import FileStore
from storage.upload import Upload
from tests.tusd_py.cli.command import run
from tusd_py.cli import CommandError, doctor

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
    }


def dump(url: str) -> dict[str, Any]:
    text, raw = redis_sync.clients(url)
    return {str(key): raw.dump(key) for key in text.scan_iter()}


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    """Return a directory with one upload of which 5 bytes are here, unknown to Redis."""
    store = FileStore(tmp_path / "uploads")
    store.prepare()
    stored(store)
    return store.directory


def stored(store: FileStore) -> str:
    now = time.time()
    upload = Upload(str(uuid4()), 9, None, now, now + 86_400)
    store.create(upload)
    writer = store.open(upload)
    writer.write([b"12345"])
    writer.commit(replace(upload, offset=5))
    writer.close()
    return upload.id


def only_upload(uploads: Path) -> str:
    [journal] = uploads.glob("*.log")
    return journal.stem


def test_it_mends_tells_so_and_then_says_that_all_is_well(
    uploads: Path, redis_url: str, tmp_path: Path
) -> None:
    env = {"UPLOAD_DIR": str(uploads), "REDIS_URL": redis_url}
    upload_id = only_upload(uploads)
    what = f"record   {upload_id}  Redis has no record of it"
    dry = run(tmp_path, "doctor", "--dry-run", env=env)
    assert dry.stderr == ""
    assert dry.stdout.splitlines() == [
        f"{what}: would be restored from its journal",
        "1 found: 1 would be mended.",
    ]
    done = run(tmp_path, "doctor", env=env)
    assert done.stdout.splitlines() == [
        f"{what}: restored from its journal",
        "1 found: 1 mended.",
    ]
    again = run(tmp_path, "doctor", env=env)
    assert again.stdout == "All is well.\n"
    assert dry.returncode == done.returncode == again.returncode == 0


def test_a_dry_run_changes_nothing(
    uploads: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(orphans, "_OLD", -60.0)
    (uploads / str(uuid4())).write_bytes(b"abc")
    text, _ = redis_sync.clients(redis_url)
    for zset in (schema.OUTBOX, schema.JOBS):
        text.zadd(zset, {str(uuid4()): 1})
    before = snapshot(uploads), dump(redis_url)
    where = ["--upload-dir", str(uploads), "--redis-url", redis_url]
    assert doctor.main(["--dry-run", *where]) == 0
    assert (snapshot(uploads), dump(redis_url)) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "4 found: 4 would be mended."
    assert all(": would be " in line for line in lines[:-1])
    assert doctor.main(where) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 found: 4 mended."


def test_json_is_one_object_a_line_with_a_summary_at_last(
    uploads: Path, redis_url: str, tmp_path: Path
) -> None:
    env = {"UPLOAD_DIR": str(uploads), "REDIS_URL": redis_url}
    lines = [
        json.loads(one)
        for one in run(tmp_path, "doctor", "--json", env=env).stdout.split("\n")
        if one
    ]
    assert lines == [
        {
            "kind": "record",
            "name": only_upload(uploads),
            "what": "Redis has no record of it",
            "state": "mended",
            "cure": "restored from its journal",
        },
        {"summary": {"mended": 1, "would be mended": 0, "left": 0, "needs a person": 0}},
    ]


def test_damage_exits_with_1_and_is_left_as_it_is(
    uploads: Path, redis_url: str, tmp_path: Path
) -> None:
    upload_id = only_upload(uploads)
    (uploads / f"{upload_id}.log").write_bytes(b"L\nxx\n")
    before = snapshot(uploads)
    env = {"UPLOAD_DIR": str(uploads), "REDIS_URL": redis_url}
    done = run(tmp_path, "doctor", env=env)
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert first.startswith(f"journal  {upload_id}  its journal cannot be read: ")
    assert f"NEEDS YOU: put {upload_id}.log back from a backup" in first
    assert last == "1 found: 1 needs a person."
    assert {name: before[name] for name in before if "log" in name} == {
        name: found for name, found in snapshot(uploads).items() if "log" in name
    }


def test_without_a_directory_or_a_redis_it_exits_with_3(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", "--upload-dir", "none")
    assert (done.returncode, done.stderr) == (3, "tusd-py: UPLOAD_DIR none is no directory\n")
    assert not (tmp_path / "none").exists()
    nowhere = f"unix://{tmp_path}/none.sock"
    away = run(tmp_path, "doctor", "--upload-dir", ".", "--redis-url", nowhere)
    assert away.returncode == 3
    assert away.stderr.startswith("tusd-py: Redis does not answer: ")


def test_a_bad_redis_url_exits_with_2(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", "--upload-dir", ".", "--redis-url", "http://localhost")
    assert done.returncode == 2
    assert done.stderr.startswith("tusd-py: REDIS_URL: ")


def test_where_no_redis_is_named_the_private_one_is_started_and_stopped(uploads: Path) -> None:
    done = run(uploads.parent, "doctor", "--upload-dir", str(uploads))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 found: 1 mended.\n")
    assert not (uploads / "redis" / "redis.pid").exists()


@pytest.mark.parametrize("verb", ["serve", "work", "doctor"])
def test_the_redis_of_another_directory_exits_with_3_and_a_sentence_that_names_both(
    uploads: Path, redis_url: str, tmp_path: Path, verb: str
) -> None:
    where = ["--upload-dir", str(uploads), "--redis-url", redis_url]
    assert doctor.main(where) == 0
    other = tmp_path / "other"
    other.mkdir()
    port = ["--port", "0"] if verb == "serve" else []
    words = [verb, "--upload-dir", str(other), "--redis-url", redis_url, *port]
    before = dump(redis_url)
    refused = run(tmp_path, *words)
    assert refused.returncode == 3
    assert f"belongs to the upload directory {uploads} (marker " in refused.stderr
    assert f"{other} has no marker" in refused.stderr
    assert "tusd-py doctor --adopt" in refused.stderr
    assert dump(redis_url) == before


def test_a_directory_adopts_the_redis_of_the_one_whose_place_it_took(
    uploads: Path, redis_url: str, tmp_path: Path
) -> None:
    where = ["--upload-dir", str(uploads), "--redis-url", redis_url]
    assert doctor.main(where) == 0
    (uploads / ".marker").unlink()
    with pytest.raises(CommandError, match="has no marker"):
        doctor.main(where)
    assert doctor.main([*where, "--adopt"]) == 0
    assert doctor.main(where) == 0
    assert run(tmp_path, "doctor", *where, "--adopt", "--dry-run").returncode == 2
