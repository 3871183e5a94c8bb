"""The profiles job: user events in, alerts on suspicious patterns out, profiles to be queried."""

from __future__ import annotations

import msgspec

from agents.functions.profiles import UserProfiles
from agents.operator import OperatorSpec, keyed_source
from models.events import UserEvent
from models.topics import TopicNames

PROFILES = OperatorSpec(
    uid="profiles",
    name="User profiles",
    job="profiles",
    function=UserProfiles,
    source=keyed_source(TopicNames.USER_EVENTS, msgspec.json.Decoder(UserEvent).decode, "user_id"),
    output=TopicNames.ALERTS,
)
