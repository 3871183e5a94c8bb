"""Python source as a tree, on a Python that can fail at it."""

from __future__ import annotations

import ast
import functools
import gc
import sys
from typing import Any

#: CPython gh-113035, mended in 3.11.8 and 3.12.2: the depth of a tree under construction is counted for the whole interpreter.
BROKEN = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)


def make_reliable() -> None:
    """Have ``ast.parse`` run without the garbage collector where Python needs that.

    Whatever the collector finds while a tree is made may run code of its own, such as asyncio's report of a failure that nobody asked for,
    whose traceback makes a tree within the tree; Python then says ``AST constructor recursion depth mismatch``.  Pytest makes trees of the
    modules that it imports and of the sources that it shows, Hypothesis of those that it tests.
    """
    if BROKEN and not hasattr(ast.parse, "__wrapped__"):
        ast.parse = _uncollected(ast.parse)


def _uncollected(parse: Any) -> Any:
    @functools.wraps(parse)
    def parse_uncollected(*args: Any, **kwargs: Any) -> Any:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return parse(*args, **kwargs)
        finally:
            if collecting:
                gc.enable()

    return parse_uncollected
