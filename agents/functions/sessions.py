"""Sessions: a user's events that come less than half an hour apart, in event time.

A session closes when the watermark is half an hour past its last event; then its summary is emitted, once, and all its state is gone.
Until then late events extend it, to either side, and may show that two sessions are one.  An event so late that it could only open a
session that would be closed already goes to ``late-events``.

A user has one open session, held in states of their own so that each event changes little of it.  Only while the watermark lags behind
may there be earlier ones that are not closed yet; these are whole values in ``earlier``.

What nearly every event changes is one value, ``metrics``: a row of the changelog costs as much as handling the event does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec

from agents.operator import Context, KeyedProcessFunction, OutputTag
from models.events import EventType, UserEvent
from models.sessions import SessionEvent, SessionEventType, SessionInsight, SessionMetrics, SessionSummary
from models.texts import shared
from models.time import Millis, millis
from tables import MapState, RingState, ValueState

GAP = timedelta(minutes=30)
#: For how long after its last change, by the clock, a session's metrics can be asked for.
FRESH = timedelta(hours=2)
#: A session with more events than this is engaged.
ENGAGED_EVENTS = 10
RECENT_EVENTS = 10
#: Distinct pages and session ids that a session counts; further ones are counted together under OTHER.
MAX_NAMES = 1000
OTHER = "(other)"

SESSION_EVENTS = OutputTag[SessionEvent]("session-events")
SUMMARIES = OutputTag[SessionSummary]("session-summaries")

_GAP_MS = millis(GAP)
_FRESH_MS = millis(FRESH)


class CurrentMetrics(msgspec.Struct, array_like=True, gc=False):
    """Of the session that is open: its metrics, and when by the clock they were last changed.

    ``session_id`` is that of the latest event that has one, and ``id_events`` the number of its events; the state ``ids`` counts the
    others'.  ``several``: there are earlier sessions, too.
    """

    event_count: int
    first_ms: Millis
    last_ms: Millis
    purchases: int
    changed_ms: Millis
    session_id: str | None = None
    id_events: int = 0
    several: bool = False

    def shown(self) -> SessionMetrics:
        return SessionMetrics(self.event_count, self.first_ms, self.last_ms, self.purchases)


class FreshMetrics(ValueState[CurrentMetrics]):
    """Metrics that queries find for ``FRESH``.

    That is no ``Ttl``, which would take them from the timer as well that ends the session: time may jump by more than any time to live,
    as it does while no worker runs.
    """

    def __init__(self) -> None:
        super().__init__(CurrentMetrics)

    def look(self, key: str) -> SessionMetrics | None:
        metrics = self._looked(key)
        return None if metrics is None or self._is_stale(metrics) else metrics.shown()

    def stored_keys(self) -> Iterator[str]:
        return (key for key in super().stored_keys() if not self._is_stale(self._looked(key)))

    def open_keys(self) -> Iterator[str]:
        """All keys with an open session."""
        return super().stored_keys()

    def _is_stale(self, metrics: CurrentMetrics) -> bool:
        return self._context.processing_time_ms >= metrics.changed_ms + _FRESH_MS


class OpenSession(msgspec.Struct):
    """A whole session, while it waits for its end or is merged with another."""

    metrics: SessionMetrics
    pages: dict[str, int]
    ids: dict[str, int]
    recent: list[UserEvent]

    def covers(self, timestamp_ms: Millis) -> bool:
        return self.metrics.first_ms - _GAP_MS < timestamp_ms < self.metrics.last_ms + _GAP_MS

    def add(self, event: UserEvent) -> None:
        metrics = self.metrics
        metrics.event_count += 1
        metrics.first_ms = min(metrics.first_ms, event.timestamp)
        metrics.last_ms = max(metrics.last_ms, event.timestamp)
        if event.event_type == EventType.PURCHASE:
            metrics.purchases += 1
        elif event.event_type == EventType.PAGE_VIEW and event.page is not None:
            _count(self.pages, event.page)
        if event.session_id is not None:
            _count(self.ids, event.session_id)
        self.recent = [*self.recent, event][-RECENT_EVENTS:]

    def absorb(self, later: OpenSession) -> None:
        """Become one with a later session."""
        mine, others = self.metrics, later.metrics
        mine.event_count += others.event_count
        mine.last_ms = others.last_ms
        mine.purchases += others.purchases
        for page, count in later.pages.items():
            _count(self.pages, page, count)
        for session_id, count in later.ids.items():
            _count(self.ids, session_id, count)
        self.recent = [*self.recent, *later.recent][-RECENT_EVENTS:]


class SessionAnalytics(KeyedProcessFunction[UserEvent, SessionInsight]):
    """Insight per event; steps and summaries of sessions to the side."""

    metrics = FreshMetrics()
    recent = RingState(UserEvent, keep_last=RECENT_EVENTS, column="event_type")
    pages = MapState(str, int)
    ids = MapState(str, int)
    start = ValueState(int)
    earlier = ValueState(list[OpenSession])

    def open(self, ctx: Context) -> None:
        self._started = ctx.metrics.counter("sessions_started")
        self._ended = ctx.metrics.counter("sessions_ended")
        self._converted = ctx.metrics.counter("sessions_converted")
        self._open_now = ctx.metrics.gauge("sessions_open")
        self._open_now.set(
            sum(1 for _ in self.metrics.open_keys())
            + sum(len(self.earlier.look(key) or ()) for key in self.earlier.stored_keys())
        )

    def process_element(self, event: UserEvent, ctx: Context) -> list[SessionInsight] | None:
        timestamp = event.timestamp
        metrics = self.metrics.value()
        if metrics is None or metrics.several or not metrics.first_ms - _GAP_MS < timestamp < metrics.last_ms + _GAP_MS:
            return self._settle(event, ctx)
        # Nearly every event: one more of the session that is open.
        metrics.event_count += 1
        if timestamp > metrics.last_ms:
            metrics.last_ms = timestamp
        elif timestamp < metrics.first_ms:
            metrics.first_ms = timestamp
            self.start.update(timestamp)
        kind, session_id = event.event_type, event.session_id
        if kind == EventType.PAGE_VIEW:
            if event.page is not None:
                _count_one(self.pages, shared(event.page))
        elif kind == EventType.PURCHASE:
            metrics.purchases += 1
        if session_id is not None:
            if session_id != metrics.session_id:
                self._change_id(metrics, session_id)
            metrics.id_events += 1
        metrics.changed_ms = ctx.processing_time_ms
        self.metrics.update(metrics)
        types = self.recent.add(event).copy()
        ctx.output(
            SESSION_EVENTS, SessionEvent(SessionEventType.EVENT_PROCESSED, event.user_id, metrics.first_ms, timestamp)
        )
        return [_insight(event.user_id, metrics, types)]

    def _change_id(self, metrics: CurrentMetrics, session_id: str) -> None:
        """Count the events of another session id from here on."""
        if metrics.session_id is not None:
            self.ids.put(metrics.session_id, metrics.id_events)
        known = self.ids.get(session_id)
        if known is None and len(self.ids) >= MAX_NAMES:
            session_id = OTHER
            known = self.ids.get(session_id)
        metrics.session_id, metrics.id_events = session_id, known or 0

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> None:
        """There is one timer per session, set when it began; what has happened since sets it anew."""
        metrics = self.metrics.value()
        if metrics is None:
            return
        if metrics.several:
            earlier = self.earlier.value() or ()
            still = [session for session in earlier if not self._over(session, timestamp_ms, ctx)]
            if len(still) < len(earlier):
                self._keep_earlier(still)
            if not still:
                metrics.several = False
                self.metrics.update(metrics)
        if metrics.last_ms + _GAP_MS > timestamp_ms:
            ctx.timers.register_event_time(metrics.last_ms + _GAP_MS)
        else:
            self._close(self._current(metrics), ctx)
            self._clear()

    def _over(self, session: OpenSession, timestamp_ms: Millis, ctx: Context) -> bool:
        end = session.metrics.last_ms + _GAP_MS
        if end > timestamp_ms:
            ctx.timers.register_event_time(end)
            return False
        self._close(session, ctx)
        return True

    # -- the rare cases: a session begins, or there are several

    def _settle(self, event: UserEvent, ctx: Context) -> list[SessionInsight] | None:
        """Find the sessions that the event belongs to, in order of time: none, one, or two that it makes one."""
        metrics = self.metrics.value()
        sessions = list(self.earlier.value() or ())
        if metrics is not None:
            sessions.append(self._current(metrics))
        mine = [session for session in sessions if session.covers(event.timestamp)]
        if mine:
            session = mine[0]
        else:
            end = event.timestamp + _GAP_MS
            if end <= ctx.watermark_ms:
                ctx.late(event)
                return None
            session = OpenSession(SessionMetrics(0, event.timestamp, event.timestamp), {}, {}, [])
            sessions.append(session)
            ctx.timers.register_event_time(end)
            self._started.inc()
            self._open_now.set(self._open_now.value + 1)
            ctx.output(SESSION_EVENTS, _step(SessionEventType.SESSION_START, event.user_id, session.metrics, event))
        for later in mine[1:]:
            session.absorb(later)
            sessions.remove(later)
            self._end(event.user_id, later.metrics, ctx)
        session.add(event)
        sessions.sort(key=lambda one: one.metrics.first_ms)
        self._clear()
        self._make_current(sessions[-1], several=len(sessions) > 1, now_ms=ctx.processing_time_ms)
        self._keep_earlier(sessions[:-1])
        ctx.output(SESSION_EVENTS, _step(SessionEventType.EVENT_PROCESSED, event.user_id, session.metrics, event))
        return [_insight(event.user_id, session.metrics, [one.event_type for one in session.recent])]

    def _current(self, metrics: CurrentMetrics) -> OpenSession:
        # Copies: the states are about to change.
        ids = dict(self.ids.entries())
        if metrics.session_id is not None:
            ids[metrics.session_id] = metrics.id_events
        return OpenSession(metrics.shown(), dict(self.pages.entries()), ids, self.recent.get())

    def _make_current(self, session: OpenSession, *, several: bool, now_ms: Millis) -> None:
        one = session.metrics
        self.metrics.update(
            CurrentMetrics(one.event_count, one.first_ms, one.last_ms, one.purchases, now_ms, several=several)
        )
        self.start.update(one.first_ms)
        self.recent.update(session.recent)
        for page, count in session.pages.items():
            self.pages.put(page, count)
        for session_id, count in session.ids.items():
            self.ids.put(session_id, count)

    def _keep_earlier(self, sessions: list[OpenSession]) -> None:
        if sessions:
            self.earlier.update(sessions)
        else:
            self.earlier.clear()

    def _clear(self) -> None:
        self.metrics.clear()
        self.start.clear()
        self.recent.clear()
        self.pages.clear()
        self.ids.clear()

    def _end(self, user_id: str, metrics: SessionMetrics, ctx: Context) -> None:
        self._ended.inc()
        self._open_now.set(self._open_now.value - 1)
        ctx.output(SESSION_EVENTS, _step(SessionEventType.SESSION_END, user_id, metrics))

    def _close(self, session: OpenSession, ctx: Context) -> None:
        metrics = session.metrics
        if metrics.purchases:
            self._converted.inc()
        self._end(ctx.key, metrics, ctx)
        ctx.output(
            SUMMARIES,
            SessionSummary(
                ctx.key,
                metrics.first_ms,
                metrics.last_ms,
                metrics.event_count,
                _sorted(session.pages),
                _sorted(session.ids),
            ),
        )


def _step(
    kind: SessionEventType, user_id: str, metrics: SessionMetrics, event: UserEvent | None = None
) -> SessionEvent:
    return SessionEvent(kind, user_id, metrics.first_ms, metrics.last_ms if event is None else event.timestamp)


def _insight(user_id: str, metrics: SessionMetrics | CurrentMetrics, types: list[str]) -> SessionInsight:
    count = metrics.event_count
    return SessionInsight(
        user_id, count, metrics.last_ms - metrics.first_ms, count > ENGAGED_EVENTS, EventType.PURCHASE in types, types
    )


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    """The order in which a map comes back after a restart is its own; what is emitted must not depend on it."""
    return dict(sorted(counts.items()))


def _count_one(counts: MapState[str, int], name: str) -> None:
    known = counts.get(name)
    if known is None and len(counts) >= MAX_NAMES:
        name = OTHER
        known = counts.get(name)
    counts.put(name, 1 if known is None else known + 1)


def _count(counts: dict[str, int], name: str, by: int = 1) -> None:
    if name not in counts and len(counts) >= MAX_NAMES:
        name = OTHER
    counts[name] = counts.get(name, 0) + by
