"""Fraud detection: each transaction is judged by every active rule, over the user's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def open(self, ctx: Context) -> None:
        self.book = RuleBook()
        self._judging: RuleSet | None = None
        self._judge = RuleSet().judge
        self._rules_now = self.rules.derived
        self.history.on_drop = ctx.metrics.counter("history_dropped").inc

    def process_broadcast_element(self, element: bytes | Rule | None, ctx: Context) -> None:
        value = _encode(element) if isinstance(element, Rule) else element
        source = ctx.source
        accepted = self.book.apply(ctx.key.encode(), value, offset=source.offset, timestamp_ms=ctx.timestamp_ms)
        if accepted.rule is None:
            self.rules.remove(accepted.rule_id)
        else:
            self.rules.put(accepted.rule_id, accepted)

    def process_element(self, event: Transaction, ctx: Context) -> list[Alert] | None:
        # What runs for every transaction: bound methods that wait in attributes, no closure.
        rules_now = self._rules_now
        rules = rules_now()
        if rules is not self._judging:
            self._follow(rules)
        add, judge = self._add, self._judge
        series = add(event)
        fired = judge(event, series)
        return None if fired is None else self._alerts(fired, event, series, ctx.source)

    def _follow(self, rules: RuleSet) -> None:
        self._judging = rules
        self._judge = rules.judge
        self._add = self.history.add_from
        self.history.keep_ms = rules.longest_window_ms + millis(DISORDER)

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
