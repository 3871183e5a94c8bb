"""The record on ``fraud-alerts``."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import msgspec

from models.time import Millis


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where a record lies in the log."""

    topic: str
    partition: int
    offset: int


class Alert(msgspec.Struct, frozen=True):
    """One rule fired for one transaction.

    ``explanation`` holds the rule's condition and the values of the fields and history functions that it used.
    """

    alert_id: str
    user_id: str
    rule_id: str
    rule_version: int
    risk_level: str
    message: str
    timestamp: Millis
    transaction_id: str
    source: Source
    explanation: dict[str, object]


def alert_id(rule_id: str, rule_version: int, transaction_id: str) -> str:
    """Hex of a 128-bit BLAKE2b hash: the same decision always has the same id.

    The parts are joined with NUL after a length, so no two triples share an input.
    """
    digest = _begun(rule_id, rule_version).copy()
    digest.update(transaction_id.encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _begun(rule_id: str, rule_version: int) -> blake2b:
    """The part of the hash that all alerts of a rule share; to be copied."""
    return blake2b(f"{len(rule_id)}\0{rule_id}\0{rule_version}\0".encode(), digest_size=16)
