"""Records of the sessions job: ``session-events``, ``session-insights`` and ``session-summaries``."""

from __future__ import annotations

import enum

import msgspec

from models.time import Millis


class SessionEventType(enum.Enum):
    """What happened to a session."""

    SESSION_START = "SESSION_START"
    EVENT_PROCESSED = "EVENT_PROCESSED"
    SESSION_END = "SESSION_END"


class SessionEvent(msgspec.Struct, frozen=True, gc=False):
    """A step in a session's life.

    ``session_start`` is the session's start as known by then; a late event may move it back.  ``timestamp`` is the time of the event that
    made the step, for ``SESSION_END`` that of the session's last event.  When a late event shows that two sessions are one, the later one
    ends there, so every start has its end.
    """

    type: SessionEventType
    user_id: str
    session_start: Millis
    timestamp: Millis


class SessionMetrics(msgspec.Struct, gc=False):
    """What the sessions job counts of a session that is open: its events, the times of the first and last of them, and purchases."""

    event_count: int
    first_ms: Millis
    last_ms: Millis
    purchases: int = 0


class SessionInsight(msgspec.Struct, frozen=True):
    """A session as it stands after one event.  ``recent_event_types``: those of its last ten events, oldest first."""

    user_id: str
    event_count: int
    session_duration_ms: Millis
    is_engaged: bool
    is_converting: bool
    recent_event_types: list[str]


class SessionSummary(msgspec.Struct, frozen=True):
    """A session that is over.

    ``start`` and ``end`` are the times of its first and last event.  ``page_views`` counts page views per page, ``sessions`` all events
    per session id; events without one are counted in ``event_count`` only.
    """

    user_id: str
    start: Millis
    end: Millis
    event_count: int
    page_views: dict[str, int]
    sessions: dict[str, int]
