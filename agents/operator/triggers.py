"""When a window's result is emitted.

A trigger is asked at each record of a window and at the timers that it sets for it.  It keeps nothing itself: what it must remember of a
window it puts into ``window.state``, numbers by name, which are durable, and are added up when windows merge.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from agents.operator.timers import TimeDomain
from models.errors import StateError
from models.time import Millis, millis


class TriggerResult(enum.Enum):
    """What becomes of a window's contents now."""

    CONTINUE = "continue"
    #: emit, and keep them
    FIRE = "fire"
    #: forget them
    PURGE = "purge"
    FIRE_AND_PURGE = "fire-and-purge"

    @property
    def fires(self) -> bool:
        """Whether it emits the contents."""
        return self in (TriggerResult.FIRE, TriggerResult.FIRE_AND_PURGE)

    @property
    def purges(self) -> bool:
        """Whether it forgets them."""
        return self in (TriggerResult.PURGE, TriggerResult.FIRE_AND_PURGE)


CONTINUE, FIRE = TriggerResult.CONTINUE, TriggerResult.FIRE


class OpenWindow(Protocol):
    """A window of the current key, as a trigger sees it.  Valid during the call only."""

    start_ms: Millis
    end_ms: Millis
    #: records in it
    count: int
    state: dict[str, int]
    #: of the record or timer in hand
    timestamp_ms: Millis
    watermark_ms: Millis
    processing_time_ms: Millis
    #: in ``on_merge``: times for which timers were set in the windows that became this one, but for the windows' ends
    merged_timers: Mapping[TimeDomain, Sequence[Millis]]

    def register_timer(self, timestamp_ms: Millis, domain: TimeDomain = TimeDomain.EVENT) -> None:
        """Have the trigger's ``on_timer`` called for this window at a time (ms).  Setting it twice is setting it once."""

    def delete_timer(self, timestamp_ms: Millis, domain: TimeDomain = TimeDomain.EVENT) -> None:
        """Take that back; nothing happens without such a timer."""


class Trigger:
    """Base of triggers: derive, and override what you need."""

    def on_element(self, window: OpenWindow) -> TriggerResult:
        """A record was put into the window."""
        return CONTINUE

    def on_timer(self, timestamp_ms: Millis, domain: TimeDomain, window: OpenWindow) -> TriggerResult:
        """A timer is due that this trigger set for this window."""
        return CONTINUE

    def on_merge(self, window: OpenWindow) -> None:
        """The window has just been made of several; timers set for those are gone, and ``window.merged_timers`` names them."""


class OnTime(Trigger):
    """Fires when the watermark reaches the window's end, and again at each record that comes within the allowed lateness."""

    def on_element(self, window: OpenWindow) -> TriggerResult:
        if window.end_ms <= window.watermark_ms:
            return FIRE
        window.register_timer(window.end_ms)
        return CONTINUE

    def on_timer(self, timestamp_ms: Millis, domain: TimeDomain, window: OpenWindow) -> TriggerResult:
        return FIRE if domain is TimeDomain.EVENT and timestamp_ms == window.end_ms else CONTINUE

    def on_merge(self, window: OpenWindow) -> None:
        if window.end_ms > window.watermark_ms:
            window.register_timer(window.end_ms)


class EarlyEvery(OnTime):
    """Fires at every full ``interval`` of the chosen clock for which the window has new records, and on time."""

    def __init__(self, interval: timedelta, *, domain: TimeDomain = TimeDomain.EVENT) -> None:
        self._interval_ms = millis(interval)
        try:
            self._domain = TimeDomain(domain)
        except ValueError:
            raise StateError(f"domain={domain!r}: use {', '.join(repr(str(each)) for each in TimeDomain)}") from None
        if self._interval_ms < 1:
            raise StateError(f"EarlyEvery({interval}): the interval is a millisecond at least")

    def on_element(self, window: OpenWindow) -> TriggerResult:
        self._set(window)
        return super().on_element(window)

    def on_timer(self, timestamp_ms: Millis, domain: TimeDomain, window: OpenWindow) -> TriggerResult:
        if domain is self._domain and timestamp_ms % self._interval_ms == 0:
            # What came before the window's end was emitted there, and what came late at once: there is no news.
            over = domain is TimeDomain.PROCESSING and window.end_ms <= window.watermark_ms
            return CONTINUE if over else FIRE
        return super().on_timer(timestamp_ms, domain, window)

    def on_merge(self, window: OpenWindow) -> None:
        # The record that joined the windows sets its own; those of earlier records may come before it.
        for early in window.merged_timers[self._domain]:
            if early % self._interval_ms == 0:
                self._set_at(early, window)
        super().on_merge(window)

    def _set(self, window: OpenWindow) -> None:
        if self._domain is TimeDomain.EVENT:
            now = max(window.timestamp_ms, window.watermark_ms)
        else:
            now = window.processing_time_ms
        self._set_at(now - now % self._interval_ms + self._interval_ms, window)

    def _set_at(self, early: Millis, window: OpenWindow) -> None:
        if self._domain is TimeDomain.PROCESSING or early < window.end_ms:
            window.register_timer(early, self._domain)


class OnCount(Trigger):
    """Fires at every ``count`` records."""

    def __init__(self, count: int) -> None:
        if not isinstance(count, int) or count < 1:
            raise StateError(f"OnCount({count!r}): a whole number of records, one at least")
        self._count = count

    def on_element(self, window: OpenWindow) -> TriggerResult:
        return self._counted(window, 1)

    def _counted(self, window: OpenWindow, more: int) -> TriggerResult:
        seen = window.state.get("count", 0) + more
        if seen < self._count:
            window.state["count"] = seen
            return CONTINUE
        window.state.pop("count", None)
        return FIRE


class Purging(Trigger):
    """Another trigger, whose firing also empties the window."""

    def __init__(self, trigger: Trigger) -> None:
        if not isinstance(trigger, Trigger):
            raise StateError(f"Purging({trigger!r}): give an instance of a Trigger, for instance Purging(OnCount(5))")
        self._trigger = trigger

    def on_element(self, window: OpenWindow) -> TriggerResult:
        return self._purged(self._trigger.on_element(window))

    def on_timer(self, timestamp_ms: Millis, domain: TimeDomain, window: OpenWindow) -> TriggerResult:
        return self._purged(self._trigger.on_timer(timestamp_ms, domain, window))

    def on_merge(self, window: OpenWindow) -> None:
        self._trigger.on_merge(window)

    @staticmethod
    def _purged(result: TriggerResult) -> TriggerResult:
        return TriggerResult.FIRE_AND_PURGE if result is FIRE else result
