"""The history functions of rules, over one user's transactions in order of their timestamps.

A window is (t - d, t]: ``d`` ms up to and including the transaction in hand, whose timestamp is ``t``.  Input comes out of
order, so entries later than ``t`` exist; they are in no window.  Counting is O(log n), the others O(entries in window).

Should the cap of the history have dropped even the transaction in hand, its window may be empty: 0 and 0.0 then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import fsum, inf
from typing import Any, Protocol

from models.history import HistoryEntry
from models.time import Millis


class History(Protocol):
    """Entries by ascending timestamp, the transaction in hand included (a :class:`tables.Series` of them)."""

    @property
    def previous(self) -> HistoryEntry | None:
        """The entry taken just before the one in hand, in order of arrival."""

    def position(self, time_ms: Millis, /) -> int:
        """How many entries are at or before a time."""

    def reaches(self, least: int, after_ms: Millis, until_ms: Millis, /) -> bool:
        """Whether so many entries, or more, have ``after_ms`` < timestamp <= ``until_ms``."""

    def column(self, name: str, begin: int, stop: int, /) -> list[Any]:
        """A field of the entries from place ``begin`` to before place ``stop``."""


def sum_amount(history: History, begin: int, stop: int) -> float:
    """Correctly rounded, so it does not depend on the order of equal timestamps nor on the Python release."""
    amounts = history.column("amount", begin, stop)
    try:
        return fsum(amounts)
    except OverflowError:
        total = sum(map(Fraction, amounts))
    try:
        return float(total)
    except OverflowError:
        return inf if total > 0 else -inf


def avg_amount(history: History, begin: int, stop: int) -> float:
    return sum_amount(history, begin, stop) / (stop - begin) if stop > begin else 0.0


def min_amount(history: History, begin: int, stop: int) -> float:
    return min(history.column("amount", begin, stop), default=0.0)


def max_amount(history: History, begin: int, stop: int) -> float:
    return max(history.column("amount", begin, stop), default=0.0)


def distinct_merchants(history: History, begin: int, stop: int) -> int:
    """Transactions without a merchant count as one merchant more."""
    return len(set(history.column("merchant", begin, stop)))


def distinct_countries(history: History, begin: int, stop: int) -> int:
    """Transactions without a country count as one country more."""
    return len(set(history.column("country", begin, stop)))


def count(history: History, begin: int, stop: int) -> int:
    return stop - begin


#: Functions of a window: (history, begin, stop) -> value.
WINDOW_FUNCTIONS: Mapping[str, Callable[[History, int, int], int | float]] = {
    "count": count,
    "sum_amount": sum_amount,
    "avg_amount": avg_amount,
    "min_amount": min_amount,
    "max_amount": max_amount,
    "distinct_merchants": distinct_merchants,
    "distinct_countries": distinct_countries,
}


def over_window(name: str, history: History, t: Millis, d_ms: Millis) -> int | float:
    """Value of the window function ``name`` over (t - d_ms, t]."""
    return WINDOW_FUNCTIONS[name](history, history.position(t - d_ms), history.position(t))


def has_previous(history: History, t: Millis) -> bool:
    return history.previous is not None


def previous_amount(history: History, t: Millis) -> float:
    """0.0 without a previous transaction."""
    previous = history.previous
    return 0.0 if previous is None else previous.amount


def seconds_since_previous(history: History, t: Millis) -> float:
    """Event time from the previous transaction to this one: negative when they came out of order; 0.0 without one."""
    previous = history.previous
    return 0.0 if previous is None else (t - previous.timestamp) / 1000


#: Functions of the previous transaction: (history, t) -> value.
PREVIOUS_FUNCTIONS: Mapping[str, Callable[[History, Millis], bool | float]] = {
    "has_previous": has_previous,
    "previous_amount": previous_amount,
    "seconds_since_previous": seconds_since_previous,
}
