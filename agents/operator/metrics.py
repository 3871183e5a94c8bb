"""Metrics that a function may keep; the worker publishes them when it is asked.

Ask for a metric in ``open`` and keep it: the look-up costs more than the count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeVar

from models.errors import StateError
from models.time import Millis
from tables.state import KeyContext

M = TypeVar("M")

#: Upper bounds of a histogram's buckets unless told otherwise: made for milliseconds.
DEFAULT_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        self.value += by


class Gauge:
    """A number that is what it was last set to."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0.0

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """How often values fell into which bucket.  ``counts[i]`` are those up to ``bounds[i]``, the last one those above all bounds."""

    __slots__ = ("bounds", "count", "counts", "total")

    def __init__(self, bounds: Sequence[float] = DEFAULT_BOUNDS) -> None:
        self.bounds = tuple(sorted(bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.count = 0
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.total += value

    #: by Flink's name
    update = observe

    def quantile(self, q: float) -> float:
        """Upper bound of the bucket that holds the ``q`` quantile; infinity above all bounds, 0 without values."""
        wanted = q * self.count
        seen = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            if seen >= wanted:
                return bound if self.count else 0.0
        return float("inf")


class Meter:
    """Events, and how many of them a second: over the last minute of processing time, in steps of 5 s."""

    STEP_MS: Millis = 5_000
    STEPS = 12

    __slots__ = ("_clock", "_counts", "_first", "value")

    def __init__(self, clock: KeyContext) -> None:
        self.value = 0
        self._clock = clock
        self._counts: dict[int, int] = {}
        self._first: int | None = None

    def mark(self, count: int = 1) -> None:
        step = self._clock.processing_time_ms // self.STEP_MS
        if step not in self._counts:
            for old in [known for known in self._counts if known <= step - self.STEPS]:
                del self._counts[old]
            self._counts[step] = 0
            if self._first is None:
                self._first = step
        self._counts[step] += count
        self.value += count

    #: by Flink's name
    mark_event = mark

    @property
    def rate(self) -> float:
        """Events a second."""
        if self._first is None:
            return 0.0
        step = self._clock.processing_time_ms // self.STEP_MS
        events = sum(count for known, count in self._counts.items() if known > step - self.STEPS)
        return events / (min(self.STEPS, step - self._first + 1) * self.STEP_MS / 1000)


class OperatorMetrics:
    """Metrics of one operator on one partition, by name and optional label value."""

    #: label values beyond this many share one metric, so that hostile input cannot grow the metrics without bound
    MAX_LABELS = 1000

    def __init__(self, clock: KeyContext | None = None) -> None:
        self._clock = clock or KeyContext()
        self.counters: dict[tuple[str, str], Counter] = {}
        self.gauges: dict[tuple[str, str], Gauge] = {}
        self.histograms: dict[tuple[str, str], Histogram] = {}
        self.meters: dict[tuple[str, str], Meter] = {}

    def at(self, now_ms: Millis) -> None:
        """Say what time it is, where nobody else does (meters)."""
        self._clock.processing_time_ms = now_ms

    def counter(self, name: str, label: str = "") -> Counter:
        """The counter of this name."""
        return self._find(self.counters, name, label, Counter)

    def gauge(self, name: str, label: str = "") -> Gauge:
        """The gauge of this name."""
        return self._find(self.gauges, name, label, Gauge)

    def histogram(self, name: str, label: str = "", *, bounds: Sequence[float] = DEFAULT_BOUNDS) -> Histogram:
        """The histogram of this name; ``bounds`` are the upper bounds of its buckets."""
        found = self._find(self.histograms, name, label, lambda: Histogram(bounds))
        if found.bounds != tuple(sorted(bounds)):
            raise StateError(
                f"histogram {name!r} is there with the bounds {found.bounds}; use another name for other bounds"
            )
        return found

    def meter(self, name: str, label: str = "") -> Meter:
        """The meter of this name."""
        return self._find(self.meters, name, label, lambda: Meter(self._clock))

    def _find(self, known: dict[tuple[str, str], M], name: str, label: str, make: Callable[[], M]) -> M:
        found = known.get((name, label))
        if found is None:
            if label and sum(1 for other, _ in known if other == name) >= self.MAX_LABELS:
                label = "(other)"
            found = known.get((name, label))
            if found is None:
                found = known[name, label] = make()
        return found
