"""The independent oracle: what the fraud job must have done, from the input alone, in the plainest Python.

It shares no code with the product: its own parsing, its own history (never trimmed but by the documented cap), its own rules
as Python functions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: (transaction, user's earlier transactions and this one, in partition order) -> fires?
Condition = Callable[[dict[str, Any], list[dict[str, Any]]], bool]
#: user_id, rule_id, rule_version, transaction_id
Decision = tuple[str, str, int, str]


def window(history: list[dict[str, Any]], now: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Transactions x with t - d < x <= t."""
    t = now["timestamp"]
    return [one for one in history if t - seconds * 1000 < one["timestamp"] <= t]


def _over(limit: float) -> Condition:
    return lambda tx, history: bool(tx["amount"] > limit)


STANDARD_RULES: dict[str, Condition] = {
    "HIGH_VALUE": lambda tx, history: tx["amount"] > 10_000,
    "VELOCITY": lambda tx, history: len(window(history, tx, 600)) > 5,
    "COUNTRY_KP": lambda tx, history: tx.get("country") == "KP",
    "MERCHANT_666": lambda tx, history: tx.get("merchant") == "m666",
    **{f"OVER_{limit}": _over(limit) for limit in range(11_000, 17_000, 1_000)},
}


def decisions(values: Iterable[bytes], rules: Mapping[str, Condition], *, version: int = 1) -> list[Decision]:
    """Every alert that the values of one partition, in order, must raise."""
    history: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found: list[Decision] = []
    for value in values:
        tx = json.loads(value)
        mine = history[tx["user_id"]]
        mine.append(tx)
        found += [
            (tx["user_id"], rule_id, version, tx["transaction_id"])
            for rule_id, fires in rules.items()
            if fires(tx, mine)
        ]
    return found


def decided(alerts: Iterable[bytes]) -> list[Decision]:
    """What alert records say was decided."""
    found = []
    for value in alerts:
        alert = json.loads(value)
        found.append((alert["user_id"], alert["rule_id"], alert["rule_version"], alert["transaction_id"]))
    return found
