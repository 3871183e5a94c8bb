"""Fraud detection: each transaction is judged by every active rule, over the user's history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import msgspec

from agents.operator.process import Context, KeyedBroadcastProcessFunction
from agents.rules.admission import AdmittedRule, admit
from agents.rules.book import RuleBook
from agents.rules.compiler import Firing, RuleSet
from agents.rules.history import History
from models.alerts import Alert, Source, alert_id
from models.history import HistoryEntry
from models.rules import Rule, RuleVersion
from models.time import millis
from models.transactions import Transaction
from tables import BroadcastState, TimeSeriesState

#: A transaction that arrives this much later than the user's newest one still finds its whole window in the history.
DISORDER = timedelta(hours=1)
#: Transactions kept per user, whatever the windows of the rules.
MAX_HISTORY = 10_000

_encode = msgspec.json.Encoder().encode


def compiled(versions: Mapping[str, RuleVersion], changed: set[str], previous: RuleSet | None) -> RuleSet:
    """The active rules as one compiled set; only what changed is compiled again."""
    changes: dict[str, AdmittedRule | None] = {}
    for rule_id in changed:
        version = versions.get(rule_id)
        changes[rule_id] = admit(version.rule) if version and version.rule else None
    return (previous or RuleSet()).with_changes(changes)


class FraudDetection(KeyedBroadcastProcessFunction[Transaction, bytes | Rule | None, Alert]):
    """Judges transactions, keyed by user.

    Broadcast elements are rules as they lie on the topic: JSON (or a :class:`models.rules.Rule`), nothing to delete.  A refused one
    raises :class:`models.errors.RuleRefused` and changes nothing.
    """

    history = TimeSeriesState(HistoryEntry, time="timestamp", keep_for=DISORDER, keep_last=MAX_HISTORY)
    rules = BroadcastState(str, RuleVersion, derive=compiled)

    _add: Callable[[Transaction], History]

    def open(self, ctx: Context) -> None:
        self.book = RuleBook()
        self.history.on_drop = ctx.metrics.counter("history_dropped").inc
        # What runs for every transaction are bound methods that wait in attributes: no closure, and no look whether rules have changed.
        self.rules.on_change = self._rules_changed
        self._rules_changed()

    def _rules_changed(self) -> None:
        self._add = self._add_first

    def _add_first(self, event: Transaction) -> History:
        """As ``_add``, for the first transaction under other rules than before."""
        rules: RuleSet = self.rules.derived()
        self._judge = rules.judge
        self.history.keep_ms = rules.longest_window_ms + millis(DISORDER)
        self._add = self.history.add_from
        return self._add(event)

    def process_broadcast_element(self, element: bytes | Rule | None, ctx: Context) -> None:
        value = _encode(element) if isinstance(element, Rule) else element
        source = ctx.source
        accepted = self.book.apply(ctx.key.encode(), value, offset=source.offset, timestamp_ms=ctx.timestamp_ms)
        if accepted.rule is None:
            self.rules.remove(accepted.rule_id)
        else:
            self.rules.put(accepted.rule_id, accepted)

    def process_element(self, event: Transaction, ctx: Context) -> list[Alert] | None:
        series = self._add(event)
        fired = self._judge(event, series)
        return None if fired is None else self._alerts(fired, event, series, ctx.source)

    def _alerts(self, fired: Sequence[Firing], event: Transaction, series: History, source: Source) -> list[Alert]:
        return [
            Alert(
                alert_id=alert_id(firing.rule_id, firing.version, event.transaction_id),
                user_id=event.user_id,
                rule_id=firing.rule_id,
                rule_version=firing.version,
                risk_level=firing.risk_level,
                message=firing.message,
                timestamp=event.timestamp,
                transaction_id=event.transaction_id,
                source=source,
                explanation=firing.explain(event, series),
            )
            for firing in fired
        ]

    def rule_stats(self) -> dict[str, dict[str, int]]:
        """Per rule: how often it fired and failed since the worker started."""
        rules: RuleSet = self.rules.derived()
        return {
            rule_id: {"fired": rules.fired.get(rule_id, 0), "errors": rules.errors.get(rule_id, 0)}
            for rule_id in self.rules
        }
