"""The standard work: transactions of 10,000 users with hot ones among them, and ten rules, from a seed.

Event time moves 100 ms a transaction; each is up to 5 s out of order.  Amounts are exponential with mean 2,000.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator

import msgspec

COUNTRIES = ("DE", "US", "FR", "GB", "BR", "IN", "JP", "NG", "KP", "PL")
START_MS = 1_700_000_000_000


def rules() -> list[dict[str, object]]:
    """Ten rules: eight thresholds on fields, one on the country, one on the user's last ten minutes."""
    made: list[dict[str, object]] = [
        rule("HIGH_VALUE", "Transaction amount > $10,000", "HIGH", "amount > 10000.0"),
        rule("VELOCITY", "More than 5 transactions in 10 minutes", "MEDIUM", "count(duration('10m')) > 5"),
        rule("COUNTRY_KP", "Country KP", "HIGH", 'country == "KP"'),
        rule("MERCHANT_666", "Merchant m666", "HIGH", 'merchant == "m666"'),
    ]
    for limit in range(11_000, 17_000, 1_000):
        made.append(rule(f"OVER_{limit}", f"Over {limit}", "HIGH", f"amount > {limit}.0"))
    return made


def rule(rule_id: str, description: str, risk_level: str, when: str, **more: object) -> dict[str, object]:
    return {
        "rule_id": rule_id,
        "description": description,
        "active": True,
        "risk_level": risk_level,
        "when": when,
        **more,
    }


def transactions(
    count: int, *, seed: int = 7, users: int = 10_000, disorder_ms: int = 5_000
) -> Iterator[tuple[str, bytes]]:
    """(user_id, JSON) pairs."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / (rank + 1) ** 0.6 for rank in range(users)))
    encode = msgspec.json.Encoder().encode
    for number in range(count):
        user = f"user{bisect.bisect(weights, chance.random() * weights[-1])}"
        late = chance.randrange(disorder_ms) if disorder_ms else 0
        yield (
            user,
            encode(
                {
                    "transaction_id": f"t{number}",
                    "user_id": user,
                    "amount": round(chance.expovariate(1 / 2000), 2),
                    "timestamp": START_MS + number * 100 - late,
                    "merchant": f"m{chance.randrange(1000)}",
                    "country": COUNTRIES[min(int(chance.expovariate(0.8)), 9)],
                }
            ),
        )
