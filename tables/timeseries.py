"""TimeSeriesState: a key's elements in the order of their event time, kept for a span of time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from models.errors import StateError
from models.time import NO_TIME, Millis, millis
from tables.sequence import SHORT, Items, SequenceState
from tables.state import KeyedState
from tables.ttl import Ttl

T = TypeVar("T")

#: ``fresh`` of a short series that has changed: it is written anew, so nobody needs to know which elements are new
_ANY: Any = ()


class Series(Items[T], Generic[T]):
    """Elements by time, oldest first; equal times stand in the order of adding.

    ``times``: their event times in ms.  ``previous``: the element added before the newest added one (by adding, not by time), ``None``
    without one.  It belongs to what ``add`` returned: a series read back after a restart has none before its next ``add``.
    """

    __slots__ = ("floor", "latest", "previous", "times")

    def __init__(self) -> None:
        super().__init__()
        # A list of its own: times are looked for with every element, and a search that asks each element for its time takes five times as long.
        self.times: list[Millis] = []
        self.previous: T | None = None
        #: the element added last
        self.latest: T | None = None
        #: elements at or before this time are gone
        self.floor: Millis = NO_TIME


class TimeSeriesState(SequenceState[T]):
    """Elements per key in event-time order.

    ``time`` gives an element's event time in ms.  Kept are elements later than (the key's newest time - ``keep_for``), at most
    ``keep_last`` (2 or more) of them (the oldest go first).  What is out of the span goes when the next element is added, so an
    element that comes late is there for its own turn, even in the place of a newer one.  Row head: [floor, the element added last].

    A ``ttl`` holds for a key's series as a whole: each ``add`` renews it.
    """

    kind = "time-series"
    items_type: type[Series[Any]] = Series

    def __init__(
        self,
        of: type[T],
        *,
        time: Callable[[T], Millis],
        keep_for: timedelta | None = None,
        keep_last: int = 10_000,
        ttl: Ttl | None = None,
        name: str | None = None,
    ) -> None:
        if keep_last < 2:
            raise StateError(
                f"keep_last={keep_last}: a series keeps two elements at least; for one there is ValueState"
            )
        if keep_for is not None and millis(keep_for) < 1:
            raise StateError(f"keep_for={keep_for}: an element stays for a millisecond at least")
        self.head_type = tuple[int, of | None]  # type: ignore[valid-type]
        super().__init__(of, ttl=ttl, name=name)
        self.time = time
        self.keep_last = keep_last
        #: span that is kept, in ms; may be changed while running (a longer one cannot bring back what is gone)
        self.keep_ms: Millis = 1 << 62 if keep_for is None else millis(keep_for)
        #: called for each element that is dropped because of ``keep_last``
        self.on_drop: Callable[[], None] | None = None

    def _with_ttl(self) -> type[KeyedState]:
        from tables.timeseries_ttl import TimeSeriesWithTtl  # it derives from this class

        return TimeSeriesWithTtl

    def add(self, item: T) -> Series[T]:
        """Insert an element for the current key; returns the key's series, live, with the element in it."""
        key = self._context.key
        series: Series[T] | None = self._rows.get(key)
        if series is None:
            series = (self._thaw(key) if self._cold else None) or self._new(key)
        at = self.time(item)
        times = series.times
        if not times or at >= times[-1]:
            if times:
                low = at - self.keep_ms
                # One that came late and was out of the span already, here for its own turn only, is not after the floor.
                if times[0] <= low or times[0] <= series.floor:
                    self._evict(series, low)
            times.append(at)
            series.append(item)
        else:
            self._insert_late(series, item, at)
        if len(series) > self.keep_last:
            self._drop_oldest(series, item)
        series.previous = series.latest
        series.latest = item
        fresh = series.fresh
        if fresh is None:
            series.fresh = [item] if series.deltas or len(series) > SHORT else _ANY
            self._dirty[key] = series
        elif fresh is not _ANY:
            fresh.append(item)
        return series

    def get(self) -> Series[T] | None:
        """The current key's series, live: read only."""
        found: Series[T] | None = self._find(self._context.key)
        return found

    def between(self, after_ms: Millis, until_ms: Millis) -> list[T]:
        """Elements with ``after_ms`` < time <= ``until_ms``, oldest first."""
        series = self.get()
        if series is None:
            return []
        return series[bisect_right(series.times, after_ms) : bisect_right(series.times, until_ms)]

    def _evict(self, series: Series[T], low: Millis) -> None:
        """Drop what is not later than ``low``."""
        if low < series.floor:
            low = series.floor
        else:
            series.floor = low
        gone = bisect_right(series.times, low)
        del series[:gone], series.times[:gone]

    def _insert_late(self, series: Series[T], item: T, at: Millis) -> None:
        times = series.times
        low = times[-1] - self.keep_ms
        if times[0] <= low or times[0] <= series.floor:
            self._evict(series, low)
        place = bisect_right(times, at)
        times.insert(place, at)
        series.insert(place, item)

    def _drop_oldest(self, series: Series[T], keep: T) -> None:
        place = 1 if series[0] is keep else 0
        del series[place], series.times[place]
        if self.on_drop is not None:
            self.on_drop()

    def _head(self, items: Series[T]) -> tuple[int, T | None]:
        return items.floor, items.latest

    def _restore(self, runs: list[Any]) -> Series[T]:
        series = self.items_type()
        for run in runs:
            series.extend(run.elements)
        floor, latest = runs[-1].head
        series.floor, series.latest = floor, latest
        series.sort(key=self.time)
        del series[: bisect_right(series, floor, key=self.time)]
        if len(series) > self.keep_last:
            del series[: len(series) - self.keep_last]
        if latest is not None and (not series or self.time(latest) < self.time(series[0])):
            # The one added last came late: it is here for its own turn, at the cost of the oldest if there is no room.
            series[: 1 if len(series) == self.keep_last else 0] = [latest]
        series.times = list(map(self.time, series))
        return series
