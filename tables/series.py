"""A key's elements in the order of their event time, and how they lie in memory.

Two classes do the same, and one contract holds both: :class:`PlainSeries` here, and ``Series`` of ``tables/_series.pyx``, which is compiled
when the application is installed where there is a C compiler.  ``COMPILED`` says which one it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

import msgspec

from models.errors import StateError
from models.time import NO_TIME, Millis
from tables.ttl import UNSTAMPED

try:
    import tables._series as _series
except ImportError:  # there was no compiler
    _series = None  # type: ignore[assignment]

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Shape(Generic[T]):
    """What a series knows of its elements.

    ``time_of``: asks an element for its time; ``time_field``: the field that it is, if it is one of ``fields``.  ``fields``: name and type of
    each if an element is nothing but its fields and can be made anew of them; otherwise empty, and elements are kept as they are.
    ``as_tuples``: a tuple of the fields is encoded as the element is.
    """

    of: type[T]
    time_of: Callable[[T], Millis]
    time_field: str = ""
    fields: tuple[tuple[str, Any], ...] = ()
    as_tuples: bool = False

    def made_from(self, source: object) -> T:
        """An element whose fields are those of the same names of another object."""
        if not self.fields:
            raise StateError(f"{self.of.__name__} is not made of its fields alone: make an element and add it")
        return self.of(*(getattr(source, name) for name, _ in self.fields))


def shape_of(of: type[T], time: Callable[[T], Millis] | str) -> Shape[T]:
    """The shape of elements whose time is a field of this name, or what this function says."""
    fields = _fields(of)
    if not isinstance(time, str):
        time_of, time_field = time, ""
    elif time in getattr(of, "__struct_fields__", (time,)):
        time_of, time_field = attrgetter(time), time
    else:
        raise StateError(f"time={time!r}: {of.__name__} has no such field, only {', '.join(of.__struct_fields__)}")  # type: ignore[attr-defined]
    if not fields:
        return Shape(of, time_of)
    return Shape(of, time_of, time_field, fields, of.__struct_config__.array_like)  # type: ignore[attr-defined]


def _fields(of: Any) -> tuple[tuple[str, Any], ...]:
    """Name and type of the fields of a struct that a call with their values makes anew; otherwise nothing."""
    if not (isinstance(of, type) and issubclass(of, msgspec.Struct)):
        return ()
    if of.__struct_config__.tag is not None or hasattr(of, "__post_init__"):
        return ()
    arguments = signature(of).parameters.values()
    if any(argument.kind is not Parameter.POSITIONAL_OR_KEYWORD for argument in arguments):
        return ()
    return tuple((field.name, field.type) for field in msgspec.structs.fields(of))


class PlainSeries(Generic[T]):
    """Elements by time, oldest first; equal times stand in the order of adding.

    ``latest``, ``previous``: the element added last and the one before it (by adding, not by time), ``None`` without one; they may be
    gone from the series.  A series read back after a restart has no ``previous`` before its next ``add``.  ``floor``: elements at or before
    this time are gone.

    Elements that are read are equal to those that were added, and may be copies.  What the changelog has of them (``fresh``, ``logged``,
    ``deltas``, ``next_delta``): see ``tables.sequence``.  ``stamp``, ``logged_stamp``: see ``tables.timeseries_ttl``.
    """

    __slots__ = (
        "_items",
        "_shape",
        "_times",
        "deltas",
        "floor",
        "fresh",
        "latest",
        "logged",
        "logged_stamp",
        "next_delta",
        "previous",
        "stamp",
    )

    def __init__(self, shape: Shape[T]) -> None:
        self._shape = shape
        self._items: list[T] = []
        # A list of its own: times are looked for with every element, and a search that asks each element takes five times as long.
        self._times: list[Millis] = []
        self.previous: T | None = None
        self.latest: T | None = None
        self.floor: Millis = NO_TIME
        self.fresh: Any = None
        self.logged = 0
        self.deltas: Sequence[int] = ()
        self.next_delta = 0
        self.stamp: Millis = UNSTAMPED
        self.logged_stamp: Millis = UNSTAMPED

    def add(self, item: T, keep_ms: Millis, keep_last: int) -> bool:
        """Insert an element after dropping what is not later than (the newest time - ``keep_ms``).

        ``True``: the oldest one had to go because there were more than ``keep_last``.  The added element itself stays.
        Raises ``TypeError`` for an element of another type.
        """
        shape = self._shape
        if shape.fields and type(item) is not shape.of:
            raise TypeError(f"{item!r:.100} is no {shape.of.__name__}")
        at = shape.time_of(item)
        times = self._times
        if times:
            low = max(at, times[-1]) - keep_ms
            # One that came late and was out of the span already, here for its own turn only, is not after the floor.
            if times[0] <= low or times[0] <= self.floor:
                self._evict(low)
        place = bisect_right(times, at)
        times.insert(place, at)
        self._items.insert(place, item)
        self.previous, self.latest = self.latest, item
        if len(times) <= keep_last:
            return False
        gone = 1 if place == 0 else 0
        del self._items[gone], times[gone]
        return True

    def _evict(self, low: Millis) -> None:
        """Drop what is not later than ``low``."""
        low = self.floor = max(low, self.floor)
        gone = bisect_right(self._times, low)
        del self._items[:gone], self._times[:gone]

    def restore(self, items: Iterable[T], floor: Millis, latest: T | None) -> None:
        """Hold these elements, given in any order, and no others."""
        self._items = sorted(items, key=self._shape.time_of)
        self._times = [self._shape.time_of(item) for item in self._items]
        self.floor = floor
        self.previous, self.latest = None, latest

    def position(self, time_ms: Millis) -> int:
        """How many elements are at or before a time."""
        return bisect_right(self._times, time_ms)

    def reaches(self, least: int, after_ms: Millis, until_ms: Millis) -> bool:
        """Whether so many elements, or more, have ``after_ms`` < time <= ``until_ms``."""
        stop = bisect_right(self._times, until_ms)
        return least <= 0 or (stop >= least and self._times[stop - least] > after_ms)

    def column(self, name: str, begin: int, stop: int) -> list[Any]:
        """A field of the elements from place ``begin`` to before place ``stop``."""
        return [getattr(item, name) for item in self._items[max(0, begin) : max(0, stop)]]

    def elements(self) -> list[Any]:
        """All of them, as they are to be encoded."""
        return self._items

    def head(self) -> tuple[Millis, Any]:
        """Floor and latest element, as they are to be encoded."""
        return self.floor, self.latest

    def packed(self) -> bytes:
        """Head and elements, encoded, one behind the other."""
        return encode(self.head()) + encode(self.elements())

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"PlainSeries({self._items!r})"


#: Whether series are the compiled ones; tests say no.
COMPILED: bool = _series is not None


def series_of(shape: Shape[T]) -> Callable[[], PlainSeries[T]]:
    """Makes empty series of such elements."""
    if COMPILED and _series is not None:
        return partial(_series.Series, _series.Layout(shape))
    return partial(PlainSeries, shape)


def compiled_adding(
    state: Any, short: int, unknown: Any, *, ttl_ms: Millis = 0, event_time: bool = False, per_access: int = 0
) -> Any:
    """``add`` and ``add_from`` of an opened ``TimeSeriesState``, compiled; ``None`` where nothing is."""
    if not COMPILED or _series is None:
        return None
    return _series.Adding(state, short, unknown, ttl_ms, event_time, per_access)
