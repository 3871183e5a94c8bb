"""What the views ask of the worker: small protocols, so that a test needs no worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from app.alerts import AlertFeed
from app.health import Health
from app.queries import StateQueries
from models.rules import Rule, RuleVersion
from web.auth import Tokens

#: rule_id -> {"fired": n, "errors": n}, counted since the worker started
RuleStats = Mapping[str, Mapping[str, int]]


class RuleService(Protocol):
    """The rules and their history.

    Where ``expected_version`` is given and the rule has another one, :class:`models.errors.VersionConflict` is raised
    and nothing is changed; 0 means that there must be no such rule.  Unknown rules and versions raise
    :class:`models.errors.NotFound`.
    """

    async def list(self) -> Sequence[RuleVersion]:
        """The current version of every rule that is not deleted."""

    async def get(self, rule_id: str) -> RuleVersion: ...

    async def history(self, rule_id: str) -> Sequence[RuleVersion]:
        """Every version, oldest first; also of a deleted rule."""

    async def put(self, rule: Rule, expected_version: int | None) -> RuleVersion:
        """Append a version once it is admitted, else raise :class:`models.errors.RuleRefused`."""

    async def delete(self, rule_id: str, expected_version: int | None) -> RuleVersion: ...

    async def rollback(self, rule_id: str, to: int, expected_version: int | None) -> RuleVersion:
        """Append a new version that says what version ``to`` said."""


class Worker(Protocol):
    """What :meth:`Services.of` takes from the application."""

    health: Health
    alerts: AlertFeed
    state_queries: StateQueries
    rule_service: RuleService
    metrics_registry: CollectorRegistry

    def rule_stats(self) -> RuleStats: ...


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the views need.  ``bind`` is the address served on; ``tokens`` is ``None`` where none are configured."""

    bind: str
    tokens: Tokens | None
    health: Health
    alerts: AlertFeed
    queries: StateQueries
    rules: RuleService
    rule_stats: Callable[[], RuleStats]
    metrics: CollectorRegistry

    @classmethod
    def of(cls, worker: Worker, *, bind: str, tokens: Tokens | None) -> Services:
        return cls(
            bind=bind,
            tokens=tokens,
            health=worker.health,
            alerts=worker.alerts,
            queries=worker.state_queries,
            rules=worker.rule_service,
            rule_stats=worker.rule_stats,
            metrics=worker.metrics_registry,
        )
