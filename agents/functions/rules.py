"""Admission of rules: what cannot be a rule goes to the dead letters of the rules topic, once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from agents.operator.process import Context, ReplayedProcessFunction
from agents.rules.book import RuleBook
from models.errors import RuleRefused
from tables.log import Record


class RuleAdmission(ReplayedProcessFunction[Record, Any]):
    """Folds the rules topic exactly as every worker does for its running rules, and refuses what the fold refuses."""

    def open(self, ctx: Context) -> None:
        self._book = RuleBook()

    def process_element(self, event: Record, ctx: Context) -> None:
        self._book.apply(event.key, event.value, offset=event.offset, timestamp_ms=event.timestamp)

    def replay(self, event: Record) -> None:
        with suppress(RuleRefused):  # its dead letter was written in an earlier life
            self._book.apply(event.key, event.value, offset=event.offset, timestamp_ms=event.timestamp)
