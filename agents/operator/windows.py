"""Windows: which of them a record belongs to, and how an operator is made of them.

``TumblingWindow(timedelta(minutes=5)).aggregate(Sum())`` is a keyed process function like any other.

A window is the half-open interval [start, end) of event time.  It closes when the watermark reaches its end; with ``allowed_lateness``
it stays that much longer, and each record that still comes emits its result anew.  A record of whose windows none is left is late: it
goes to ``late-events`` and is counted.  What a window contains, and so its result, does not depend on the order in which records
arrive within the lateness, as long as the aggregate does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, ClassVar

from agents.operator.triggers import OnCount, OnTime, Purging, Trigger
from agents.operator.user_functions import takes_context, value_type, values_of
from agents.operator.window_operator import (
    ALL_TIME,
    BufferingWindows,
    FoldingWindows,
    Window,
    WindowOperator,
    buffering_states,
    folding_states,
)
from models.errors import StateError
from models.time import Millis, length, millis
from tables.aggregate import AggregateFunction, accumulator_type, aggregate_function, merges

#: makes what is emitted of a key, a window and a result
Into = Callable[[str, Window, Any], Any]


class WindowAssigner:
    """Base of the kinds of windows: derive and override ``assign`` for windows of your own.

    ``allowed_lateness``: for how long after its end a window still takes records.  ``trigger``: when it emits; by default at its end.
    ``aggregate``, ``reduce`` and ``process`` make the operator.
    """

    #: whether windows of a key that overlap become one
    merging: ClassVar[bool] = False
    # Of a kind that does not call ``super().__init__``.
    allowed_lateness: timedelta = timedelta(0)
    trigger: Trigger = OnTime()

    def __init__(self, *, allowed_lateness: timedelta = timedelta(0), trigger: Trigger | None = None) -> None:
        length(allowed_lateness, "allowed_lateness")
        self.allowed_lateness = allowed_lateness
        if trigger is not None:
            self.trigger = _trigger(trigger)

    def assign(self, event: Any, timestamp_ms: Millis) -> Iterable[Window]:
        """The windows that a record belongs to."""
        raise NotImplementedError

    def aggregate(self, function: AggregateFunction[Any, Any, Any], *, into: Into | None = None) -> WindowOperator:
        """Fold each window's records.  Emits the function's results, or what ``into(key, window, result)`` makes of them."""
        function = aggregate_function(function)
        accumulator = accumulator_type(function)
        if self.merging and not merges(function):
            raise StateError(
                f"{type(self).__name__} merges windows: {type(function).__name__} needs merge(first, second)"
            )
        return self._folding(
            accumulator,
            lambda event: function.add(event, function.create_accumulator()),
            lambda accumulator, event: function.add(event, accumulator),
            lambda first, second: function.merge(first, second),
            lambda key, window, accumulator: (
                function.get_result(accumulator)
                if into is None
                else into(key, window, function.get_result(accumulator))
            ),
        )

    def reduce(
        self, function: Callable[[Any, Any], Any], *, of: type[Any] | None = None, into: Into | None = None
    ) -> WindowOperator:
        """Combine each window's records, two at a time, to one of their own kind.

        ``of`` is their type, if the function's annotations or the source's decoder do not say.
        The function must not change them: a record may be in other windows, too.
        """
        if not callable(function):
            raise StateError(f"reduce({function!r}): give a function of two records")
        return self._folding(
            of or value_type(function),
            lambda event: event,
            function,
            function,
            lambda key, window, value: value if into is None else into(key, window, value),
        )

    def process(self, function: Callable[..., Any], *, of: type[Any] | None = None) -> WindowOperator:
        """Call ``function(key, window, events)`` or ``function(key, window, events, ctx)`` with all records of a window.

        The events come in the order of event time, equal times as they arrived.  It yields values, or returns one or a list of
        them.  All records of open windows are kept, so prefer ``aggregate`` where a fold will do.
        """
        wants_context = takes_context(function)
        return WindowOperator.made(
            BufferingWindows,
            buffering_states(of),
            self,
            lambda key, window, events, ctx: values_of(
                function(key, window, events, ctx) if wants_context else function(key, window, events)
            ),
            event_type=of,
        )

    def _folding(
        self,
        of: Any,
        first: Callable[[Any], Any],
        fold: Callable[[Any, Any], Any],
        merge: Callable[[Any, Any], Any],
        result: Callable[[str, Window, Any], Any],
    ) -> WindowOperator:
        return WindowOperator.made(
            FoldingWindows,
            folding_states(of),
            self,
            lambda key, window, value, ctx: [result(key, window, value)],
            event_type=of,
            first=first,
            fold=fold,
            combine=merge,
        )


class TumblingWindow(WindowAssigner):
    """Windows of ``size``, one after the other, aligned to 1970 plus ``offset``.

    Raises :class:`models.errors.StateError` for a size under one millisecond, as the other kinds do.
    """

    def __init__(self, size: timedelta, *, offset: timedelta = timedelta(0), **options: Any) -> None:
        super().__init__(**options)
        self._size_ms = _positive(size, "size")
        self._offset_ms = millis(offset)

    def assign(self, event: Any, timestamp_ms: Millis) -> Iterable[Window]:
        start = timestamp_ms - (timestamp_ms - self._offset_ms) % self._size_ms
        return (Window(start, start + self._size_ms),)


class SlidingWindow(WindowAssigner):
    """Windows of ``size`` of which one starts every ``slide``, so that a record is in size / slide of them."""

    def __init__(self, size: timedelta, slide: timedelta, *, offset: timedelta = timedelta(0), **options: Any) -> None:
        super().__init__(**options)
        self._size_ms = _positive(size, "size")
        self._slide_ms = _positive(slide, "slide")
        self._offset_ms = millis(offset)

    def assign(self, event: Any, timestamp_ms: Millis) -> Iterable[Window]:
        last = timestamp_ms - (timestamp_ms - self._offset_ms) % self._slide_ms
        size = self._size_ms
        return [Window(start, start + size) for start in range(last, timestamp_ms - size, -self._slide_ms)]


class SessionWindow(WindowAssigner):
    """Windows that go on as long as records come less than ``gap`` apart.  Override ``gap_ms`` for a gap that depends on the record."""

    merging = True

    def __init__(self, gap: timedelta, **options: Any) -> None:
        super().__init__(**options)
        self._gap_ms = _positive(gap, "gap")

    def gap_ms(self, event: Any) -> Millis:
        """The gap after a record."""
        return self._gap_ms

    def assign(self, event: Any, timestamp_ms: Millis) -> Iterable[Window]:
        return (Window(timestamp_ms, timestamp_ms + self.gap_ms(event)),)


class CountWindow(WindowAssigner):
    """Every ``count`` records of a key, whatever their time.  With a ``trigger`` of your own instead: the window of all time."""

    def __init__(self, count: int | None = None, *, trigger: Trigger | None = None) -> None:
        if count is not None and trigger is not None:
            raise StateError(
                f"CountWindow({count!r}, trigger=...): the trigger alone would say when to emit; give one of them"
            )
        super().__init__(trigger=Purging(OnCount(count)) if trigger is None else trigger)  # type: ignore[arg-type]  # OnCount refuses None

    def assign(self, event: Any, timestamp_ms: Millis) -> Iterable[Window]:
        return (ALL_TIME,)


def _trigger(given: Any) -> Trigger:
    if not isinstance(given, Trigger):
        raise StateError(
            f"trigger={given!r}: give an instance of a Trigger, for instance OnTime() or EarlyEvery(interval)"
        )
    return given


def _positive(interval: timedelta, name: str) -> Millis:
    if millis(interval) < 1:
        raise StateError(f"window {name} {interval}: a millisecond at least")
    return millis(interval)
