"""Every metric that a worker publishes: name, kind, meaning, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """``name`` without Prometheus' ``_total``; units stand in the name (seconds, records)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    action: str


CATALOGUE = {
    spec.name: spec
    for spec in (
        MetricSpec(
            "famulus_records_processed",
            "counter",
            "Records that an operator processed on this worker",
            "falls to 0 while records arrive: look at /readyz and at the lag",
        ),
        MetricSpec(
            "famulus_records_emitted",
            "counter",
            "Records that an operator emitted to its output",
            "compare with what you expect of the rules",
        ),
        MetricSpec(
            "famulus_dead_letters",
            "counter",
            "Records sent to the dead letter topic",
            "read the reasons with: famulus dlq list",
        ),
        MetricSpec(
            "famulus_records_not_durable",
            "gauge",
            "Source offsets processed and not yet committed",
            "grows: the log is slower than the source; look at the broker's disk",
        ),
        MetricSpec(
            "famulus_watermark_seconds",
            "gauge",
            "Event time up to which no earlier record is expected",
            "stands still while records arrive: one of them is far ahead, or the source is idle",
        ),
        MetricSpec(
            "famulus_function_events",
            "counter",
            "Events counted by an operator's function",
            "history_dropped: a user has more than 10,000 transactions in the longest window",
        ),
        MetricSpec(
            "famulus_function_value",
            "gauge",
            "Numbers kept by an operator's function, such as sessions_open",
            "see the page of the job",
        ),
        MetricSpec(
            "famulus_function_seconds",
            "histogram",
            "Times measured by an operator's function, such as lookup",
            "lookup grows: look at PostgreSQL and Redis",
        ),
        MetricSpec(
            "famulus_rule_fired",
            "counter",
            "Alerts that a rule raised on this worker",
            "a rule that never fires or always does wants another condition",
        ),
        MetricSpec(
            "famulus_rule_errors",
            "counter",
            "Transactions for which a rule failed (division by zero, missing attribute)",
            "guard the condition, with has(attributes.x) for instance",
        ),
        MetricSpec(
            "famulus_restore_seconds",
            "gauge",
            "Duration of the last restore of operator state",
            "grows with the state; plan restarts by it",
        ),
        MetricSpec(
            "famulus_restore_remaining_records",
            "gauge",
            "Changelog records still to be read back",
            "stands still above 0: the broker gives no records",
        ),
        MetricSpec(
            "famulus_restore_remaining_seconds",
            "gauge",
            "Time until state is read back, at the rate so far; missing before the first record",
            "grows: the broker or its disk is slow",
        ),
    )
}
