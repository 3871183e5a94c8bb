"""What is made of the records of a window: a fold, record by record, or a function of all of them at the end."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from tables.aggregate import AggregateFunction


def accumulator_type(function: AggregateFunction[Any, Any, Any]) -> Any:
    """The accumulator's type: from ``AggregateFunction[I, A, O]``, else from annotations, else of an empty one."""
    for cls in type(function).__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            if typing.get_origin(base) is AggregateFunction:
                found = typing.get_args(base)[1]
                if not isinstance(found, TypeVar):
                    return found
    returned = _annotations(function.create_accumulator).get("return")
    return returned if returned is not None else type(function.create_accumulator())


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
