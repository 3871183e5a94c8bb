"""Sessions: rules by example, and everything against a plain model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.functions.sessions import MAX_NAMES, OTHER, SessionAnalytics
from agents.testing import Crash, OperatorHarness, Watermark
from models.events import EventType, UserEvent
from models.sessions import SessionEvent, SessionEventType, SessionSummary
from tests.support import models
from tests.support.events import MINUTE_MS, START_MS, user_events

GAP_MS = models.GAP_MS
STATES = ("metrics", "recent", "pages", "ids", "start", "earlier")


def harness(**options: Any) -> OperatorHarness:
    return OperatorHarness(
        SessionAnalytics(), key=lambda event: event.user_id, timestamp=lambda event: event.timestamp, **options
    )


def event(minutes: float, kind: str = EventType.PAGE_VIEW, user: str = "u", **fields: Any) -> UserEvent:
    made: dict[str, Any] = {"page": "/home", "session_id": "s1", **fields}
    return UserEvent(
        event_id=f"{user}{minutes}",
        user_id=user,
        event_type=kind,
        timestamp=START_MS + int(minutes * MINUTE_MS),
        **made,
    )


def at(minutes: float) -> int:
    return START_MS + int(minutes * MINUTE_MS)


def summaries(made: OperatorHarness) -> list[SessionSummary]:
    return made.side_outputs("session-summaries")


def steps(made: OperatorHarness) -> list[tuple[str, int]]:
    return [
        (one.type.value, (one.session_start - START_MS) // MINUTE_MS) for one in made.side_outputs("session-events")
    ]


def test_the_summary_has_the_times_of_the_first_and_last_event_and_counts_by_page_and_session_id() -> None:
    made = harness()
    for one in (
        event(0),
        event(1, page="/cart", session_id="s2"),
        event(2, EventType.PURCHASE, page=None),
        event(3, EventType.CLICK, page="/cart"),
        event(4, session_id=None),
        event(5, page=None),
    ):
        made.process(one)
    made.watermark(at(35))
    assert summaries(made) == [SessionSummary("u", at(0), at(5), 6, {"/home": 2, "/cart": 1}, {"s1": 4, "s2": 1})]


def test_each_event_tells_how_the_session_stands() -> None:
    made = harness()
    for minute in range(12):
        made.process(event(minute, EventType.PURCHASE if minute == 1 else EventType.PAGE_VIEW))
    first, second, *_, eleventh, twelfth = made.outputs
    assert (first.event_count, first.session_duration_ms, first.is_engaged, first.is_converting) == (1, 0, False, False)
    assert second.recent_event_types == ["PAGE_VIEW", "PURCHASE"]
    assert second.is_converting
    assert made.outputs[9].is_engaged is False
    assert eleventh.is_engaged
    assert eleventh.is_converting
    # The purchase is not among the last ten any more.
    assert not twelfth.is_converting
    assert len(twelfth.recent_event_types) == 10
    assert twelfth.session_duration_ms == 11 * MINUTE_MS


def test_a_session_starts_goes_on_and_ends_once() -> None:
    made = harness()
    made.process(event(0))
    made.process(event(29))
    made.watermark(at(58))
    assert summaries(made) == []
    made.watermark(at(59))
    made.watermark(at(600))
    assert steps(made) == [("SESSION_START", 0), ("EVENT_PROCESSED", 0), ("EVENT_PROCESSED", 0), ("SESSION_END", 0)]
    assert made.side_outputs("session-events")[-1] == SessionEvent(SessionEventType.SESSION_END, "u", at(0), at(29))


def test_a_pause_of_exactly_the_gap_ends_a_session_and_a_millisecond_less_does_not() -> None:
    for pause, sessions in ((GAP_MS - 1, 1), (GAP_MS, 2)):
        made = harness()
        made.process(event(0))
        made.process(event(pause / MINUTE_MS))
        made.end_input()
        assert len(summaries(made)) == sessions


def test_a_live_session_is_not_wiped_by_the_timer_of_its_first_event() -> None:
    made = harness()
    for minute in range(0, 200, 20):
        made.process(event(minute))
        made.watermark(at(minute))
    assert summaries(made) == []
    assert made.state("metrics", "u").event_count == 10
    assert len(made.timers("u")) == 1


def test_all_state_of_a_session_is_gone_after_it() -> None:
    made = harness()
    for one in user_events(3, 500):
        made.process(one)
    made.end_input()
    for name in STATES:
        assert list(made.keys(name)) == []
    assert [made.timers(f"user{n}") for n in range(5)] == [[]] * 5
    live: dict[bytes, bytes | None] = dict(made.snapshot().rows)
    assert [row for row, value in live.items() if value is not None and b"marker" not in row] == []


def test_an_event_out_of_order_moves_neither_end_nor_timer_backwards() -> None:
    made = harness()
    made.process(event(10))
    made.process(event(5))
    made.watermark(at(39))
    assert summaries(made) == []
    made.watermark(at(40))
    (summary,) = summaries(made)
    assert (summary.start, summary.end) == (at(5), at(10))
    assert made.side_outputs("session-events")[-1].session_start == at(5)


def test_the_start_follows_an_event_from_before_it() -> None:
    made = harness()
    made.process(event(10))
    made.process(event(5))
    assert made.state("start", "u") == at(5)


def test_a_late_event_extends_a_session_that_is_still_open() -> None:
    made = harness()
    made.process(event(0))
    made.watermark(at(25))
    made.process(event(20))
    made.watermark(at(49))
    assert summaries(made) == []
    made.watermark(at(50))
    assert summaries(made)[0].end == at(20)


def test_a_late_event_between_two_sessions_makes_them_one_and_every_start_has_its_end() -> None:
    made = harness()
    made.process(event(0, page="/a", session_id="s1"))
    made.process(event(45, page="/b", session_id="s2"))
    assert made.state("start", "u") == at(45)
    made.process(event(20, page="/a", session_id="s1"))
    assert made.outputs[-1].event_count == 3
    made.end_input()
    assert summaries(made) == [SessionSummary("u", at(0), at(45), 3, {"/a": 2, "/b": 1}, {"s1": 2, "s2": 1})]
    kinds = [kind for kind, _ in steps(made)]
    assert kinds.count("SESSION_START") == kinds.count("SESSION_END") == 2


def test_an_earlier_session_that_is_still_open_closes_at_its_own_time() -> None:
    made = harness()
    made.process(event(45))
    made.process(event(0))
    assert made.state("start", "u") == at(45)
    made.watermark(at(30))
    assert [one.end for one in summaries(made)] == [at(0)]
    made.watermark(at(75))
    assert [one.end for one in summaries(made)] == [at(0), at(45)]


def test_an_event_whose_session_would_be_closed_already_is_late() -> None:
    made = harness()
    made.watermark(at(100))
    made.process(event(70))
    made.process(event(70.001))
    assert len(made.outputs) == 1
    assert made.side_outputs("late") == [event(70)]


def test_a_hostile_session_counts_a_bounded_number_of_names() -> None:
    made = harness()
    for number in range(MAX_NAMES + 50):
        made.process(event(number / 1000, page=f"/{number}", session_id=f"s{number}"))
    made.end_input()
    (summary,) = summaries(made)
    assert len(summary.page_views) == len(summary.sessions) == MAX_NAMES + 1
    assert summary.page_views[OTHER] == summary.sessions[OTHER] == 50


def test_metrics_expire_after_two_hours_but_the_summary_does_not_depend_on_them() -> None:
    made = harness()
    made.process(event(0))
    made.advance_processing_time(timedelta(hours=2))
    assert made.state("metrics", "u") is None
    assert list(made.keys("metrics")) == []
    made.process(event(600, user="another"))
    made.watermark(at(600))
    assert [one.user_id for one in summaries(made)] == ["u"]


def test_an_idle_partition_closes_its_sessions_though_nothing_more_arrives() -> None:
    made = harness(out_of_orderness=timedelta(seconds=10), idle_after=timedelta(minutes=1))
    made.process(event(0))
    made.advance_processing_time(timedelta(minutes=30, seconds=59))
    assert summaries(made) == []
    made.advance_processing_time(timedelta(seconds=1))
    assert len(summaries(made)) == 1


# -- against a model


def clusters(events: list[UserEvent]) -> list[SessionSummary]:
    """All sessions of these events, whatever their order."""
    return msgspec.convert(models.sessions(msgspec.to_builtins(events)), list[SessionSummary])


def by_time(found: list[SessionSummary]) -> list[SessionSummary]:
    return sorted(found, key=lambda one: (one.user_id, one.start))


@pytest.mark.parametrize("seed", range(20))
def test_sessions_are_those_of_a_plain_model_under_disorder_duplicates_and_gaps(seed: int) -> None:
    events = user_events(seed, 600, disorder_ms=[10_000, 20 * MINUTE_MS, 90 * MINUTE_MS][seed % 3])
    disorder = timedelta(milliseconds=[10_000, 20 * MINUTE_MS, 90 * MINUTE_MS][seed % 3])
    made = harness(out_of_orderness=disorder)
    for one in events:
        made.process(one)
    made.end_input()
    assert made.side_outputs("late") == []
    assert by_time(summaries(made)) == by_time(clusters(events))
    kinds = [one.type.value for one in made.side_outputs("session-events")]
    assert kinds.count("SESSION_START") == kinds.count("SESSION_END")
    assert kinds.count("EVENT_PROCESSED") == len(events) == len(made.outputs)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_comes_out_whenever_the_worker_dies(seed: int) -> None:
    events = user_events(seed, 300, disorder_ms=40 * MINUTE_MS)
    disorder = timedelta(minutes=40)
    whole = harness(out_of_orderness=disorder)
    whole.run([*events, Watermark(1 << 60)])
    script: list[Any] = []
    for number, one in enumerate(events):
        script += [one, Crash()] if number % 7 == seed else [one]
    broken = harness(out_of_orderness=disorder)
    broken.run([*script, Watermark(1 << 60)], commit_every=11)
    assert broken.outputs == whole.outputs
    assert sorted(map(repr, summaries(broken))) == sorted(map(repr, summaries(whole)))
