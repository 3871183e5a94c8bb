"""Source becomes a tree whatever the garbage collector finds meanwhile."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator

import pytest


class Reporter:
    """Garbage that makes a tree of its own, from deep down, when it is collected."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        deep(20)


def deep(calls: int) -> None:
    if calls:
        deep(calls - 1)
    else:
        compile("x + (1 * 2)", "<garbage>", "eval", ast.PyCF_ONLY_AST)


@pytest.fixture
def eager_collector() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def test_a_tree_is_made_while_there_is_garbage_that_makes_trees(eager_collector: None) -> None:
    source = "def f(a, b):\n    return a + b * 3\n" * 20
    for _ in range(20):
        for _ in range(10):
            Reporter()
        assert len(ast.parse(source).body) == 20
    assert gc.isenabled()
