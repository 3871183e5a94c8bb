"""A user's history for the functions of rules, without a state behind it."""

from __future__ import annotations

from models.history import HistoryEntry


class Past(list[HistoryEntry]):
    """Entries by ascending timestamp."""

    previous: HistoryEntry | None = None

    @property
    def times(self) -> list[int]:
        return [entry.timestamp for entry in self]
