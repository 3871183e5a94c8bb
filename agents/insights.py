"""The insights job: enriched user events in, five minutes of each user out."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from agents.functions.insights import user_insights
from agents.operator import OperatorSpec, keyed_source
from models.profiles import EnrichedUserEvent
from models.topics import TopicNames

#: The disorder of the events, and that of lookups whose results overtake each other.
DISORDER = timedelta(seconds=15)

INSIGHTS = OperatorSpec(
    uid="insights",
    name="User insights",
    job="insights",
    function=user_insights,
    source=keyed_source(
        TopicNames.ENRICHED_USER_EVENTS,
        msgspec.json.Decoder(EnrichedUserEvent).decode,
        "user_id",
        out_of_orderness=DISORDER,
    ),
    output=TopicNames.USER_INSIGHTS,
)
