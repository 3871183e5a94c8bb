"""What a user's function says of itself by its annotations and arguments, and what it gives, as a list."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any


def value_type(function: Callable[..., Any]) -> Any:
    """The type that a reduce function works on, from its annotations; ``None`` without any."""
    hints = _annotations(function)
    return hints.pop("return", None) or next(iter(hints.values()), None)


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether a window function wants ``ctx``: it has four arguments without defaults."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(1 for each in parameters if each.kind in positional and each.default is each.empty) == 4


def values_of(result: Any) -> list[Any]:
    """What a user's function gave, as a list: nothing (``None``), several values (a list or a generator), or one of anything else."""
    if result is None:
        return []
    if isinstance(result, list):
        return result
    return list(result) if inspect.isgenerator(result) else [result]


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # a local class, or something that cannot have annotations
        return {}
