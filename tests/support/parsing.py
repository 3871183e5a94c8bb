"""Python source as a tree."""

from __future__ import annotations

import ast
import gc


def parsed(source: str) -> ast.Module:
    """As ``ast.parse``.

    CPython 3.11 fails with a SystemError when the garbage collector runs Python code while the tree is made, and what earlier tests left
    behind is code of that kind.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collecting:
            gc.enable()
