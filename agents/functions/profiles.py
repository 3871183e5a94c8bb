"""User profiles: what is known of a user from his events, and an alert when the last ten of them look suspicious."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec

from agents.operator import Context, KeyedProcessFunction
from models.alerts import Alert, alert_id
from models.events import EventType, UserEvent
from models.rules import RiskLevel
from models.time import Millis, millis
from tables import RingState, ValueState

RECENT_EVENTS = 10

_TEN_MINUTES = millis(timedelta(minutes=10))
_MINUTE = millis(timedelta(minutes=1))


class UserActivity(msgspec.Struct, gc=False):
    """What a user has done so far.  ``last_page`` and ``last_event_type`` are those of the newest event by event time."""

    user_id: str
    first_seen_ms: Millis
    last_seen_ms: Millis
    event_count: int = 0
    page_views: int = 0
    purchases: int = 0
    logins: int = 0
    failed_logins: int = 0
    last_event_type: str = ""
    last_page: str | None = None

    def update_from(self, event: UserEvent) -> None:
        self.event_count += 1
        kind = event.event_type
        if kind == EventType.PAGE_VIEW:
            self.page_views += 1
        elif kind == EventType.PURCHASE:
            self.purchases += 1
        elif kind == EventType.LOGIN:
            self.logins += 1
        elif kind == EventType.LOGIN_FAILED:
            self.failed_logins += 1
        if event.timestamp >= self.last_seen_ms:
            self.last_seen_ms = event.timestamp
            self.last_event_type = kind
            self.last_page = event.page or self.last_page
        elif event.timestamp < self.first_seen_ms:
            self.first_seen_ms = event.timestamp


class Pattern(msgspec.Struct, frozen=True):
    """A suspicious pattern that an event of type ``trigger`` may complete.

    ``completes`` gets that event and those among the user's last ten, by arrival and this one included, that are of type ``made_of``.  It
    gives the events that make the pattern, or nothing.
    """

    rule_id: str
    description: str
    risk_level: RiskLevel
    trigger: str
    made_of: str
    completes: Callable[[UserEvent, Sequence[UserEvent]], Sequence[UserEvent]]


def _within(events: Sequence[UserEvent], now_ms: Millis, within_ms: Millis) -> list[UserEvent]:
    """Those in the interval before ``now_ms``, that time included: what arrived earlier may have happened later."""
    return [event for event in events if 0 <= now_ms - event.timestamp < within_ms]


def _takeover(change: UserEvent, failures: Sequence[UserEvent]) -> Sequence[UserEvent]:
    failed = _within(failures, change.timestamp, _TEN_MINUTES)
    return [*failed, change] if len(failed) >= 3 else ()


def _guessing(failure: UserEvent, failures: Sequence[UserEvent]) -> Sequence[UserEvent]:
    # Exactly five: the sixth failure is no news.
    failed = _within(failures, failure.timestamp, _MINUTE)
    return failed if len(failed) == 5 else ()


def _spree(purchase: UserEvent, changes: Sequence[UserEvent]) -> Sequence[UserEvent]:
    before = _within(changes, purchase.timestamp, _TEN_MINUTES)
    return [*before, purchase] if before else ()


PATTERNS = (
    Pattern(
        "PATTERN_TAKEOVER",
        "Three failed log-ins or more, then a password change, within ten minutes",
        RiskLevel.HIGH,
        EventType.PASSWORD_CHANGE,
        EventType.LOGIN_FAILED,
        _takeover,
    ),
    Pattern(
        "PATTERN_GUESSING",
        "Five failed log-ins within a minute",
        RiskLevel.MEDIUM,
        EventType.LOGIN_FAILED,
        EventType.LOGIN_FAILED,
        _guessing,
    ),
    Pattern(
        "PATTERN_SPREE",
        "A purchase within ten minutes of a password change",
        RiskLevel.LOW,
        EventType.PURCHASE,
        EventType.PASSWORD_CHANGE,
        _spree,
    ),
)

_BY_TRIGGER = {
    trigger: [pattern for pattern in PATTERNS if pattern.trigger == trigger]
    for trigger in {pattern.trigger for pattern in PATTERNS}
}


class UserProfiles(KeyedProcessFunction[UserEvent, Alert]):
    """Keeps profile, last ten events and number of events per user; emits an alert per suspicious pattern that an event completes."""

    profile = ValueState(UserActivity)
    recent = RingState(UserEvent, keep_last=RECENT_EVENTS, column="event_type")
    user_counts = ValueState(int, name="user-counts")

    def process_element(self, event: UserEvent, ctx: Context) -> list[Alert] | None:
        profile = self.profile.value()
        if profile is None:
            profile = UserActivity(event.user_id, event.timestamp, event.timestamp)
        profile.update_from(event)
        self.profile.update(profile)
        self.user_counts.update((self.user_counts.value() or 0) + 1)
        self.recent.add(event)
        patterns = _BY_TRIGGER.get(event.event_type)
        if patterns is None:
            return None
        alerts = []
        for pattern in patterns:
            parts = self.recent.where(pattern.made_of)
            events = pattern.completes(event, parts) if parts else ()
            if events:
                alerts.append(_alert(pattern, event, events, ctx))
        return alerts


def _alert(pattern: Pattern, event: UserEvent, events: Sequence[UserEvent], ctx: Context) -> Alert:
    return Alert(
        alert_id=alert_id(pattern.rule_id, 1, event.event_id),
        user_id=event.user_id,
        rule_id=pattern.rule_id,
        rule_version=1,
        risk_level=pattern.risk_level.value,
        message=f"Suspicious pattern detected: {pattern.description}",
        timestamp=event.timestamp,
        transaction_id=event.event_id,
        source=ctx.source,
        explanation={
            "pattern": pattern.description,
            "events": [
                {"event_id": one.event_id, "event_type": one.event_type, "timestamp": one.timestamp} for one in events
            ],
        },
    )
