"""The reference of the long benchmarks against the oracle."""

from __future__ import annotations

from tests.bench.reference import verdicts
from tests.support.oracle import STANDARD_RULES, decisions
from tests.support.workload import transactions


def test_a_trimmed_history_decides_as_the_oracle_does() -> None:
    values = [value for _, value in transactions(12_000, users=200)]

    assert verdicts(values) == [(user, rule, tx) for user, rule, _, tx in decisions(values, STANDARD_RULES)]
