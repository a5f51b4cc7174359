from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from settings import Settings
from tests.tusd_py.cli.command import ROOT, environment, run
from tusd_py.__main__ import VERBS
from tusd_py.cli.serve import ANALYSIS

if TYPE_CHECKING:
    from pathlib import Path

ORIGINS = "CORS_ORIGINS: expected origins such as https://page.example, without a path, or * or"
OWN_OPTIONS = {
    "serve": [],
    "demo": ["--once", "--video", "--data", "--port", "--plate-reader"],
    "upload": ["--url", "--no-wait", "--json", "--retry-seconds"],
    "doctor": ["--dry-run", "--json", "--adopt", "--upload-dir"],
    "analyze": ["--json", "--plate-reader", "--alpr-model-dir"],
    "evaluate": ["--json", "--part", "--plate-reader"],
    "models": ["fetch", "list", "--into", "--from", "--json"],
}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_help_names_every_verb(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


def test_version_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("tusd-py")


@pytest.mark.parametrize("verb", OWN_OPTIONS)
def test_help_of_a_verb_lists_its_options_and_exit_codes(verb: str, tmp_path: Path) -> None:
    done = run(tmp_path, verb, "--help")
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in OWN_OPTIONS[verb])
    assert "exit codes:" in done.stdout


def test_serve_takes_each_setting_it_reads_with_its_description_and_default(tmp_path: Path) -> None:
    # So wide that no sentence is broken at a hyphen.
    done = run(tmp_path, "serve", "--help", env={"COLUMNS": "1000"})
    text = " ".join(done.stdout.split())
    for name, field in Settings.model_fields.items():
        if name not in ANALYSIS:
            assert flag(name) in text
            assert field.description is not None
            assert field.description in text
    assert "[PORT, default 8000]" in text


def test_work_takes_each_setting_that_serve_leaves_to_it(tmp_path: Path) -> None:
    done = run(tmp_path, "work", "--help")
    assert [name for name in ANALYSIS if flag(name) not in done.stdout] == []


@pytest.mark.parametrize("words", [(), ("frobnicate",), ("serve", "--nonsense"), ("upload",)])
def test_wrong_usage_exits_with_2(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "abc", "PORT: expected an integer ≥ 0 and ≤ 65535, got 'abc'"),
        ("PORT", "70000", "PORT: expected an integer ≥ 0 and ≤ 65535, got '70000'"),
        ("CHUNK_SIZE", "0", "CHUNK_SIZE: expected an integer > 0, got '0'"),
        ("UPLOAD_TIMEOUT_SECONDS", "long", "UPLOAD_TIMEOUT_SECONDS: expected a number > 0 and "),
        ("UPLOAD_EXPIRATION_SECONDS", "inf", "UPLOAD_EXPIRATION_SECONDS: expected a number > 0 "),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: expected one of debug, info, warning, error, got 'loud'"),
        ("MAX_FILE_SIZE", str(2**63), "MAX_FILE_SIZE: expected an integer > 0 and ≤ "),
        ("CORS_ORIGINS", "page.example", f"{ORIGINS} none, got 'page.example'"),
        ("CORS_ORIGINS", "https://a.example/", f"{ORIGINS} none, got 'https://a.example/'"),
        ("CORS_ORIGINS", "https://a.example, *", f"{ORIGINS} none, got '*'"),
        ("CORS_ORIGINS", "https://*.example", f"{ORIGINS} none, got 'https://*.example'"),
        ("EASYOCR_GPU", "perhaps", "EASYOCR_GPU: expected true or false, got 'perhaps'"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_and_what_came(
    variable: str, value: str, said: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "serve", env={variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"tusd-py: {said}")
    assert "Traceback" not in done.stderr


def test_every_bad_setting_gets_its_line(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", "--port", "x", "--chunk-size", "y")
    assert done.stderr.splitlines() == [
        "tusd-py: --port: expected an integer ≥ 0 and ≤ 65535, got 'x'",
        "tusd-py: --chunk-size: expected an integer > 0, got 'y'",
    ]


@pytest.mark.parametrize("verb", ["serve", "work"])
def test_an_address_of_redis_that_is_none_is_refused_with_the_right_form(
    verb: str, tmp_path: Path
) -> None:
    done = run(tmp_path, verb, "--redis-url", "sentinel://host")
    assert done.returncode == 2
    assert done.stderr == (
        "tusd-py: REDIS_URL: expected an address such as sentinel://host1:26379,host2:26379/name/0,"
        " got no host or no name\n"
    )


@pytest.mark.parametrize("queue", ["", "a b", "a:x,b", "a,a", "a:9", "a:0,b"])
def test_queues_that_no_job_could_enter_are_refused(queue: str, tmp_path: Path) -> None:
    done = run(tmp_path, "work", "--queue", queue or ",")
    assert done.returncode == 2
    assert "--queue: expected names such as tusd, or short:9000000,tusd" in done.stderr


def test_an_option_wins_over_the_environment_which_wins_over_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=from-file\nCHUNK_SIZE=from-file\nQUEUE=q\n")
    done = run(tmp_path, "serve", "--port", "from-option", env={"CHUNK_SIZE": "from-environment"})
    assert "--port: expected an integer ≥ 0 and ≤ 65535, got 'from-option'" in done.stderr
    assert "CHUNK_SIZE: expected an integer > 0, got 'from-environment'" in done.stderr
    assert "from-file" not in done.stderr


def test_a_dotenv_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PORT=\xff\xfe")
    done = run(tmp_path, "serve")
    assert done.returncode == 2
    assert done.stderr.startswith("tusd-py: .env cannot be read")


@pytest.mark.parametrize("name", ["settings", "storage", "worker", "processing"])
def test_a_module_that_shadows_ours_is_refused_with_both_paths(name: str, tmp_path: Path) -> None:
    shadow = tmp_path / f"{name}.py"
    shadow.write_text("")
    # Without -P the current directory comes first, as for `python -m` in it.
    done = subprocess.run(
        [sys.executable, "-m", "tusd_py", "--version"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert str(shadow) in done.stderr
    assert str(ROOT) in done.stderr
