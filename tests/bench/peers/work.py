"""What the peers in Python share: the ten rules, an alert, and how long a history must be."""

from __future__ import annotations

import os

WINDOW_MS = 600_000
#: Transactions are up to 5 s out of order; a late one still wants its whole window.
KEEP_MS = WINDOW_MS + 10_000

#: rule_id -> description, risk level
RULES = {
    "HIGH_VALUE": ("Transaction amount > $10,000", "HIGH"),
    "VELOCITY": ("More than 5 transactions in 10 minutes", "MEDIUM"),
    "COUNTRY_KP": ("Country KP", "HIGH"),
    "MERCHANT_666": ("Merchant m666", "HIGH"),
    **{f"OVER_{limit}": (f"Over {limit}", "HIGH") for limit in range(11_000, 17_000, 1_000)},
}
LIMITS = tuple((float(limit), f"OVER_{limit}") for limit in range(11_000, 17_000, 1_000))


def fired(amount: float, country: str, merchant: str, in_window: int) -> list[str]:
    """Rules that fire for a transaction, the ``in_window``-th of its user in ten minutes."""
    found = []
    if amount > 10_000.0:
        found.append("HIGH_VALUE")
    if in_window > 5:
        found.append("VELOCITY")
    if country == "KP":
        found.append("COUNTRY_KP")
    if merchant == "m666":
        found.append("MERCHANT_666")
    for limit, rule_id in LIMITS:
        if amount > limit:
            found.append(rule_id)
    return found


def alert(rule_id: str, user_id: str, transaction_id: str, timestamp: int) -> dict[str, object]:
    description, risk_level = RULES[rule_id]
    return {
        "user_id": user_id,
        "rule_id": rule_id,
        "risk_level": risk_level,
        "message": f"Rule triggered: {description}",
        "timestamp": timestamp,
        "transaction_id": transaction_id,
    }


def variable(name: str) -> str:
    """A ``BENCH_`` variable; whoever starts a peer sets them all."""
    return os.environ[f"BENCH_{name}"]
