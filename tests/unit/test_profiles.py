"""Profiles: what is kept of a user, and which patterns raise an alert."""

from __future__ import annotations

from collections import Counter

from agents.functions.profiles import UserProfiles
from agents.testing import OperatorHarness
from models.events import EventType, UserEvent
from tests.support.events import START_MS, user_events

FAILED, CHANGE, PURCHASE, VIEW = (
    EventType.LOGIN_FAILED,
    EventType.PASSWORD_CHANGE,
    EventType.PURCHASE,
    EventType.PAGE_VIEW,
)


def harness() -> OperatorHarness:
    return OperatorHarness(UserProfiles(), key=lambda event: event.user_id, timestamp=lambda event: event.timestamp)


def alerts(*events: tuple[float, str]) -> list[tuple[str, int]]:
    """Patterns found, each with the number of the event that completed it, for events at these seconds."""
    made = harness()
    for number, (seconds, kind) in enumerate(events):
        made.process(
            UserEvent(event_id=str(number), user_id="u", event_type=kind, timestamp=START_MS + int(seconds * 1000))
        )
    return [(alert.rule_id.removeprefix("PATTERN_"), int(alert.transaction_id)) for alert in made.outputs]


def test_a_profile_counts_what_a_user_does_and_knows_the_newest_by_event_time() -> None:
    made = harness()
    for seconds, kind, page in ((10, VIEW, "/b"), (5, VIEW, "/a"), (20, PURCHASE, None), (15, FAILED, None)):
        made.process(
            UserEvent(
                event_id=f"e{seconds}", user_id="u", event_type=kind, page=page, timestamp=START_MS + seconds * 1000
            )
        )
    profile = made.state("profile", "u")
    assert (profile.event_count, profile.page_views, profile.purchases, profile.failed_logins) == (4, 2, 1, 1)
    assert (profile.first_seen_ms, profile.last_seen_ms) == (START_MS + 5_000, START_MS + 20_000)
    assert (profile.last_page, profile.last_event_type) == ("/b", PURCHASE)


def test_the_number_of_events_per_user_and_the_last_ten_are_exact() -> None:
    events = user_events(1, 400)
    made = harness()
    for event in events:
        made.process(event)
    for user, count in Counter(event.user_id for event in events).items():
        assert made.state("user-counts", user) == count
        assert made.state("recent", user) == [event for event in events if event.user_id == user][-10:]


def test_three_failed_log_ins_and_a_password_change_are_a_takeover() -> None:
    assert alerts((0, FAILED), (60, FAILED), (120, FAILED), (130, CHANGE)) == [("TAKEOVER", 3)]


def test_two_failed_log_ins_or_old_ones_are_none() -> None:
    assert alerts((0, FAILED), (60, FAILED), (130, CHANGE)) == []
    assert alerts((0, FAILED), (60, FAILED), (120, FAILED), (600, CHANGE)) == []


def test_failed_log_ins_count_only_among_the_last_ten_events() -> None:
    assert alerts(*((n * 20, FAILED) for n in range(3)), *((60 + n, VIEW) for n in range(8)), (70, CHANGE)) == []


def test_five_failed_log_ins_within_a_minute_are_guessing_and_the_sixth_is_no_news() -> None:
    assert alerts(*((n, FAILED) for n in range(7))) == [("GUESSING", 4)]
    assert alerts(*((n * 15, FAILED) for n in range(7))) == []


def test_what_arrived_earlier_and_happened_later_makes_no_pattern_and_hides_none() -> None:
    assert alerts((60, FAILED), (61, FAILED), (62, FAILED), (0, CHANGE)) == []
    assert alerts(*((n * 10, FAILED) for n in range(4)), (80, FAILED), (40, FAILED)) == [("GUESSING", 5)]


def test_a_purchase_soon_after_a_password_change_is_a_spree() -> None:
    assert alerts((0, CHANGE), (599, PURCHASE)) == [("SPREE", 1)]
    assert alerts((0, CHANGE), (600, PURCHASE)) == []
    assert alerts((0, PURCHASE), (1, CHANGE)) == []


def test_an_alert_names_the_events_that_make_the_pattern_and_has_the_same_id_each_time() -> None:
    def run() -> list[object]:
        made = harness()
        for number, kind in enumerate((FAILED, FAILED, FAILED, CHANGE)):
            made.process(
                UserEvent(event_id=f"e{number}", user_id="u", event_type=kind, timestamp=START_MS + number * 20_000)
            )
        return made.outputs

    [alert] = run()
    assert [alert] == run()
    assert alert.message.startswith("Suspicious pattern detected")  # type: ignore[attr-defined]
    assert [one["event_id"] for one in alert.explanation["events"]] == ["e0", "e1", "e2", "e3"]  # type: ignore[attr-defined]
