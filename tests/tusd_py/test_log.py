"""Our lines and those of libraries come out in one stream and one format, without secrets."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import structlog

from settings import Settings
from tusd_py.log import configure, settle


def lines(captured: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out = captured.readouterr()
    assert out.out == ""
    return [json.loads(line) for line in out.err.splitlines()]


def test_ours_and_a_librarys_lines_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json"))
    with structlog.contextvars.bound_contextvars(job="1"):
        structlog.get_logger().info("job.started", attempt=2)
    logging.getLogger("rq.worker").warning("Worker %s: suspended", "a")
    ours, theirs = lines(capsys)
    assert {
        "event": "job.started",
        "job": "1",
        "attempt": 2,
        "level": "info",
    }.items() <= ours.items()
    assert {"event": "Worker a: suspended", "level": "warning"}.items() <= theirs.items()
    assert ours.keys() - {"job", "attempt"} == theirs.keys()


@pytest.mark.parametrize(("level", "heard"), [("info", []), ("debug", ["in rq's words"])])
def test_rq_repeats_what_we_say_at_debug_only(
    capsys: pytest.CaptureFixture[str], level: str, heard: list[str]
) -> None:
    logging.getLogger("rq.worker").setLevel(logging.INFO)
    configure(Settings.model_validate({"log_format": "json", "log_level": level}))
    logging.getLogger("rq.worker").info("in rq's words")
    assert [line["event"] for line in lines(capsys)] == heard


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure(Settings.model_validate({"log_format": form}))
    plate = "AB" + "12CDE"
    nothing: dict[int, str] = {}
    try:
        nothing[len(plate)]
    except LookupError:
        structlog.get_logger().exception("job.raised")
    err = capsys.readouterr().err
    assert "KeyError" in err
    assert plate not in err


def test_lines_are_as_they_were_when_it_is_settled(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="json"))
    log = structlog.get_logger()
    log.info("upload.complete", length=1)
    settle()
    for _ in range(2):
        log.info("upload.complete", length=1)
    told = [line | {"timestamp": ""} for line in lines(capsys)]
    assert len(told) == 3
    assert told[0] == told[1] == told[2]


def test_a_plain_line_is_what_structlog_would_write(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="console"))
    said = {"reason": "two words", "upload": "id", "length": None, "empty": ""}
    structlog.get_logger().warning("upload.refused", **said)
    structlog.get_logger().info("redis.back")
    first, second = capsys.readouterr().err.splitlines()
    usual = structlog.dev.ConsoleRenderer(colors=False)
    event = {"timestamp": first.split()[0], "level": "warning", "event": "upload.refused"}
    assert first == usual(None, "warning", event | said)
    event = {"timestamp": second.split()[0], "level": "info", "event": "redis.back"}
    assert second == usual(None, "info", event)
