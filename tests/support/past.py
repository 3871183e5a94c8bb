"""A user's history for the functions of rules, without a state behind it."""

from __future__ import annotations

from typing import Any

from models.history import HistoryEntry
from models.time import Millis


class Past(list[HistoryEntry]):
    """Entries by ascending timestamp: what rules ask of a series, in the plainest way."""

    previous: HistoryEntry | None = None

    def position(self, time_ms: Millis) -> int:
        return sum(entry.timestamp <= time_ms for entry in self)

    def reaches(self, least: int, after_ms: Millis, until_ms: Millis) -> bool:
        return sum(after_ms < entry.timestamp <= until_ms for entry in self) >= least

    def column(self, name: str, begin: int, stop: int) -> list[Any]:
        return [getattr(entry, name) for entry in self[begin:stop]]
