"""User insights: what each user did in five minutes of event time, with his tier."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from agents.operator import TumblingWindow, Window
from agents.operator.window_operator import WindowOperator
from models.events import EventType
from models.insights import UserInsight
from models.profiles import UNKNOWN, EnrichedUserEvent
from models.time import NO_TIME, Millis
from tables import AggregateFunction

WINDOW = timedelta(minutes=5)


class InsightCounts(msgspec.Struct, gc=False):
    """Counts of a window so far, and the tier that its latest event with a known one has."""

    event_count: int = 0
    purchases: int = 0
    page_views: int = 0
    tier: str = UNKNOWN
    tier_ms: Millis = NO_TIME


class InsightAggregate(AggregateFunction[EnrichedUserEvent, InsightCounts, InsightCounts]):
    """Counts enriched events.  The order of arrival does not matter."""

    def create_accumulator(self) -> InsightCounts:
        return InsightCounts()

    def add(self, value: EnrichedUserEvent, accumulator: InsightCounts) -> InsightCounts:
        event, tier = value.event, value.profile.tier
        accumulator.event_count += 1
        if event.event_type == EventType.PURCHASE:
            accumulator.purchases += 1
        elif event.event_type == EventType.PAGE_VIEW:
            accumulator.page_views += 1
        # Of equal times the greater name counts, so that the order of arrival does not.
        if tier != UNKNOWN and (event.timestamp, tier) > (accumulator.tier_ms, accumulator.tier):
            accumulator.tier, accumulator.tier_ms = tier, event.timestamp
        return accumulator

    def get_result(self, accumulator: InsightCounts) -> InsightCounts:
        return accumulator

    def merge(self, a: InsightCounts, b: InsightCounts) -> InsightCounts:
        latest = max(a, b, key=lambda one: (one.tier_ms, one.tier))
        return InsightCounts(
            a.event_count + b.event_count,
            a.purchases + b.purchases,
            a.page_views + b.page_views,
            latest.tier,
            latest.tier_ms,
        )


def insight(user_id: str, window: Window, counts: InsightCounts) -> UserInsight:
    return UserInsight(
        user_id=user_id,
        window_start=window.start_ms,
        window_end=window.end_ms,
        event_count=counts.event_count,
        purchases=counts.purchases,
        page_views=counts.page_views,
        tier=counts.tier,
    )


def user_insights() -> WindowOperator:
    """Insights per user and window, emitted when the window closes."""
    return TumblingWindow(WINDOW).aggregate(InsightAggregate(), into=insight)
