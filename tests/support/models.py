"""What the jobs must give, from their input alone, in the plainest Python and SQL.  Shares no code with the product."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

GAP_MS = 30 * 60_000
WINDOW_MS = 5 * 60_000

Json = dict[str, Any]

OUTCOMES = """
WITH o AS (SELECT DISTINCT * FROM orders), p AS (SELECT DISTINCT * FROM payments),
m AS (SELECT o.id AS o, p.id AS p FROM o JOIN p ON p.o = o.id WHERE abs(o.t - p.t) < 300000)
SELECT o, p, 'MATCHED' FROM m
UNION ALL SELECT id, NULL, 'PAYMENT_TIMEOUT' FROM o WHERE id NOT IN (SELECT o FROM m)
UNION ALL SELECT NULL, id, 'ORDER_NOT_FOUND' FROM p WHERE id NOT IN (SELECT p FROM m)
"""


def sessions(events: Sequence[Json]) -> list[Json]:
    """All session summaries of these events, whatever their order."""
    found = []
    for user in {event["user_id"] for event in events}:
        mine = sorted((event for event in events if event["user_id"] == user), key=lambda event: event["timestamp"])
        starts = [0, *(i for i, (a, b) in enumerate(pairwise(mine), 1) if b["timestamp"] - a["timestamp"] >= GAP_MS)]
        for first, last in zip(starts, [*starts[1:], len(mine)], strict=True):
            session = mine[first:last]
            pages = Counter(one["page"] for one in session if one["event_type"] == "PAGE_VIEW" and one["page"])
            ids = Counter(one["session_id"] for one in session if one["session_id"])
            found.append(
                {
                    "user_id": user,
                    "start": session[0]["timestamp"],
                    "end": session[-1]["timestamp"],
                    "event_count": len(session),
                    "page_views": dict(pages),
                    "sessions": dict(ids),
                }
            )
    return found


def insights(enriched: Sequence[Json]) -> list[Json]:
    """All five-minute insights of these enriched events, whose users have one tier each."""
    windows: dict[tuple[str, int], list[Json]] = {}
    tiers = {}
    for one in enriched:
        event = one["event"]
        tiers[event["user_id"]] = one["profile"]["tier"]
        windows.setdefault((event["user_id"], event["timestamp"] // WINDOW_MS * WINDOW_MS), []).append(event)
    return [
        {
            "user_id": user,
            "window_start": start,
            "window_end": start + WINDOW_MS,
            "event_count": len(mine),
            "purchases": sum(event["event_type"] == "PURCHASE" for event in mine),
            "page_views": sum(event["event_type"] == "PAGE_VIEW" for event in mine),
            "tier": tiers[user],
        }
        for (user, start), mine in windows.items()
    ]


def join(orders: Sequence[Json], payments: Sequence[Json]) -> Counter[tuple[str | None, str | None, str]]:
    """(order id, payment id, status) of everything that the join must say, by SQL."""
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE TABLE orders (id, t)")
        db.execute("CREATE TABLE payments (id, o, t)")
        db.executemany("INSERT INTO orders VALUES (?, ?)", [(one["order_id"], one["timestamp"]) for one in orders])
        db.executemany(
            "INSERT INTO payments VALUES (?, ?, ?)",
            [(one["payment_id"], one["order_id"], one["timestamp"]) for one in payments],
        )
        return Counter(db.execute(OUTCOMES).fetchall())


def joined(values: Sequence[Json]) -> Counter[tuple[str | None, str | None, str]]:
    """As :func:`join`, of what the join said."""
    return Counter(
        (
            one["order"]["order_id"] if one["order"] else None,
            one["payment"]["payment_id"] if one["payment"] else None,
            one["status"],
        )
        for one in values
    )
