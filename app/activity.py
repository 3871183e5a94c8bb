"""Simulated activity beside the transactions: visits of users to a shop, what they order, and how that is paid.

As the transactions (:mod:`app.simulate`) a pure function of the seed and of a timeline.  One visit begins for every
:data:`TRANSACTIONS_PER_VISIT` transactions.  Its events are one session: pages seconds apart, now and then a purchase, which is an order
with a payment.  What the jobs must make of the records that are out of the ordinary is known, see :class:`Happening`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import NamedTuple

from app.simulate import Timeline
from models.events import EventType, UserEvent
from models.orders import Order, Payment
from models.time import Millis, millis
from models.topics import TopicNames

TRANSACTIONS_PER_VISIT = 20
#: Users that visit, at most: nearly all of them have an example profile.
MAX_VISITORS = 10_000
PAGES = ("/home", "/search", "/offers", "/product/1", "/product/2", "/product/3", "/cart", "/account", "/help")

_SECOND = millis(timedelta(seconds=1))
_MINUTE = millis(timedelta(minutes=1))


class Happening(enum.StrEnum):
    """Why a record was made."""

    NORMAL = "normal"
    #: An order that nobody pays: PAYMENT_TIMEOUT.
    UNPAID_ORDER = "unpaid_order"
    #: A payment after more than five minutes: PAYMENT_TIMEOUT for its order, ORDER_NOT_FOUND for itself.
    LATE_PAYMENT = "late_payment"
    #: A payment for an order that is not there: ORDER_NOT_FOUND.
    STRAY_PAYMENT = "stray_payment"
    #: A password change after three failed log-ins: an alert PATTERN_TAKEOVER.
    TAKEOVER = "takeover"


class Acted(NamedTuple):
    """A record, and what is to be made of it."""

    record: UserEvent | Order | Payment
    scenario: Happening

    @property
    def topic(self) -> str:
        match self.record:
            case UserEvent():
                return TopicNames.USER_EVENTS
            case Order():
                return TopicNames.ORDERS
            case Payment():
                return TopicNames.PAYMENTS

    @property
    def key(self) -> str:
        return self.record.user_id if isinstance(self.record, UserEvent) else self.record.order_id

    @property
    def timestamp(self) -> Millis:
        return self.record.timestamp

    @property
    def label(self) -> dict[str, str]:
        """The record's name and what is to be made of it."""
        match self.record:
            case UserEvent(event_id=name):
                return {"event_id": name, "scenario": self.scenario}
            case Order(order_id=name):
                return {"order_id": name, "scenario": self.scenario}
            case Payment(payment_id=name):
                return {"payment_id": name, "scenario": self.scenario}


def activity(seed: int, timeline: Timeline) -> Iterator[Acted]:
    """Records in the order of their event times; the same arguments give the same ones.

    A timeline with a total ends there: visits under way are cut off.
    """
    users = min(timeline.users(), MAX_VISITORS)
    end = None if timeline.total is None else timeline.time_at(timeline.total)
    waiting: list[tuple[Millis, int, Acted]] = []
    numbers = count()
    for visit in count():
        position = visit * TRANSACTIONS_PER_VISIT
        if timeline.total is not None and position >= timeline.total:
            break
        start = timeline.time_at(position)
        while waiting and waiting[0][0] <= start:
            yield heappop(waiting)[2]
        for acted in _Visit(seed, visit, users, start).records():
            if end is None or acted.timestamp < end:
                heappush(waiting, (acted.timestamp, next(numbers), acted))
    while waiting:
        yield heappop(waiting)[2]


class _Visit:
    """One user in the shop."""

    def __init__(self, seed: int, number: int, users: int, start_ms: Millis) -> None:
        self._name = f"{seed}-{number}"
        self._random = Random(f"{seed}/visit/{number}")
        self._user = f"user{self._random.randrange(users)}"
        self._now = start_ms
        self._events = 0

    def records(self) -> Iterator[Acted]:
        chance = self._random
        if chance.random() < 0.04:
            yield from self._takeover()
        elif chance.random() < 0.5:
            yield self._event(EventType.LOGIN, "/login")
        for _ in range(min(25, 1 + int(chance.expovariate(1 / 7)))):
            yield self._event(EventType.PAGE_VIEW, chance.choice(PAGES))
            if chance.random() < 0.2:
                yield self._event(EventType.CLICK, None)
        if chance.random() < 0.3:
            yield self._event(EventType.PURCHASE, "/checkout")
            yield from self._order()

    def _event(self, kind: str, page: str | None, scenario: Happening = Happening.NORMAL) -> Acted:
        event = UserEvent(
            event_id=f"sim-{self._name}-{self._events}",
            user_id=self._user,
            event_type=kind,
            page=page,
            session_id=f"visit-{self._name}",
            timestamp=self._now,
        )
        self._events += 1
        self._now += self._random.randrange(_SECOND, _MINUTE)
        return Acted(event, scenario)

    def _takeover(self) -> Iterator[Acted]:
        for _ in range(3):
            yield self._event(EventType.LOGIN_FAILED, "/login")
        yield self._event(EventType.PASSWORD_CHANGE, "/account", Happening.TAKEOVER)

    def _order(self) -> Iterator[Acted]:
        chance = self._random
        order = Order(f"order-{self._name}", self._user, round(5 + chance.expovariate(1 / 60), 2), self._now)
        fate = chance.random()
        if fate < 0.08:
            yield Acted(order, Happening.UNPAID_ORDER)
        elif fate < 0.14:
            yield Acted(order, Happening.NORMAL)
            yield self._payment(order, chance.randrange(5 * _MINUTE + 1, 15 * _MINUTE), Happening.LATE_PAYMENT)
        elif fate < 0.18:
            yield self._payment(order, 0, Happening.STRAY_PAYMENT)
        elif fate < 0.3:
            yield self._payment(order, -chance.randrange(_SECOND), Happening.NORMAL)
            yield Acted(order, Happening.NORMAL)
        else:
            yield Acted(order, Happening.NORMAL)
            yield self._payment(order, chance.randrange(_SECOND, _MINUTE), Happening.NORMAL)

    def _payment(self, order: Order, after_ms: Millis, scenario: Happening) -> Acted:
        payment = Payment(f"payment-{self._name}", order.order_id, order.amount, order.timestamp + after_ms)
        return Acted(payment, scenario)
