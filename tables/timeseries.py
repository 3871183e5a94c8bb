"""TimeSeriesState: a key's elements in the order of their event time, kept for a span of time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from models.errors import StateError
from models.time import NO_TIME, Millis, millis
from tables.sequence import Items, SequenceState

T = TypeVar("T")


class Series(Items[T], Generic[T]):
    """Elements by time, oldest first; equal times stand in the order of adding.

    ``previous``: the element added before the newest added one (by adding, not by time), ``None`` without one.
    """

    __slots__ = ("floor", "latest", "newest", "oldest", "previous")

    def __init__(self) -> None:
        super().__init__()
        self.previous: T | None = None
        #: the element added last
        self.latest: T | None = None
        self.oldest: Millis = NO_TIME
        self.newest: Millis = NO_TIME
        #: elements at or before this time are gone
        self.floor: Millis = NO_TIME


class TimeSeriesState(SequenceState[T]):
    """Elements per key in event-time order.

    ``time`` gives an element's event time in ms.  Kept are elements later than (the key's newest time - ``keep_for``), at most
    ``keep_last`` of them (the oldest go first).  What is out of the span goes when the next element is added, so an element
    that comes late is there for its own turn.  Row head: [floor, the element added last].
    """

    kind = "time-series"
    items_type = Series

    def __init__(
        self,
        of: type[T],
        *,
        time: Callable[[T], Millis],
        keep_for: timedelta | None = None,
        keep_last: int = 10_000,
        name: str | None = None,
    ) -> None:
        if keep_last < 1:
            raise StateError(f"keep_last={keep_last}: a series keeps at least one element")
        self.head_type = tuple[int, of | None]  # type: ignore[valid-type]
        super().__init__(of, name=name)
        self.time = time
        self.keep_last = keep_last
        #: span that is kept, in ms; may be changed while running (a longer one cannot bring back what is gone)
        self.keep_ms: Millis = 1 << 62 if keep_for is None else millis(keep_for)
        #: elements dropped because of ``keep_last``, by this handle
        self.dropped = 0

    def add(self, item: T) -> Series[T]:
        """Insert an element for the current key; returns the key's series, live, with the element in it."""
        key = self._context.key
        series: Series[T] | None = self._rows.get(key)
        if series is None:
            series = (self._thaw(key) if self._cold else None) or self._new(key)
        at = self.time(item)
        if at >= series.newest:
            if series:
                low = at - self.keep_ms
                if series.oldest <= low:
                    self._evict(series, low)
            if not series:
                series.oldest = at
            series.newest = at
            series.append(item)
        else:
            self._insert_late(series, item, at)
        if len(series) > self.keep_last:
            self._drop_oldest(series, item)
        series.previous = series.latest
        series.latest = item
        fresh = series.fresh
        if fresh is None:
            series.fresh = [item]
            self._dirty[key] = series
        else:
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
        return series[bisect_right(series, after_ms, key=self.time) : bisect_right(series, until_ms, key=self.time)]

    def _evict(self, series: Series[T], low: Millis) -> None:
        del series[: bisect_right(series, low, key=self.time)]
        series.floor = max(series.floor, low)
        series.oldest = self.time(series[0]) if series else NO_TIME

    def _insert_late(self, series: Series[T], item: T, at: Millis) -> None:
        low = series.newest - self.keep_ms
        if series.oldest <= low:
            self._evict(series, low)
        series.insert(bisect_right(series, at, key=self.time), item)
        series.oldest = self.time(series[0])

    def _drop_oldest(self, series: Series[T], keep: T) -> None:
        del series[1 if series[0] is keep and len(series) > 1 else 0]
        series.oldest = self.time(series[0])
        self.dropped += 1

    def _head(self, items: Series[T]) -> tuple[int, T | None]:
        return items.floor, items.latest

    def _restore(self, runs: list[Any]) -> Series[T]:
        series: Series[T] = Series()
        for run in runs:
            series.extend(run.elements)
        series.floor, series.latest = runs[-1].head
        series.sort(key=self.time)
        del series[: bisect_right(series, series.floor, key=self.time)]
        if len(series) > self.keep_last:
            del series[: len(series) - self.keep_last]
        if series:
            series.oldest, series.newest = self.time(series[0]), self.time(series[-1])
        else:
            series.newest = series.floor
        return series
