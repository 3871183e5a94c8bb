"""Keyed state: one value, a list, a map, a time to live, broadcast rules, a count that can be queried."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec

from agents.operator import Context, KeyedBroadcastProcessFunction, KeyedProcessFunction
from models.time import Millis
from tables import BroadcastState, ListState, MapState, Ttl, ValueState

MINUTE_MS = 60_000
GAP_MS = 30 * MINUTE_MS


class UserEvent(msgspec.Struct, gc=False):
    user_id: str
    event_type: str
    timestamp: Millis
    session_id: str = ""


# UserProfileProcessor: a value per key


class UserProfile(msgspec.Struct, gc=False):
    user_id: str
    events: int = 0
    purchases: int = 0
    last_seen: Millis = 0


class UserProfileProcessor(KeyedProcessFunction[UserEvent, UserProfile]):
    profile = ValueState(UserProfile)

    def process_element(self, event: UserEvent, ctx: Context) -> Iterator[UserProfile]:
        old = self.profile.value() or UserProfile(ctx.key)
        new = UserProfile(
            ctx.key,
            old.events + 1,
            old.purchases + (event.event_type == "PURCHASE"),
            max(old.last_seen, event.timestamp),
        )
        self.profile.update(new)
        yield new


# RecentEventsTracker: the last ten events of a key


class RecentEventsTracker(KeyedProcessFunction[UserEvent, str]):
    recent = ListState(UserEvent, keep_last=10)

    def process_element(self, event: UserEvent, ctx: Context) -> Iterator[str]:
        self.recent.add(event)
        if sum(each.event_type == "LOGIN_FAILED" for each in self.recent) >= 3:
            yield f"Suspicious pattern detected: {ctx.key}"


# SessionManager: a map per key and a timer that is set once


class SessionSummary(msgspec.Struct):
    user_id: str
    sessions: dict[str, int]
    end: Millis


class SessionManager(KeyedProcessFunction[UserEvent, SessionSummary]):
    sessions = MapState(str, int)
    last_activity = ValueState(int)

    def process_element(self, event: UserEvent, ctx: Context) -> None:
        self.sessions.put(event.session_id, self.sessions.get(event.session_id, 0) + 1)
        last = self.last_activity.value()
        if last is None:
            ctx.timers.register_event_time(event.timestamp + GAP_MS)
        self.last_activity.update(max(last or 0, event.timestamp))

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> Iterator[SessionSummary]:
        last = self.last_activity.value() or 0
        if last + GAP_MS > timestamp_ms:  # something came meanwhile: the session goes on
            ctx.timers.register_event_time(last + GAP_MS)
            return
        yield SessionSummary(ctx.key, dict(self.sessions.entries()), last)
        self.sessions.clear()
        self.last_activity.clear()


# UserSessionProcessor: a session that is forgotten after half an hour without events


class SessionEvent(msgspec.Struct):
    type: str
    user_id: str
    session_start: Millis


class UserSessionProcessor(KeyedProcessFunction[UserEvent, SessionEvent]):
    start = ValueState(int, ttl=Ttl(timedelta(minutes=30), update=Ttl.Update.ON_CREATE_AND_WRITE))

    def process_element(self, event: UserEvent, ctx: Context) -> Iterator[SessionEvent]:
        start = self.start.value()  # None if it has expired
        if start is None:
            start = event.timestamp
            yield SessionEvent("SESSION_START", ctx.key, start)
        self.start.update(start)  # renews the time to live
        yield SessionEvent("EVENT_PROCESSED", ctx.key, start)


# FraudDetectionFunction: rules that every worker holds, over keyed transactions


class Payment(msgspec.Struct):
    user_id: str
    amount: float
    timestamp: Millis


class Limit(msgspec.Struct):
    description: str
    amount: float
    active: bool = True


class FraudDetectionFunction(KeyedBroadcastProcessFunction[Payment, Limit | None, str]):
    rules = BroadcastState(str, Limit)

    def process_element(self, event: Payment, ctx: Context) -> Iterator[str]:
        for _, rule in self.rules.entries():
            if event.amount > rule.amount:
                yield f"{ctx.key}: {rule.description}"

    def process_broadcast_element(self, element: Limit | None, ctx: Context) -> None:
        if element is not None and element.active:
            self.rules.put(ctx.key, element)
        else:
            self.rules.remove(ctx.key)


# A count that can be queried: GET /v1/state/profiles/user-counts/user123


class CountedUsers(KeyedProcessFunction[UserEvent, UserEvent]):
    count = ValueState(int, name="user-counts", default=int)

    def process_element(self, event: UserEvent, ctx: Context) -> Iterator[UserEvent]:
        self.count.update((self.count.value() or 0) + 1)
        yield event
