"""In-memory stand-ins for what the views ask of a worker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter

from app.alerts import AlertFeed
from app.health import Health
from app.queries import OperatorInfo, StateAnswer, StateInfo, StatePage
from models.alerts import Alert, Source, alert_id
from models.errors import NotFound, RuleRefused, StateUnavailable, VersionConflict
from models.history import HistoryEntry
from models.rules import RiskLevel, Rule, RuleVersion
from models.time import ManualClock
from web.auth import Token, Tokens
from web.routing import Scope
from web.services import Services

NOW_MS = 1_700_000_000_000


class MemoryRules:
    """Keeps rules in a dict.  Refuses a condition with the word ``amout``, the way the compiler would."""

    def __init__(self) -> None:
        self.steps: dict[str, list[RuleVersion]] = {}

    async def list(self) -> Sequence[RuleVersion]:
        return [steps[-1] for steps in self.steps.values() if steps[-1].rule is not None]

    async def get(self, rule_id: str) -> RuleVersion:
        steps = self.steps.get(rule_id)
        if not steps or steps[-1].rule is None:
            raise NotFound(f"There is no rule {rule_id!r}.")
        return steps[-1]

    async def history(self, rule_id: str) -> Sequence[RuleVersion]:
        if rule_id not in self.steps:
            raise NotFound(f"There is no rule {rule_id!r}.")
        return self.steps[rule_id]

    async def put(self, rule: Rule, expected_version: int | None) -> RuleVersion:
        if (column := rule.when.find("amout")) >= 0:
            source = f"{rule.when}\n{' ' * column}^"
            raise RuleRefused(f"undeclared reference to 'amout'\n{source}", line=1, column=column + 1)
        return self._append(rule.rule_id, rule, expected_version)

    async def delete(self, rule_id: str, expected_version: int | None) -> RuleVersion:
        await self.get(rule_id)
        return self._append(rule_id, None, expected_version)

    async def rollback(self, rule_id: str, to: int, expected_version: int | None) -> RuleVersion:
        for step in await self.history(rule_id):
            if step.version == to and step.rule is not None:
                return self._append(rule_id, step.rule, expected_version)
        raise NotFound(f"The rule {rule_id!r} has no version {to} to go back to.")

    def _append(self, rule_id: str, rule: Rule | None, expected: int | None) -> RuleVersion:
        steps = self.steps.setdefault(rule_id, [])
        current = steps[-1].version if steps and steps[-1].rule is not None else 0
        if expected is not None and expected != current:
            raise VersionConflict(f"The rule {rule_id!r} is at version {current}, not {expected}.", current=current)
        step = RuleVersion(rule_id, len(steps) + 1, rule, NOW_MS + len(steps) * 60_000, len(steps))
        steps.append(step)
        return step


@dataclass
class MemoryState:
    """One operator ``fraud`` with one state ``history``; ``recovering`` keys cannot be read now."""

    values: Mapping[str, object] = field(default_factory=dict)
    recovering: set[str] = field(default_factory=set)

    def operators(self) -> Sequence[OperatorInfo]:
        return [
            OperatorInfo(
                uid="fraud",
                name="Fraud detection",
                states=[StateInfo("history", "timeseries", "string")],
                partitions=[0, 1, 2, 3],
                watermarks={0: NOW_MS, 1: NOW_MS - 2_000, 2: NOW_MS - 500, 3: NOW_MS - 1_000},
                lag={0: 0, 1: 12, 2: 3, 3: 0},
            )
        ]

    async def get(self, operator: str, state: str, key: str) -> StateAnswer:
        self._must_exist(operator, state)
        if key in self.recovering:
            raise StateUnavailable("Partition 1 is being recovered.")
        if key not in self.values:
            raise NotFound(f"The state {operator}/{state} has no key {key!r}.")
        return StateAnswer(operator, state, key, self.values[key], 1, 4_711, NOW_MS)

    async def list(self, operator: str, state: str, prefix: str, limit: int, cursor: str | None) -> StatePage:
        self._must_exist(operator, state)
        keys = sorted(k for k in self.values if k.startswith(prefix) and (cursor is None or k > cursor))
        answers = [StateAnswer(operator, state, key, self.values[key], 1, 4_711, NOW_MS) for key in keys[:limit]]
        return StatePage(answers, keys[limit - 1] if len(keys) > limit else None, bool(self.recovering))

    @staticmethod
    def _must_exist(operator: str, state: str) -> None:
        if (operator, state) != ("fraud", "history"):
            raise NotFound(f"There is no state {operator}/{state}.")


@dataclass
class Fakes:
    """Everything a test wants to reach behind the server."""

    rules: MemoryRules
    state: MemoryState
    health: Health
    alerts: AlertFeed
    registry: CollectorRegistry
    processed: Counter
    fired: Counter
    stats: dict[str, Mapping[str, int]]
    clock: ManualClock
    services: Services

    def with_tokens(self, **scopes: Sequence[Scope]) -> Fakes:
        """The same with a token per name; the token's text is its name."""
        tokens = [Token(name, hashlib.sha256(name.encode()).digest(), frozenset(s), None) for name, s in scopes.items()]
        return replace(self, services=replace(self.services, tokens=Tokens(tokens, self.clock)))


def fakes() -> Fakes:
    """A worker that is ready, with one user's history and no rules or alerts."""
    registry = CollectorRegistry()
    rules, health, feed, clock = MemoryRules(), Health(), AlertFeed(), ManualClock(NOW_MS)
    state = MemoryState({"user42": [HistoryEntry(NOW_MS - 60_000, 12.5, "m17", "DE"), HistoryEntry(NOW_MS, 99.0)]})
    processed = Counter("famulus_records_processed", "Records processed", ["operator"], registry=registry)
    fired = Counter("famulus_rule_fired", "Times a rule fired", ["rule_id"], registry=registry)
    stats: dict[str, Mapping[str, int]] = {}
    services = Services(
        bind="127.0.0.1",
        tokens=None,
        health=health,
        alerts=feed,
        queries=state,
        rules=rules,
        rule_stats=lambda: stats,
        metrics=registry,
    )
    return Fakes(rules, state, health, feed, registry, processed, fired, stats, clock, services)


def rule(rule_id: str = "HIGH_VALUE", **changes: Any) -> Rule:
    """A rule that is admitted."""
    fields: dict[str, Any] = {
        "description": "Transaction amount > $10,000",
        "active": True,
        "risk_level": RiskLevel.HIGH,
        "when": "amount > 10000.0",
    }
    return Rule(rule_id=rule_id, **(fields | changes))


def alert(number: int, *, user_id: str = "user42", rule_id: str = "HIGH_VALUE", **changes: Any) -> bytes:
    """An encoded alert, as the lane writes it."""
    transaction = f"t{number}"
    fields: dict[str, Any] = {
        "rule_version": 1,
        "risk_level": "HIGH",
        "message": "Rule triggered: Transaction amount > $10,000",
        "timestamp": NOW_MS + number,
        "source": Source("user-transactions", 1, number),
        "explanation": {"condition": "amount > 10000.0", "values": {"amount": 12_000.0 + number}},
    }
    return msgspec.json.encode(
        Alert(
            alert_id=alert_id(rule_id, 1, transaction),
            user_id=user_id,
            rule_id=rule_id,
            transaction_id=transaction,
            **(fields | changes),
        )
    )
