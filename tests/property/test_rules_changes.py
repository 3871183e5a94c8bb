"""Books and sets of rules that change against models that start anew, and windows against counting by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.rules import history
from agents.rules.admission import AdmittedRule, admit
from agents.rules.book import RuleBook
from agents.rules.compiler import RuleSet
from models.errors import RuleRefused
from models.history import HistoryEntry
from models.rules import RiskLevel, Rule
from models.transactions import Transaction
from tests.support.past import Past

NOW = 1_700_000_000_000


# --- the book

ids = st.sampled_from(["A", "B", "C"])
conditions = st.sampled_from(["amount > 1.0", "amount > 2.0", "amount >", "1 / 0 == 1", "country == 5"])
puts = st.tuples(ids, conditions, st.booleans(), st.none() | st.integers(1, 6))
deletes = st.tuples(ids, st.none(), st.just(False), st.none())


@dataclass
class Model:
    """The rules of the topic in their simplest form: the last accepted step by rule id."""

    latest: dict[str, tuple[int, str | None, bool]] = field(default_factory=dict)

    def apply(self, name: str, when: str | None, active: bool, version: int | None) -> bool:
        before, present, _ = self.latest.get(name, (0, None, False))
        if when is None:
            if present is not None:
                self.latest[name] = (before + 1, None, False)
            return True
        if when in {"amount >", "country == 5"} or (version is not None and version <= before):
            return False
        self.latest[name] = (version or before + 1, when, active)
        return True


def applied(book: RuleBook, name: str, when: str | None, active: bool, version: int | None, offset: int) -> bool:
    content = {"rule_id": name, "description": "", "active": active, "risk_level": "LOW", "when": when}
    if version is not None:
        content["version"] = version
    value = None if when is None else json.dumps(content).encode()
    try:
        book.apply(name.encode(), value, offset=offset, timestamp_ms=offset)
    except RuleRefused:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(puts | deletes, max_size=25), looks=st.sets(st.integers(0, 25)))
def test_a_book_holds_the_last_accepted_step_of_each_rule(
    steps: list[tuple[str, str | None, bool, int | None]], looks: set[int]
) -> None:
    book, twin, model = RuleBook(), RuleBook(), Model()
    for offset, step in enumerate(steps):
        taken = model.apply(*step)
        assert applied(book, *step, offset) is taken
        assert applied(twin, *step, offset + 1000) is taken
        if offset in looks:
            book.ruleset()
    assert {name: step.version for name, step in book.current().items()} == {
        name: version for name, (version, when, _) in model.latest.items() if when is not None
    }
    assert {name: admitted.rule.when for name, admitted in book.ruleset().rules().items()} == {
        name: when for name, (_, when, active) in model.latest.items() if when is not None and active
    }
    assert book.digest() == twin.digest()
    for name in model.latest:
        versions = [step.version for step in book.history(name)]
        assert versions == sorted(set(versions))


# --- the set


def rule(rule_id: str, when: str, active: bool) -> AdmittedRule:
    return admit(Rule(rule_id, "", active, RiskLevel.LOW, when, version=1))


names = st.integers(0, 150).map(str)
bodies = st.none() | st.tuples(
    st.sampled_from(["amount > 1.0", "amount > 3.0", "1 / 0 == 1 || amount > 2.0"]), st.booleans()
)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.dictionaries(names, bodies, max_size=120), max_size=5),
    amount=st.sampled_from([0.5, 1.5, 2.5, 9.0]),
)
def test_a_changed_set_judges_as_one_made_anew(
    batches: list[dict[str, tuple[str, bool] | None]], amount: float
) -> None:
    rules = RuleSet()
    present: dict[str, AdmittedRule] = {}
    for batch in batches:
        changes = {name: None if body is None else rule(name, *body) for name, body in batch.items()}
        rules = rules.with_changes(changes)
        for name, admitted in changes.items():
            if admitted is None:
                present.pop(name, None)
            else:
                present[name] = admitted
    tx = Transaction("t", "u", amount, NOW)
    past = Past([HistoryEntry(NOW, amount)])
    fired = [firing.rule_id for firing in rules.judge(tx, past) or ()]
    assert fired == [firing.rule_id for firing in RuleSet(present.values()).judge(tx, past) or ()]
    assert fired == sorted(fired)
    assert rules.fired.keys() == rules.rules().keys() == {name for name, each in present.items() if each.rule.active}


# --- windows


@settings(max_examples=300, deadline=None)
@given(
    ages=st.lists(st.integers(-5, 40), max_size=30),
    width=st.integers(1, 45),
    seed=st.lists(st.integers(-9, 9), min_size=31, max_size=31),
)
def test_a_window_function_is_that_of_the_entries_by_hand(ages: list[int], width: int, seed: list[int]) -> None:
    entries = Past(
        sorted(
            (HistoryEntry(NOW - age, seed[i] / 4, f"m{seed[i] % 4}", f"c{seed[-i] % 3}") for i, age in enumerate(ages)),
            key=lambda entry: entry.timestamp,
        )
    )
    inside = [entry for entry in entries if NOW - width < entry.timestamp <= NOW]
    amounts = [entry.amount for entry in inside]
    expected = {
        "count": len(inside),
        "sum_amount": sum(amounts),
        "avg_amount": sum(amounts) / len(amounts) if amounts else 0.0,
        "min_amount": min(amounts, default=0.0),
        "max_amount": max(amounts, default=0.0),
        "distinct_merchants": len({entry.merchant for entry in inside}),
        "distinct_countries": len({entry.country for entry in inside}),
    }
    assert {name: history.over_window(name, entries, NOW, width) for name in history.WINDOW_FUNCTIONS} == expected
