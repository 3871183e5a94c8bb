"""A circuit breaker: leaves a source alone that fails again and again, and finds out by itself when it is back."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from datetime import timedelta


class BreakerState(enum.Enum):
    """``CLOSED``: asked as usual.  ``OPEN``: left alone.  ``HALF_OPEN``: one trial is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Opens after ``failures`` failures in a row, for ``pause``; then lets one trial through.

    A trial that succeeds closes it.  One that fails opens it again for twice the pause, up to ``max_pause``.  A trial whose outcome is never
    told counts as failed once the pause has gone by again.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        pause: timedelta = timedelta(milliseconds=500),
        max_pause: timedelta = timedelta(seconds=5),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed_failures = failures
        self._first_pause = pause.total_seconds()
        self._max_pause = max_pause.total_seconds()
        self._clock = clock
        self._failures = 0
        self._pause = self._first_pause
        self._until = 0.0
        self.state = BreakerState.CLOSED
        #: how often it opened
        self.opened = 0

    def allows(self) -> bool:
        """Whether to ask now.  Whoever gets ``True`` tells the outcome."""
        if self.state is BreakerState.CLOSED:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self.state = BreakerState.HALF_OPEN
        self._until = now + self._pause
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = self._first_pause
        self.state = BreakerState.CLOSED

    def failed(self, times: int = 1) -> None:
        """``times``: as how many failures it counts."""
        if self.state is BreakerState.OPEN:
            return  # asked before it opened
        self._failures += times
        if self.state is BreakerState.HALF_OPEN:
            self._pause = min(self._pause * 2, self._max_pause)
        elif self._failures < self._allowed_failures:
            return
        self.state = BreakerState.OPEN
        self.opened += 1
        self._until = self._clock() + self._pause
