"""The record on ``user-insights``: a user's five minutes."""

from __future__ import annotations

import msgspec

from models.time import Millis


class UserInsight(msgspec.Struct, frozen=True, gc=False):
    """What a user did in the window ``window_start <= timestamp < window_end``.  ``tier`` is that of the latest event."""

    user_id: str
    window_start: Millis
    window_end: Millis
    event_count: int
    purchases: int
    page_views: int
    tier: str
