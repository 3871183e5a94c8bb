"""Enrichment of events, with a lookup that the test holds in its hand."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from agents.enrichment.breaker import BreakerState, CircuitBreaker
from agents.functions.enrichment import ProfileEnrichment
from agents.testing import OperatorHarness
from models.events import UserEvent
from models.profiles import EnrichedUserEvent, Enrichment, UserProfile
from tests.support.events import START_MS


class Slow:
    """A lookup that takes as many seconds as the user's name says."""

    def __init__(self) -> None:
        self.stopped = False
        self.most = self.now = 0

    async def find(self, user_id: str) -> tuple[UserProfile, Enrichment]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(float(user_id))
        finally:
            self.now -= 1
        return UserProfile(user_id, "n", "gold"), Enrichment.CACHE

    async def stop(self) -> None:
        self.stopped = True


def harness(**options: Any) -> tuple[OperatorHarness, Slow]:
    lookup = Slow()
    made = OperatorHarness(
        ProfileEnrichment(lambda metrics: lookup, **options),
        key=lambda event: event.user_id,
        timestamp=lambda event: event.timestamp,
    )
    return made, lookup


def event(user: str) -> UserEvent:
    return UserEvent(event_id=f"e{user}", user_id=user, event_type="CLICK", timestamp=START_MS)


def users(made: OperatorHarness) -> list[str]:
    return [one.user_id for one in made.outputs]


def test_an_event_leaves_with_the_profile_of_its_user_and_where_it_came_from() -> None:
    made, _ = harness()
    made.process(event("0"))
    made.end_input()
    assert made.outputs == [EnrichedUserEvent(event("0"), UserProfile("0", "n", "gold"), Enrichment.CACHE)]


def test_ordered_events_leave_in_the_order_in_which_they_came() -> None:
    made, _ = harness()
    made.process_batch([event("3"), event("1"), event("2")])
    made.end_input()
    assert users(made) == ["3", "1", "2"]


def test_unordered_events_leave_as_their_profiles_come() -> None:
    made, _ = harness(ordered=False)
    made.process_batch([event("3"), event("1"), event("2")])
    made.end_input()
    assert users(made) == ["1", "2", "3"]


def test_an_event_whose_profile_does_not_come_in_time_leaves_with_the_default_one() -> None:
    made, _ = harness(timeout=timedelta(seconds=5))
    made.process(event("9"))
    made.advance_processing_time(timedelta(seconds=6))
    made.end_input()
    assert made.outputs == [EnrichedUserEvent(event("9"), UserProfile.default("9"), Enrichment.DEFAULT)]


def test_no_more_lookups_are_in_flight_than_the_capacity() -> None:
    made, lookup = harness(capacity=4)
    made.process_batch([event("1") for _ in range(20)])
    made.end_input()
    assert len(made.outputs) == 20
    assert lookup.most == 4


# -- the circuit breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, pause=timedelta(seconds=1), max_pause=timedelta(seconds=3), clock=clock)


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    made = breaker(Clock())
    for failing in (True, True, False, True, True, True):
        assert made.allows()
        made.failed() if failing else made.succeeded()
    assert made.state is BreakerState.OPEN
    assert not made.allows()


def test_after_the_pause_it_lets_one_trial_through_that_closes_it() -> None:
    clock = Clock()
    made = breaker(clock)
    for _ in range(3):
        made.failed()
    clock.now += 1
    assert made.allows()
    assert not made.allows()
    made.succeeded()
    assert made.allows()
    assert made.state is BreakerState.CLOSED


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    clock = Clock()
    made = breaker(clock)
    for _ in range(3):
        made.failed()
    for pause in (1, 2, 3, 3):
        clock.now += pause - 0.01
        assert not made.allows()
        clock.now += 0.02
        assert made.allows()
        made.failed()


def test_a_trial_whose_outcome_is_never_told_blocks_nobody_for_ever() -> None:
    clock = Clock()
    made = breaker(clock)
    for _ in range(3):
        made.failed()
    clock.now += 1
    assert made.allows()
    clock.now += 1
    assert made.allows()


def test_what_was_asked_before_it_opened_does_not_prolong_the_pause() -> None:
    clock = Clock()
    made = breaker(clock)
    for _ in range(3):
        made.failed()
    clock.now += 0.9
    made.failed()
    clock.now += 0.1
    assert made.allows()
