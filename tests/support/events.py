"""Events for the tests of the jobs: with disorder, duplicates and idle gaps, a pure function of the seed."""

from __future__ import annotations

import random

from models.events import EventType, UserEvent
from models.orders import Order, Payment

#: No wall clock: a round time in 2023.
START_MS = 1_700_000_000_000
MINUTE_MS = 60_000
TYPES = (
    *(EventType.PAGE_VIEW,) * 6,
    EventType.CLICK,
    EventType.PURCHASE,
    EventType.LOGIN,
    *(EventType.LOGIN_FAILED,) * 2,
    EventType.PASSWORD_CHANGE,
)


def user_events(seed: int, count: int, *, users: int = 5, disorder_ms: int = 10_000) -> list[UserEvent]:
    """``count`` events in order of arrival; each comes at most ``disorder_ms`` after one with a later time."""
    chance = random.Random(seed)
    now = START_MS
    events: list[tuple[float, UserEvent]] = []
    for number in range(count):
        # Mostly seconds apart; now and then a pause that just lets sessions end, or just not.
        now += (
            chance.choice([0, 1, 500, 5_000, 60_000, 60_000, 29 * MINUTE_MS, 30 * MINUTE_MS, 31 * MINUTE_MS]) // users
        )
        kind = chance.choice(TYPES)
        event = UserEvent(
            event_id=f"e{number}",
            user_id=f"user{chance.randrange(users)}",
            event_type=kind,
            page=f"/p{chance.randrange(4)}" if kind == EventType.PAGE_VIEW else None,
            session_id=f"s{chance.randrange(3)}" if chance.random() < 0.9 else None,
            timestamp=now,
        )
        events.append((now + chance.randrange(disorder_ms), event))
        if chance.random() < 0.05:  # a producer tried again
            events.append((now + chance.randrange(disorder_ms), event))
    return [event for _, event in sorted(events, key=lambda pair: pair[0])]


def orders_and_payments(seed: int, count: int, *, disorder_ms: int = 10_000) -> list[Order | Payment]:
    """Orders and payments in order of arrival: paid at once, late, at the last moment, never; payments without orders; repeats."""
    chance = random.Random(seed)
    found: list[tuple[float, Order | Payment]] = []

    def arrives(record: Order | Payment) -> None:
        found.append((record.timestamp + chance.randrange(disorder_ms), record))
        if chance.random() < 0.1:
            found.append((record.timestamp + chance.randrange(disorder_ms), record))

    now = START_MS
    for number in range(count):
        now += chance.choice([0, 1_000, 10_000, 100_000])
        order = Order(f"o{number}", f"user{chance.randrange(9)}", float(number), now)
        fate = chance.random()
        if fate < 0.9:
            arrives(order)
        if fate > 0.2:
            after = chance.choice([-290_000, -20_000, -1, 0, 1, 1_000, 60_000, 299_999, 300_000, 300_001, 400_000])
            arrives(Payment(f"p{number}", order.order_id, order.amount, max(START_MS, now + after)))
    return [record for _, record in sorted(found, key=lambda pair: pair[0])]
