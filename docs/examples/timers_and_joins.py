"""Timers and two inputs: a session window by hand, and orders that wait for their payments."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agents.operator import Context, KeyedCoProcessFunction, KeyedProcessFunction
from models.time import Millis
from tables import ListState, ValueState

MINUTE_MS = 60_000
SESSION_GAP_MS = 30 * MINUTE_MS
WAIT_MS = 5 * MINUTE_MS


class Event(msgspec.Struct, gc=False):
    user_id: str
    timestamp: Millis


# CustomSessionWindow


class Session(msgspec.Struct, gc=False):
    user_id: str
    start: Millis
    end: Millis
    event_count: int


class CustomSessionWindow(KeyedProcessFunction[Event, Session]):
    session = ValueState(Session)

    def process_element(self, event: Event, ctx: Context) -> None:
        at, old = event.timestamp, self.session.value()
        if old is None:
            new = Session(ctx.key, at, at, 1)
        else:  # a late event moves the start back, never the end
            new = Session(ctx.key, min(old.start, at), max(old.end, at), old.event_count + 1)
            ctx.timers.delete_event_time(old.end + SESSION_GAP_MS)
        self.session.update(new)
        ctx.timers.register_event_time(new.end + SESSION_GAP_MS)

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> Iterator[Session]:
        session = self.session.value()
        if session is not None:
            yield session
            self.session.clear()


# OrderPaymentJoin


class Order(msgspec.Struct, gc=False):
    order_id: str
    amount: float
    timestamp: Millis


class Payment(msgspec.Struct, gc=False):
    payment_id: str
    order_id: str
    timestamp: Millis


class EnrichedOrder(msgspec.Struct):
    order: Order | None
    payment: Payment | None
    status: str


class OrderPaymentJoin(KeyedCoProcessFunction[Order, Payment, EnrichedOrder]):
    orders = ListState(Order)
    payments = ListState(Payment)
    deadline = ValueState(int)

    def process_element1(self, event: Order, ctx: Context) -> Iterator[EnrichedOrder]:
        if self.orders.get():
            return  # the same order again
        yield from self._match([event], self.payments.get(), ctx)

    def process_element2(self, event: Payment, ctx: Context) -> Iterator[EnrichedOrder]:
        yield from self._match(self.orders.get(), [*self.payments.get(), event], ctx)

    def _match(self, orders: list[Order], payments: list[Payment], ctx: Context) -> Iterator[EnrichedOrder]:
        orders, payments = list(orders), list(payments)
        if orders and payments:
            yield EnrichedOrder(orders.pop(), payments.pop(0), "MATCHED")
        self.orders.update(orders)
        self.payments.update(payments)
        self._wait(bool(orders or payments), ctx)

    def _wait(self, waiting: bool, ctx: Context) -> None:
        """One timer per key, as long as something waits."""
        deadline = self.deadline.value()
        if waiting and deadline is None:
            self.deadline.update(ctx.processing_time_ms + WAIT_MS)
            ctx.timers.register_processing_time(ctx.processing_time_ms + WAIT_MS)
        elif not waiting and deadline is not None:
            ctx.timers.delete_processing_time(deadline)
            self.deadline.clear()

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> Iterator[EnrichedOrder]:
        for order in self.orders.get():
            yield EnrichedOrder(order, None, "PAYMENT_TIMEOUT")
        for payment in self.payments.get():
            yield EnrichedOrder(None, payment, "ORDER_NOT_FOUND")
        self.orders.clear()
        self.payments.clear()
        self.deadline.clear()
