"""What the fraud operator remembers of a user's transaction."""

from __future__ import annotations

import msgspec

from models.time import Millis


class HistoryEntry(msgspec.Struct, array_like=True, gc=False):
    """One past transaction, as small as the history functions of rules allow."""

    timestamp: Millis
    amount: float
    merchant: str = ""
    country: str = ""
