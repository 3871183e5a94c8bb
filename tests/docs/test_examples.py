"""The examples of docs/ do what the source document's classes were meant to do, with their mistakes mended."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agents.testing import OperatorHarness

DOCS = Path(__file__).parents[2] / "docs"
MINUTE = 60_000


def example(name: str) -> ModuleType:
    found = sys.modules.get(f"docs_examples_{name}")
    if found is not None:
        return found
    spec = importlib.util.spec_from_file_location(f"docs_examples_{name}", DOCS / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def harness(function: Any, **options: Any) -> OperatorHarness:
    return OperatorHarness(
        function, key=lambda e: getattr(e, "user_id", None) or e.order_id, timestamp=lambda e: e.timestamp, **options
    )


keyed = example("keyed_state")
timers = example("timers_and_joins")
windows = example("windows")
enrichment = example("enrichment")


def user(timestamp: int, event_type: str = "PAGE_VIEW", session: str = "s1", user_id: str = "u") -> Any:
    return keyed.UserEvent(user_id, event_type, timestamp, session)


def test_user_profile_processor_keeps_a_profile_per_user() -> None:
    h = harness(keyed.UserProfileProcessor())
    h.process(user(10))
    h.process(user(5, "PURCHASE"))
    h.process(user(7, user_id="v"))
    assert h.state("profile", "u") == keyed.UserProfile("u", 2, 1, 10)
    assert [out.user_id for out in h.outputs] == ["u", "u", "v"]


def test_recent_events_tracker_looks_at_the_last_ten_events_only() -> None:
    h = harness(keyed.RecentEventsTracker())
    for n in range(3):
        h.process(user(n, "LOGIN_FAILED"))
    assert h.outputs == ["Suspicious pattern detected: u"]
    for n in range(10):
        h.process(user(n))
    assert len(h.state("recent", "u")) == 10
    before = len(h.outputs)
    h.process(user(99, "LOGIN_FAILED"))
    assert len(h.outputs) == before


def test_session_manager_does_not_end_a_live_session_by_an_old_timer() -> None:
    h = harness(keyed.SessionManager(), out_of_orderness=timedelta(0))
    for minute in (0, 20, 40):
        h.process(user(minute * MINUTE))
    assert h.outputs == []
    assert len(h.timers("u")) == 1
    h.watermark(70 * MINUTE - 1)
    assert h.outputs == []
    h.watermark(70 * MINUTE)
    assert h.outputs == [keyed.SessionSummary("u", {"s1": 3}, 40 * MINUTE)]
    assert h.state("sessions", "u") is None
    assert h.timers("u") == []


def test_user_session_processor_starts_anew_when_the_session_has_expired() -> None:
    h = harness(keyed.UserSessionProcessor())
    h.process(user(1000))
    h.advance_processing_time(timedelta(minutes=29))
    h.process(user(2000))
    h.advance_processing_time(timedelta(minutes=30))
    h.process(user(3000))
    assert [(out.type, out.session_start) for out in h.outputs] == [
        ("SESSION_START", 1000),
        ("EVENT_PROCESSED", 1000),
        ("EVENT_PROCESSED", 1000),
        ("SESSION_START", 3000),
        ("EVENT_PROCESSED", 3000),
    ]


def test_fraud_detection_function_judges_by_the_rules_as_they_are() -> None:
    h = harness(keyed.FraudDetectionFunction())
    h.process(keyed.Payment("u", 20_000.0, 1))
    h.broadcast("HIGH", keyed.Limit("over 10,000", 10_000.0))
    h.process(keyed.Payment("u", 20_000.0, 2))
    h.broadcast("HIGH", keyed.Limit("over 10,000", 10_000.0, active=False))
    h.process(keyed.Payment("u", 20_000.0, 3))
    assert h.outputs == ["u: over 10,000"]


def test_the_queryable_count_is_found_by_its_name() -> None:
    h = harness(keyed.CountedUsers())
    for n in range(3):
        h.process(user(n))
    assert h.state("user-counts", "u") == 3


def test_custom_session_window_ends_with_its_last_event_and_a_late_one_does_not_shorten_it() -> None:
    h = harness(timers.CustomSessionWindow())
    for minute in (0, 10, 5):
        h.process(timers.Event("u", minute * MINUTE))
    assert [at for _, at in h.timers("u")] == [40 * MINUTE]
    h.watermark(40 * MINUTE)
    assert h.outputs == [timers.Session("u", 0, 10 * MINUTE, 3)]


def order(order_id: str = "o1") -> Any:
    return timers.Order(order_id, 9.5, 1)


def payment(payment_id: str = "p1", order_id: str = "o1") -> Any:
    return timers.Payment(payment_id, order_id, 2)


def test_order_payment_join_matches_in_both_orders_and_takes_its_timer_back() -> None:
    h = harness(timers.OrderPaymentJoin())
    h.process1(order("o1"))
    h.process2(payment("p1", "o1"))
    h.process2(payment("p2", "o2"))
    h.process1(order("o2"))
    assert [(out.order.order_id, out.payment.payment_id, out.status) for out in h.outputs] == [
        ("o1", "p1", "MATCHED"),
        ("o2", "p2", "MATCHED"),
    ]
    assert h.timers("o1") == h.timers("o2") == []
    h.advance_processing_time(timedelta(hours=1))
    assert len(h.outputs) == 2


def test_order_payment_join_reports_both_kinds_of_timeout_after_five_minutes_and_not_before() -> None:
    h = harness(timers.OrderPaymentJoin())
    h.process1(order("o1"))
    h.process2(payment("p2", "o2"))
    h.process2(payment("p3", "o2"))
    h.advance_processing_time(timedelta(minutes=5) - timedelta(milliseconds=1))
    assert h.outputs == []
    h.advance_processing_time(timedelta(milliseconds=1))
    assert sorted(out.status for out in h.outputs) == ["ORDER_NOT_FOUND", "ORDER_NOT_FOUND", "PAYMENT_TIMEOUT"]


def test_an_old_timer_does_not_expire_the_next_order_early() -> None:
    h = harness(timers.OrderPaymentJoin())
    h.process1(order())
    h.advance_processing_time(timedelta(minutes=4))
    h.process2(payment())
    h.process1(order())
    h.advance_processing_time(timedelta(minutes=4))
    assert [out.status for out in h.outputs] == ["MATCHED"]
    h.advance_processing_time(timedelta(minutes=1))
    assert [out.status for out in h.outputs] == ["MATCHED", "PAYMENT_TIMEOUT"]


class Profiles:
    """A database that takes its time."""

    def __init__(self, seconds: float = 0.0, failures: int = 0) -> None:
        self.seconds = seconds
        self.failures = failures

    async def profile(self, user_id: str) -> Any:
        await asyncio.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database restarts")
        return enrichment.Profile(user_id, "Ada", "gold") if user_id == "u" else None

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("database", "user_id", "found"),
    [
        (Profiles(), "u", "database"),
        (Profiles(), "nobody", "default"),
        (Profiles(seconds=4.9), "u", "database"),
        (Profiles(seconds=5.1), "u", "default"),
        (Profiles(failures=2), "u", "database"),
    ],
)
def test_async_database_enrichment_answers_within_its_time(database: Profiles, user_id: str, found: str) -> None:
    h = harness(enrichment.AsyncDatabaseEnrichment(database))
    h.process(enrichment.Event(user_id, 1))
    h.end_input()
    assert [out.enrichment for out in h.outputs] == [found]


class Cache:
    def __init__(self, answer: bytes | None, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds

    async def get(self, key: str) -> bytes | None:
        await asyncio.sleep(self.seconds)
        return self.answer


@pytest.mark.parametrize(
    ("cache", "found"),
    [
        (Cache(b'{"user_id":"u","name":"Ada","tier":"gold"}'), "cache"),
        (Cache(None), "default"),
        (Cache(b"rubbish"), "default"),
        (Cache(b'{"user_id":"u"}', seconds=3), "default"),
    ],
)
def test_async_redis_enrichment_survives_a_cache_that_is_empty_slow_or_wrong(cache: Cache, found: str) -> None:
    h = harness(enrichment.AsyncRedisEnrichment(cache))
    h.process(enrichment.Event("u", 1))
    h.end_input()
    assert [out.enrichment for out in h.outputs] == [found]


def test_five_minute_windows_give_early_results_and_a_last_one() -> None:
    h = harness(windows.five_minutes())
    h.process(windows.Event("u", "PURCHASE", 10))
    h.watermark(MINUTE)
    h.process(windows.Event("u", "PAGE_VIEW", 4 * MINUTE + 10))
    h.watermark(5 * MINUTE)
    assert [(out.window_end, out.event_count, out.purchases) for out in h.outputs] == [
        (5 * MINUTE, 1, 1),
        (5 * MINUTE, 2, 1),
    ]


def test_windows_of_ones_own_may_be_calendar_months() -> None:
    leap_day = int(datetime(2024, 2, 29, 12, tzinfo=UTC).timestamp() * 1000)
    window_operator = windows.CalendarMonth(trigger=windows.FirstThenOnTime()).process(
        lambda key, window, events: (window.end_ms, len(events)), of=windows.Event
    )
    h = harness(window_operator)
    h.process(windows.Event("u", "PAGE_VIEW", leap_day))
    h.process(windows.Event("u", "PAGE_VIEW", leap_day + 1))
    h.end_input()
    march = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)
    assert h.outputs == [(march, 1), (march, 2)]


def blocks() -> list[str]:
    text = (DOCS / "operators.md").read_text(encoding="utf-8")
    return [block.partition("```")[0] for block in text.split("```python\n")[1:]]


def test_every_class_shown_on_the_page_stands_in_an_example_as_it_is_shown() -> None:
    files = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "examples").glob("*.py")))
    shown = [block for block in blocks() if block.startswith("class ")]
    assert len(shown) >= 5
    for block in shown:
        assert block.strip() in files, block


def test_everything_else_on_the_page_runs() -> None:
    names: dict[str, Any] = {}
    for module in (timers, enrichment, windows, keyed):
        names.update(vars(module))
    for number, block in enumerate(blocks()):
        if not block.startswith("class "):
            exec(compile(block, f"docs/operators.md, block {number}", "exec", dont_inherit=True), names)
