"""Tests that are named elsewhere as proofs, such as `tests/test_worker.py::test_x[id]`."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PROOF = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


@cache
def tests_of(path: str) -> frozenset[str]:
    """Return the names of the functions of a test file, none where there is no file."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    nodes = ast.walk(ast.parse(file.read_text()))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in nodes if isinstance(node, functions))


def named(text: str) -> list[tuple[str, str]]:
    """Return file and function of each test that a text names."""
    return _PROOF.findall(text)


def missing(text: str) -> list[str]:
    """Return the named tests that do not exist; the ids of their cases are not looked at."""
    return [f"{path}::{name}" for path, name in named(text) if name not in tests_of(path)]
