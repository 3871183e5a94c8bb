"""The job graph on one screen.

user-transactions ──> fraud ──> fraud-alerts
fraud-rules ─ ─ ─ ─ ─ ─┘ (broadcast)
fraud-rules ──> rules ──> fraud-rules.dlq (refused rules)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.fraud import FRAUD, RULES
from agents.operator import OperatorSpec

#: job name -> its operators; ``FAMULUS_JOBS`` chooses among the names
JOBS: Mapping[str, Sequence[OperatorSpec]] = {
    "fraud": (FRAUD, RULES),
}


def operators(jobs: Sequence[str] | None = None) -> list[OperatorSpec]:
    """Operators of the jobs, of all jobs without a choice."""
    return [spec for name, specs in JOBS.items() if jobs is None or name in jobs for spec in specs]
