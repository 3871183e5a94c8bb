"""The alerts that the standard work must give, for inputs too long for the oracle: the same rules, over a trimmed history."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tests.support.oracle import STANDARD_RULES

#: The longest window is ten minutes, the disorder five seconds.
KEEP_MS = 620_000

#: user_id, rule_id, transaction_id
Verdict = tuple[str, str, str]


def verdicts(values: Iterable[bytes]) -> list[Verdict]:
    """What the values of one partition, in order, must raise."""
    history: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found: list[Verdict] = []
    for value in values:
        tx = json.loads(value)
        mine = history[tx["user_id"]]
        mine.append(tx)
        if mine[0]["timestamp"] < tx["timestamp"] - KEEP_MS:
            mine[:] = [one for one in mine if one["timestamp"] >= tx["timestamp"] - KEEP_MS]
        found += [
            (tx["user_id"], rule_id, tx["transaction_id"])
            for rule_id, fires in STANDARD_RULES.items()
            if fires(tx, mine)
        ]
    return found


def raised(alerts: Iterable[bytes]) -> list[Verdict]:
    """What alert records say."""
    return [(alert["user_id"], alert["rule_id"], alert["transaction_id"]) for alert in map(json.loads, alerts)]
