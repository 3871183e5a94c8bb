"""Counters that a function may keep; the worker publishes them when it is asked."""

from __future__ import annotations


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        self.value += by


class OperatorMetrics:
    """Metrics of one operator on one partition, by name and optional label value."""

    #: label values beyond this many share one counter, so that hostile input cannot grow the metrics without bound
    MAX_LABELS = 1000

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], Counter] = {}

    def counter(self, name: str, label: str = "") -> Counter:
        """The counter of this name; keep it in ``open`` rather than asking per record."""
        found = self.counters.get((name, label))
        if found is None:
            if label and sum(1 for known, _ in self.counters if known == name) >= self.MAX_LABELS:
                label = "(other)"
            found = self.counters.setdefault((name, label), Counter())
        return found
