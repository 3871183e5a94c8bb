"""Insights: five minutes of each user."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.functions.insights import user_insights
from agents.testing import Crash, OperatorHarness, Watermark
from models.events import UserEvent
from models.insights import UserInsight
from models.profiles import EnrichedUserEvent, Enrichment, UserProfile
from tests.support import models
from tests.support.events import START_MS, user_events

FIVE_MS = 300_000
#: the first full five minutes after START_MS
WINDOW_MS = START_MS - START_MS % FIVE_MS + FIVE_MS


def harness(**options: Any) -> OperatorHarness:
    return OperatorHarness(
        user_insights(), key=lambda event: event.user_id, timestamp=lambda event: event.timestamp, **options
    )


def enriched(after_ms: int, kind: str = "PAGE_VIEW", tier: str = "gold", user: str = "u") -> EnrichedUserEvent:
    event = UserEvent(event_id=f"e{after_ms}", user_id=user, event_type=kind, timestamp=WINDOW_MS + after_ms)
    return EnrichedUserEvent(event, UserProfile(user, "n", tier), Enrichment.CACHE)


def test_a_window_counts_events_purchases_and_page_views_from_its_start_to_before_its_end() -> None:
    made = harness()
    for one in (enriched(0), enriched(1, "PURCHASE"), enriched(2, "CLICK"), enriched(FIVE_MS - 1), enriched(FIVE_MS)):
        made.process(one)
    made.watermark(WINDOW_MS + FIVE_MS)
    assert made.outputs == [UserInsight("u", WINDOW_MS, WINDOW_MS + FIVE_MS, 4, 1, 2, "gold")]


def test_the_tier_is_the_latest_that_was_known() -> None:
    made = harness()
    for one in (enriched(2, tier="silver"), enriched(1, tier="bronze"), enriched(3, tier="unknown")):
        made.process(one)
    made.end_input()
    assert [one.tier for one in made.outputs] == ["silver"]


def test_a_user_without_a_profile_has_an_unknown_tier() -> None:
    made = harness()
    made.process(enriched(0, tier="unknown"))
    made.end_input()
    assert [one.tier for one in made.outputs] == ["unknown"]


def model(events: list[EnrichedUserEvent]) -> list[UserInsight]:
    return msgspec.convert(models.insights(msgspec.to_builtins(events)), list[UserInsight])


@pytest.mark.parametrize("seed", range(5))
def test_windows_are_those_of_a_plain_model_in_any_order_and_whenever_the_worker_dies(seed: int) -> None:
    events = [
        EnrichedUserEvent(event, UserProfile(event.user_id, "n", f"tier of {event.user_id}"), Enrichment.DATABASE)
        for event in user_events(seed, 300)
    ]
    made = harness(out_of_orderness=timedelta(seconds=10))
    chance = random.Random(seed)
    steps: list[Any] = []
    for event in events:
        steps += [event, Crash()] if chance.random() < 0.05 else [event]
    made.run([*steps, Watermark(1 << 60)], commit_every=9)
    assert sorted(map(repr, made.outputs)) == sorted(map(repr, model(events)))
