"""The shape of the tree: what no linter sees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from settings import Settings

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
OURS = {"tusd_py", "processing", "storage", "settings", "worker"}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name: str) -> dict[str, set[str]]:
    """Return the pinned versions of each package: one for each Python it depends on."""
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall((ROOT / "requirements" / name).read_text()):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def imports(path: Path) -> set[str]:
    """Return the top-level names that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("file", "allowed"),
    [("settings.py", set()), ("worker.py", {"processing", "storage", "settings"})],
)
def test_single_modules_import_only_what_the_design_allows(file: str, allowed: set[str]) -> None:
    assert imports(ROOT / file) & OURS <= allowed


def test_opencv_is_installed_once_and_headless() -> None:
    names = {canonicalize_name(found.name) for found in distributions()}
    assert {name for name in names if name.startswith("opencv-")} == {"opencv-python-headless"}


def test_the_wheel_holds_the_fixed_top_level_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    [metadata] = {name for name in top if name.endswith(".dist-info")}
    assert top - {metadata} == {"tusd_py", "processing", "storage", "settings.py", "worker.py"}


def test_every_declared_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    described = project()["project"]
    assert isinstance(described, dict)
    extras = described["optional-dependencies"]
    pinned = pins("run.txt")
    for text in [*described["dependencies"], *extras["embedded"], *extras["alpr"]]:
        wanted = Requirement(text)
        versions = pinned.get(canonicalize_name(wanted.name), set())
        assert versions, f"{text} is not in requirements/run.txt: make requirements"
        assert all(wanted.specifier.contains(version) for version in versions), text


def test_tests_and_builds_use_the_versions_of_the_program() -> None:
    program = pins("run.txt")
    for name in ("dev.txt", "build.txt"):
        shared = {package: pins(name)[package] for package in pins(name).keys() & program.keys()}
        assert shared == {package: program[package] for package in shared}


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "build.txt"])
def test_requirements_are_hashed_and_name_no_place(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    entries = re.split(r"\n(?=[a-z])", text)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links", text)


def test_the_environment_example_names_every_setting_with_its_default() -> None:
    lines = re.findall(r"^# ([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    expected = {
        name.upper(): "" if field.default is None else str(field.default).lower()
        for name, field in Settings.model_fields.items()
    }
    assert {name: value.lower() for name, value in lines} == expected


def test_the_readme_has_every_setting_with_its_default_and_meaning() -> None:
    text = (ROOT / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default
        assert f"| `{name.upper()}` | `{default}` | {field.description} |" in text
