"""ReducingState and AggregatingState: one value per key that every added element is folded into."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from models.errors import StateError
from tables.ttl import Ttl
from tables.value import ValueState

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  (element, accumulator, result: the letters of Flink's signature)
A = TypeVar("A")
R = TypeVar("R")

_METHODS = ("create_accumulator", "add", "get_result")


class AggregateFunction(ABC, Generic[I, A, R]):
    """Folds elements into an accumulator and makes a result of it.

    It serves :class:`AggregatingState` and the ``aggregate`` of windows alike.  The accumulator's type ``A`` must be one that state can hold
    (see :func:`accumulator_type` for where it is taken from).
    """

    @abstractmethod
    def create_accumulator(self) -> A:
        """An accumulator of nothing."""

    @abstractmethod
    def add(self, value: I, accumulator: A) -> A:
        """The accumulator with one more element; it may be the given one, changed."""

    @abstractmethod
    def get_result(self, accumulator: A) -> R:
        """What the accumulator amounts to."""

    def merge(self, a: A, b: A) -> A:
        """One accumulator of two; only windows that merge (sessions) need it."""
        raise NotImplementedError


def aggregate_function(given: Any) -> AggregateFunction[Any, Any, Any]:
    """An aggregate as it may be given: an instance of the class or of anything else that has its three methods.

    Raises :class:`models.errors.StateError` for what has not.
    """
    if isinstance(given, type) or not all(callable(getattr(given, name, None)) for name in _METHODS):
        raise StateError(f"{given!r} is no AggregateFunction: give an instance of one, for instance Sum()")
    return given  # type: ignore[no-any-return]


def merges(function: AggregateFunction[Any, Any, Any]) -> bool:
    """Whether it says how two accumulators become one."""
    return getattr(type(function), "merge", AggregateFunction.merge) is not AggregateFunction.merge


def accumulator_type(function: AggregateFunction[Any, Any, Any]) -> Any:
    """The type by which an accumulator is read back.

    It is the ``A`` of ``AggregateFunction[I, A, R]``, else what ``create_accumulator`` is annotated to return, else the type of an empty one.
    Raises :class:`models.errors.StateError` where that is a collection of nobody knows what.
    """
    for found in (_argument(type(function)), _returned(function.create_accumulator)):
        if found is not None and found is not Any and not isinstance(found, TypeVar):
            return found
    empty: type = type(function.create_accumulator())
    if issubclass(empty, (list, dict, tuple, set, frozenset)):
        raise StateError(
            f"{type(function).__name__}.create_accumulator does not say what its {empty.__name__} holds: annotate it, or declare accumulator="
        )
    return empty


def _argument(function: type) -> Any:
    for cls in function.__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            if typing.get_origin(base) is AggregateFunction:
                return typing.get_args(base)[1]
    return None


def _returned(function: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError):  # a local class
        return None


class ReducingState(ValueState[T]):
    """One value per key: the reduction of all elements added.  Row: the value."""

    kind = "reducing"

    def __init__(
        self, of: type[T], reduce: Callable[[T, T], T], *, ttl: Ttl | None = None, name: str | None = None
    ) -> None:
        super().__init__(of, ttl=ttl, name=name)
        self.reduce = reduce

    def add(self, value: T) -> None:
        """Reduce the current key's value with one more element."""
        old = self.value()
        self.update(value if old is None else self.reduce(old, value))

    def get(self) -> T | None:
        """The reduction so far, ``None`` of nothing."""
        return self.value()


class AggregatingState(ValueState[A], Generic[I, A, R]):
    """One accumulator per key that elements are added to; ``get`` gives its result.  Row: the accumulator.

    ``accumulator`` is the accumulator's type, by default what the function says (see :func:`accumulator_type`).
    """

    kind = "aggregating"

    def __init__(
        self,
        function: AggregateFunction[I, A, R],
        *,
        accumulator: type[A] | None = None,
        ttl: Ttl | None = None,
        name: str | None = None,
    ) -> None:
        function = aggregate_function(function)
        super().__init__(accumulator or accumulator_type(function), ttl=ttl, name=name)
        self.function = function

    def add(self, value: I) -> None:
        """Add an element to the current key's accumulator."""
        accumulator = self.value()
        if accumulator is None:
            accumulator = self.function.create_accumulator()
        self.update(self.function.add(value, accumulator))

    def get(self) -> R | None:
        """The result of what was added, ``None`` of nothing."""
        accumulator = self.value()
        return None if accumulator is None else self.function.get_result(accumulator)

    def _shown(self, value: Any) -> Any:
        return self.function.get_result(value)
