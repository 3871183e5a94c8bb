"""Time as the whole project uses it: integer milliseconds since 1970-01-01T00:00:00Z."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Protocol

from models.errors import StateError

Millis = int

#: No time yet: below every timestamp.  A watermark starts here.
NO_TIME: Millis = -1


class Clock(Protocol):
    """Source of processing time; tests inject their own."""

    def now_ms(self) -> Millis: ...


class SystemClock:
    """Wall clock of this machine."""

    def now_ms(self) -> Millis:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: Millis = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> Millis:
        return self._now_ms

    def advance(self, by: timedelta) -> None:
        self._now_ms += millis(by)


def millis(interval: timedelta) -> Millis:
    """Length of an interval in whole milliseconds.  Raises :class:`models.errors.StateError` for what is no ``timedelta``."""
    if not isinstance(interval, timedelta):
        raise StateError(f"{interval!r} is no length of time: give a timedelta, for instance timedelta(minutes=5)")
    return interval // timedelta(milliseconds=1)


def length(interval: timedelta, name: str) -> Millis:
    """As :func:`millis`, of an interval that goes forward.  Raises :class:`models.errors.StateError` for one that goes back."""
    if millis(interval) < 0:
        raise StateError(f"{name} {interval}: time does not go back")
    return millis(interval)
