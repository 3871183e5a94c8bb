"""TimeSeriesState: a key's elements in the order of their event time, kept for a span of time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from models.errors import StateError
from models.time import Millis, millis
from tables.sequence import SHORT, SequenceState
from tables.series import PlainSeries as Series
from tables.series import compiled_adding, series_of, shape_of
from tables.state import encode
from tables.ttl import Ttl

T = TypeVar("T")

#: what MessagePack begins an array of so many with
OF_TWO, OF_THREE, OF_FOUR = b"\x92", b"\x93", b"\x94"
#: ``fresh`` of a short series that has changed: it is written anew, so nobody needs to know which elements are new
ANY: Any = ()


class TimeSeriesState(SequenceState[T]):
    """Elements per key in event-time order.

    ``time`` is an element's event time in ms: the name of a field, or a function.  Kept are elements later than (the key's newest time -
    ``keep_for``), at most ``keep_last`` (2 or more) of them (the oldest go first).  What is out of the span goes when the next element
    is added, so an element that comes late is there for its own turn, even in the place of a newer one.  Row head: [floor, the element
    added last].

    A ``ttl`` holds for a key's series as a whole: each ``add`` renews it.
    """

    kind = "time-series"

    def __init__(
        self,
        of: type[T],
        *,
        time: Callable[[T], Millis] | str,
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
        self.shape = shape_of(of, time)
        self.keep_last = keep_last
        self._keep_ms: Millis = 1 << 60 if keep_for is None else millis(keep_for)
        self._compiled: Any = None
        #: called for each element that is dropped because of ``keep_last``
        self.on_drop: Callable[[], None] | None = None

    def _open(self) -> None:
        super()._open()
        self.items_type = series_of(self.shape)
        if type(self).add is TimeSeriesState.add:
            self._use(compiled_adding(self, SHORT, ANY))

    def _use(self, compiled: Any) -> None:
        self._compiled = compiled
        if compiled is not None:
            self.add = compiled.add  # type: ignore[method-assign]
            self.add_from = compiled.add_from  # type: ignore[method-assign]
            self.ahead = compiled.ahead

    @property
    def keep_ms(self) -> Millis:
        """Span that is kept, in ms; may be changed while running (a longer one cannot bring back what is gone)."""
        return self._keep_ms

    @keep_ms.setter
    def keep_ms(self, span: Millis) -> None:
        self._keep_ms = span
        if self._compiled is not None:
            self._compiled.keep_ms = span

    def add(self, item: T) -> Series[T]:
        """Insert an element for the current key; returns the key's series, live, with the element in it."""
        key = self._context.key
        found: Series[T] = self._rows.get(key) or self._first(key)
        if found.add(item, self._keep_ms, self.keep_last):
            self._dropped()
        fresh = found.fresh
        if fresh is None:
            found.fresh = [item] if found.deltas or len(found) > SHORT else ANY
            self._dirty[key] = found
        elif fresh is not ANY:
            fresh.append(item)
        return found

    def add_from(self, source: object) -> Series[T]:
        """As ``add``, with an element whose fields are those of the same names of ``source``, which compiled code need not make.

        Raises :class:`models.errors.StateError` for elements that are more than their fields.
        """
        return self.add(self.shape.made_from(source))

    def _first(self, key: str) -> Any:
        """The series of a key that is not in memory."""
        return (self._thaw(key) if self._cold else None) or self._new(key)

    def _dropped(self) -> None:
        if self.on_drop is not None:
            self.on_drop()

    def get(self) -> Series[T] | None:
        """The current key's series, live: read only."""
        found: Series[T] | None = self._find(self._context.key)
        return found

    def between(self, after_ms: Millis, until_ms: Millis) -> list[T]:
        """Elements with ``after_ms`` < time <= ``until_ms``, oldest first."""
        series = self.get()
        if series is None:
            return []
        return series[series.position(after_ms) : series.position(until_ms)]

    def _base_row(self, items: Series[T]) -> bytes:
        if items.next_delta:
            return OF_THREE + items.packed() + encode(items.next_delta)
        return OF_TWO + items.packed()

    def _delta_row(self, items: Series[T], fresh: list[T]) -> bytes:
        return encode((items.head(), fresh))

    def _restore(self, runs: list[Any]) -> Series[T]:
        time = self.shape.time_of
        floor, latest = runs[-1].head
        items = [item for run in runs for item in run.elements if time(item) > floor]
        items.sort(key=time)
        if len(items) > self.keep_last:
            del items[: len(items) - self.keep_last]
        if latest is not None and (not items or time(latest) < time(items[0])):
            # The one added last came late: it is here for its own turn, at the cost of the oldest if there is no room.
            items[: 1 if len(items) == self.keep_last else 0] = [latest]
        series: Series[T] = self.items_type()
        series.restore(items, floor, latest)
        return series
