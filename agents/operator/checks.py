"""What is refused of a function before its first record, with what to write instead.

Most of it would otherwise do nothing and say nothing: a coroutine that nobody awaits, a generator that nobody iterates, an instance that two
partitions share.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from agents.operator.async_function import AsyncFunction
from agents.operator.metrics import OperatorMetrics
from agents.operator.process import KeyedBroadcastProcessFunction, KeyedCoProcessFunction, KeyedProcessFunction
from models.errors import BadRecord, StateError
from tables.broadcast import declared_broadcasts
from tables.state import declared_states

#: Methods that emit, with their arguments, and those that do not.
_RECORDS = {"process_element": ("event", "ctx"), "on_timer": ("timestamp_ms", "ctx")}
_LIFE = ("open", "close")


def check_function(function: Any) -> None:
    """Say of what cannot be driven what it is instead."""
    if isinstance(function, type):
        raise StateError(f"{function.__name__} is a class: give an instance of it, {function.__name__}()")
    name = type(function).__name__
    if not isinstance(function, KeyedProcessFunction):
        raise StateError(
            f"{name} is not a KeyedProcessFunction; of windows, aggregate(), reduce() and process() make one, as TumblingWindow(...).aggregate(Sum())"
        )
    for method in (*_RECORDS, *_LIFE, "process_element1", "process_element2", "process_broadcast_element"):
        if _is_async(getattr(function, method, None)):
            raise StateError(
                f"{name}.{method} is async, and functions with state do not wait: derive from AsyncFunction"
            )
    for method in (*_LIFE, "process_broadcast_element"):
        if _yields(getattr(function, method, None)):
            raise StateError(
                f"{name}.{method} yields, but nothing is emitted there: emit in process_element or on_timer"
            )
    if isinstance(function, KeyedCoProcessFunction):
        _check_method(function, KeyedCoProcessFunction, "process_element1", *_RECORDS["process_element"])
        _check_method(function, KeyedCoProcessFunction, "process_element2", *_RECORDS["process_element"])
    else:
        _check_method(function, KeyedProcessFunction, "process_element", *_RECORDS["process_element"])
    if isinstance(function, KeyedBroadcastProcessFunction):
        _check_method(function, KeyedBroadcastProcessFunction, "process_broadcast_element", "element", "ctx")
    if type(function).on_timer is not KeyedProcessFunction.on_timer:
        _check_method(function, KeyedProcessFunction, "on_timer", *_RECORDS["on_timer"])


def check_unused(function: Any, attribute: str) -> None:
    """An instance whose states belong to a partition would from now on write to another one's."""
    if attribute in vars(function):
        raise StateError(
            f"this {type(function).__name__} is in use already: each partition (and each harness) needs an instance of its own, "
            "so let the operator's function= make a new one whenever it is called"
        )


def check_async(function: AsyncFunction[Any, Any]) -> None:
    """The same for a function that waits."""
    name = type(function).__name__
    _check_method(function, AsyncFunction, "invoke", "event")
    if _yields(function.invoke):
        raise StateError(f"{name}.invoke yields: return the result, a list where there are several")
    if not inspect.iscoroutinefunction(function.invoke):
        raise StateError(f"{name}.invoke is not async: write async def invoke(self, event)")
    _check_method(function, None, "timeout", "event")
    if _is_async(function.timeout):
        raise StateError(
            f"{name}.timeout is async: the time is over, so it answers at once; write def timeout(self, event)"
        )
    for method in ("open", "close"):
        _check_method(function, None, method)
        if not inspect.iscoroutinefunction(getattr(function, method)):
            raise StateError(f"{name}.{method} is not async: write async def {method}(self)")
    if not isinstance(function.metrics, OperatorMetrics):
        raise StateError(
            f"{name}.metrics is {type(function.metrics).__name__}: it is where counters come from, so use another name"
        )
    if states := [*declared_states(function), *declared_broadcasts(function)]:
        raise StateError(
            f"{name} declares the state {states[0]!r}, and an AsyncFunction has none: keep it in an operator before or after this one"
        )


def _check_method(function: Any, base: type | None, method: str, *wanted: str) -> None:
    """Refuse a method that cannot be called with these arguments, or that only ``base`` has, where it raises."""
    name, given = type(function).__name__, getattr(function, method)
    call = f"{method}({', '.join(('self', *wanted))})"
    if base is not None and getattr(type(function), method) is getattr(base, method):
        raise StateError(f"{name} has no {method}: define {call}")
    try:
        inspect.signature(given).bind(*wanted)
    except TypeError:
        raise StateError(
            f"{name}.{method}{inspect.signature(given)} is called as {call}; results are yielded or returned"
        ) from None


def _is_async(method: Any) -> bool:
    """Whether calling it does nothing yet."""
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def _yields(method: Any) -> bool:
    """Whether it has to be iterated to do anything."""
    return inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method)


#: What is one value, also where it can be gone through.
ONE_VALUE = (str, bytes, dict, msgspec.Struct, int)


def refuse_one_value(function: Any, given: Any) -> None:
    """Of a function that returned one value, whose characters or keys might be emitted: the record's end, as any exception."""
    raise BadRecord(
        f"{type(function).__name__} returns {type(given).__name__} {given!r:.60}: return a list of outputs, [value], or yield each"
    )
