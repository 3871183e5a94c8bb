"""The record on ``fraud-rules``: a rule is data, never code."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from models.time import Millis
from models.transactions import Identifier, Timestamp


class RiskLevel(enum.Enum):
    """How grave an alert of the rule is."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A fraud rule; ``when`` is its condition in CEL.

    ``version`` is ``None`` on the wire for "the previous version + 1"; ``effective_from`` (event time) is the first
    timestamp that the rule judges, ``None`` for every one.
    """

    rule_id: Identifier
    description: Annotated[str, msgspec.Meta(max_length=1024)]
    active: bool
    risk_level: RiskLevel
    when: str
    version: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None = None
    effective_from: Timestamp | None = None


class RuleVersion(msgspec.Struct, frozen=True):
    """One accepted step in a rule's life.  ``rule`` is ``None`` where the step deleted it."""

    rule_id: str
    version: int
    rule: Rule | None
    accepted_ms: Millis
    offset: int
