"""The fraud function by itself: rules in, transactions in, alerts out."""

from __future__ import annotations

import json
from operator import attrgetter
from typing import Any

import pytest

from agents.functions import fraud
from agents.functions.fraud import FraudDetection
from agents.testing import OperatorHarness
from models.errors import RuleRefused
from models.rules import RiskLevel, Rule
from models.transactions import Transaction

T = 1_700_000_000_000


def harness(**options: Any) -> OperatorHarness:
    return OperatorHarness(FraudDetection(), key=attrgetter("user_id"), timestamp=attrgetter("timestamp"), **options)


def rule(rule_id: str, when: str, **more: Any) -> Rule:
    return Rule(
        **{
            "rule_id": rule_id,
            "description": rule_id.lower(),
            "active": True,
            "risk_level": RiskLevel.HIGH,
            "when": when,
            **more,
        }
    )


def tx(number: int, amount: float = 1.0, timestamp: int = T, user: str = "u", **more: Any) -> Transaction:
    return Transaction(transaction_id=f"t{number}", user_id=user, amount=amount, timestamp=timestamp, **more)


def fired(h: OperatorHarness) -> list[tuple[str, str]]:
    return [(alert.rule_id, alert.transaction_id) for alert in h.outputs]


def test_a_rule_judges_from_the_next_transaction_on() -> None:
    h = harness()
    h.process(tx(1, 50.0))
    h.broadcast("HIGH", rule("HIGH", "amount > 10.0"))
    h.process(tx(2, 50.0))
    assert fired(h) == [("HIGH", "t2")]


def test_a_rule_that_is_switched_off_or_deleted_judges_no_more() -> None:
    h = harness()
    h.broadcast("A", rule("A", "amount > 10.0"))
    h.broadcast("B", rule("B", "amount > 10.0"))
    h.broadcast("A", rule("A", "amount > 10.0", active=False))
    h.broadcast("B", None)
    h.process(tx(1, 50.0))
    assert fired(h) == []


def test_a_refused_rule_leaves_the_running_ones_as_they_are() -> None:
    h = harness()
    h.broadcast("A", rule("A", "amount > 10.0"))
    with pytest.raises(RuleRefused):
        h.broadcast("A", rule("A", "amount >"))
    h.process(tx(1, 50.0))
    assert fired(h) == [("A", "t1")]


def test_the_window_ends_with_the_transaction_and_leaves_its_beginning_out() -> None:
    h = harness()
    h.broadcast("N", rule("N", "count(duration('10s')) > 1"))
    h.process(tx(1, timestamp=T))
    h.process(tx(2, timestamp=T + 10_000))  # t - d is not in the window
    h.process(tx(3, timestamp=T + 19_999))
    assert fired(h) == [("N", "t3")]


def test_a_late_transaction_sees_its_own_window_and_nothing_that_is_later() -> None:
    h = harness()
    h.broadcast("N", rule("N", "count(duration('10s')) == 2"))
    for number, at in enumerate((T, T + 60_000, T + 61_000, T + 62_000)):
        h.process(tx(number, timestamp=at))
    h.outputs.clear()
    h.process(tx(9, timestamp=T + 5_000))
    assert fired(h) == [("N", "t9")]


def test_previous_means_the_one_taken_just_before_not_the_one_before_in_time() -> None:
    h = harness()
    h.broadcast("P", rule("P", "has_previous() && previous_amount() == 7.0 && seconds_since_previous() == -60.0"))
    h.process(tx(1, 5.0, T))
    h.process(tx(2, 7.0, T + 60_000))
    h.process(tx(3, 1.0, T))
    assert fired(h) == [("P", "t3")]


def test_the_history_holds_at_most_its_cap_and_counts_what_it_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fraud.FraudDetection.history, "keep_last", 5)
    h = harness()
    h.broadcast("N", rule("N", "count(duration('1h')) > 100"))
    for number in range(8):
        h.process(tx(number, timestamp=T + number))
    assert len(h.state("history", "u")) == 5
    assert h.counters()[("history_dropped", "")] == 3


def test_an_alert_has_the_same_id_in_every_life() -> None:
    ids = []
    for _ in range(2):
        h = harness()
        h.broadcast("HIGH", rule("HIGH", "amount > 10.0"))
        h.process(tx(1, 50.0))
        ids.append(h.outputs[0].alert_id)
    assert ids[0] == ids[1]
    assert len(ids[0]) == 32


def test_another_version_of_the_rule_makes_another_alert() -> None:
    h = harness()
    h.broadcast("HIGH", rule("HIGH", "amount > 10.0"))
    h.process(tx(1, 50.0))
    h.broadcast("HIGH", rule("HIGH", "amount > 10.0", description="again"))
    h.process(tx(1, 50.0))
    first, second = h.outputs
    assert (first.rule_version, second.rule_version) == (1, 2)
    assert first.alert_id != second.alert_id


def test_the_explanation_holds_what_the_condition_used_and_is_json() -> None:
    h = harness()
    h.broadcast("X", rule("X", "amount > 10.0 && country in ['KP', 'IR'] && count(duration('10m')) > 0"))
    h.process(tx(1, 50.0, country="KP"))
    explanation = h.outputs[0].explanation
    assert explanation["values"] == {"amount": 50.0, "country": "KP", "count(duration('10m'))": 1}
    json.dumps(explanation)


def test_a_restored_operator_goes_on_with_the_same_history() -> None:
    h = harness()
    h.broadcast("N", rule("N", "count(duration('1h')) > 2 && previous_amount() == 2.0"))
    h.process(tx(1, 1.0, T))
    h.process(tx(2, 2.0, T + 1))
    again = h.restore(FraudDetection(), h.snapshot(), key=attrgetter("user_id"), timestamp=attrgetter("timestamp"))
    again.process(tx(3, 3.0, T + 2))
    assert fired(again) == [("N", "t3")]


def test_a_rule_judges_only_what_happened_after_its_effective_from() -> None:
    h = harness()
    h.broadcast("E", rule("E", "amount > 0.0", effective_from=T))
    h.process(tx(1, timestamp=T - 1))
    h.process(tx(2, timestamp=T))
    assert fired(h) == [("E", "t2")]
