"""The catalogue of faults leads to tests that are there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.fault.catalogue import FAULTS

TESTS = Path(__file__).parents[1]


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_tests_that_exist(fault: str) -> None:
    named = [test.split("::") for test in FAULTS[fault].tests]
    assert named
    assert [name for path, name in named if name not in names_in(path)] == []
