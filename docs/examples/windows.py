"""Windows: an aggregate every five minutes, sessions, and windows and triggers of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from agents.operator import (
    EarlyEvery,
    OpenWindow,
    SessionWindow,
    Trigger,
    TriggerResult,
    TumblingWindow,
    Window,
    WindowAssigner,
)
from models.time import Millis
from tables import AggregateFunction


class Event(msgspec.Struct, gc=False):
    user_id: str
    event_type: str
    timestamp: Millis


# UserInsightAggregator


class Counts(msgspec.Struct, gc=False):
    events: int = 0
    purchases: int = 0


class UserInsightAggregator(AggregateFunction[Event, Counts, Counts]):
    def create_accumulator(self) -> Counts:
        return Counts()

    def add(self, value: Event, accumulator: Counts) -> Counts:
        return Counts(accumulator.events + 1, accumulator.purchases + (value.event_type == "PURCHASE"))

    def get_result(self, accumulator: Counts) -> Counts:
        return accumulator

    def merge(self, a: Counts, b: Counts) -> Counts:
        return Counts(a.events + b.events, a.purchases + b.purchases)


class Insight(msgspec.Struct):
    user_id: str
    window_start: Millis
    window_end: Millis
    event_count: int
    purchases: int


def insight(key: str, window: Window, counts: Counts) -> Insight:
    return Insight(key, window.start_ms, window.end_ms, counts.events, counts.purchases)


def five_minutes() -> Any:
    return TumblingWindow(
        timedelta(minutes=5), allowed_lateness=timedelta(minutes=1), trigger=EarlyEvery(timedelta(minutes=1))
    ).aggregate(UserInsightAggregator(), into=insight)


def sessions() -> Any:
    return SessionWindow(timedelta(minutes=30)).aggregate(UserInsightAggregator(), into=insight)


# Windows and triggers of one's own


class CalendarMonth(WindowAssigner):
    def assign(self, event: Event, timestamp_ms: Millis) -> Iterable[Window]:
        at = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
        first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = (first + timedelta(days=32)).replace(day=1)
        return [Window(int(first.timestamp() * 1000), int(following.timestamp() * 1000))]


class FirstThenOnTime(Trigger):
    """The first record at once, and the rest when the window closes."""

    def on_element(self, window: OpenWindow) -> TriggerResult:
        window.register_timer(window.end_ms)
        return TriggerResult.FIRE if window.count == 1 else TriggerResult.CONTINUE

    def on_timer(self, timestamp_ms: Millis, domain: Any, window: OpenWindow) -> TriggerResult:
        return TriggerResult.FIRE
