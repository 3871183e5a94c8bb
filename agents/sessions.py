"""The sessions job: user events in; insights, session events and summaries out."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from agents.functions.sessions import SESSION_EVENTS, SUMMARIES, SessionAnalytics
from agents.operator import OperatorSpec, keyed_source
from models.events import UserEvent
from models.topics import TopicNames

#: Events of a partition may come this much out of order; what is later may still find its session open.
DISORDER = timedelta(seconds=10)

SESSIONS = OperatorSpec(
    uid="sessions",
    name="Session analytics",
    job="sessions",
    function=SessionAnalytics,
    source=keyed_source(
        TopicNames.USER_EVENTS, msgspec.json.Decoder(UserEvent).decode, "user_id", out_of_orderness=DISORDER
    ),
    output=TopicNames.SESSION_INSIGHTS,
    side_outputs={SESSION_EVENTS.name: TopicNames.SESSION_EVENTS, SUMMARIES.name: TopicNames.SESSION_SUMMARIES},
)
