"""Orders and their payments, joined by order id.

Each order takes one payment, whichever of the two comes first.  What has waited for five minutes is given up: ``PAYMENT_TIMEOUT`` for an
order, ``ORDER_NOT_FOUND`` for a payment.  A repeat of an order (same id) or of a payment (same payment id) changes nothing, also after
the first one was done with, for as long as ``REMEMBERED``.  A further payment for an order that has one pays nothing, as one without an
order does, and is told like that: ``ORDER_NOT_FOUND``.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from agents.operator import Context, KeyedCoProcessFunction, TimeDomain
from models.errors import BadRecord
from models.orders import EnrichedOrder, JoinStatus, Order, Payment
from models.time import Millis, millis
from tables import Ttl, ValueState

TIMEOUT = timedelta(minutes=5)
#: How long the ids of what is done are known, in event time.
REMEMBERED = timedelta(hours=1)
#: Payments of one order, waiting or remembered.
MAX_PAYMENTS = 100

_TIMEOUT_MS = millis(TIMEOUT)


class WaitingPayment(msgspec.Struct):
    """A payment whose order has not come.  ``due_ms``: when it is given up."""

    payment: Payment
    due_ms: Millis


class Pending(msgspec.Struct):
    """What of an order id waits for its other half: the order, or payments.  ``due_ms``: when the order is given up."""

    order: Order | None = None
    due_ms: Millis = 0
    payments: list[WaitingPayment] = []


class Done(msgspec.Struct):
    """Of an order id: whether its order is done with, and which payments are."""

    order: bool = False
    payments: list[str] = []


class OrderPaymentJoin(KeyedCoProcessFunction[Order, Payment, EnrichedOrder]):
    """``time``: which clock the five minutes are counted by.

    In event time, an order and a payment match if their timestamps are less than five minutes apart, whenever they arrive.  In processing
    time, if they arrive less than five minutes apart.
    """

    pending = ValueState(Pending)
    done = ValueState(Done, ttl=Ttl(REMEMBERED, time=Ttl.Time.EVENT))

    def __init__(self, *, time: TimeDomain = TimeDomain.EVENT) -> None:
        self._by_event_time = time is TimeDomain.EVENT

    def open(self, ctx: Context) -> None:
        self._outcomes = {status: ctx.metrics.counter("orders", status.value) for status in JoinStatus}
        self._repeats = ctx.metrics.counter("repeats")
        self._waiting = ctx.metrics.gauge("orders_waiting")
        self._waiting.set(sum(1 for _ in self.pending.stored_keys()))

    def process_element1(self, event: Order, ctx: Context) -> list[EnrichedOrder] | None:
        pending, done = self.pending.value(), self.done.value()
        if (pending is not None and pending.order is not None) or (done is not None and done.order):
            self._repeats.inc()
            return None
        if pending is None:
            self._wait(Pending(event, self._set(ctx)))
            return None
        for waiting in pending.payments:
            if self._match(event, waiting.payment):
                pending.payments.remove(waiting)
                self._unset(waiting.due_ms, ctx, pending)
                self._keep(pending)
                return [self._finish(event, waiting.payment, JoinStatus.MATCHED, done)]
        pending.order, pending.due_ms = event, self._set(ctx)
        self.pending.update(pending)
        return None

    def process_element2(self, event: Payment, ctx: Context) -> list[EnrichedOrder] | None:
        pending, done = self.pending.value(), self.done.value()
        if done is not None and event.payment_id in done.payments:
            self._repeats.inc()
            return None
        if pending is None:
            self._wait(Pending(payments=[WaitingPayment(event, self._set(ctx))]))
            return None
        if any(waiting.payment.payment_id == event.payment_id for waiting in pending.payments):
            self._repeats.inc()
            return None
        order = pending.order
        if order is not None and self._match(order, event):
            due, pending.order, pending.due_ms = pending.due_ms, None, 0
            self._unset(due, ctx, pending)
            self._keep(pending)
            return [self._finish(order, event, JoinStatus.MATCHED, done)]
        if len(pending.payments) >= MAX_PAYMENTS:
            raise BadRecord(f"{MAX_PAYMENTS} payments wait for the order {ctx.key!r} already")
        pending.payments.append(WaitingPayment(event, self._set(ctx)))
        self.pending.update(pending)
        return None

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> list[EnrichedOrder] | None:
        pending = self.pending.value()
        if pending is None:
            return None
        given_up = []
        if pending.order is not None and pending.due_ms <= timestamp_ms:
            given_up.append(self._finish(pending.order, None, JoinStatus.PAYMENT_TIMEOUT, self.done.value()))
            pending.order, pending.due_ms = None, 0
        for waiting in [one for one in pending.payments if one.due_ms <= timestamp_ms]:
            given_up.append(self._finish(None, waiting.payment, JoinStatus.ORDER_NOT_FOUND, self.done.value()))
            pending.payments.remove(waiting)
        self._keep(pending)
        return given_up

    def _match(self, order: Order, payment: Payment) -> bool:
        return not self._by_event_time or abs(order.timestamp - payment.timestamp) < _TIMEOUT_MS

    def _finish(
        self, order: Order | None, payment: Payment | None, status: JoinStatus, done: Done | None
    ) -> EnrichedOrder:
        done = done or Done()
        if order is not None:
            done.order = True
        if payment is not None:
            done.payments = [*done.payments, payment.payment_id][-MAX_PAYMENTS:]
        self.done.update(done)
        self._outcomes[status].inc()
        return EnrichedOrder(order, payment, status)

    def _wait(self, pending: Pending) -> None:
        """The first of an order id is there."""
        self.pending.update(pending)
        self._waiting.set(self._waiting.value + 1)

    def _keep(self, pending: Pending) -> None:
        """Something of an order id is done with."""
        if pending.order is None and not pending.payments:
            self.pending.clear()
            self._waiting.set(self._waiting.value - 1)
        else:
            self.pending.update(pending)

    # -- timers: one per time at which something of the order id is due

    def _set(self, ctx: Context) -> Millis:
        if self._by_event_time:
            due = ctx.timestamp_ms + _TIMEOUT_MS
            ctx.timers.register_event_time(due)
        else:
            due = ctx.processing_time_ms + _TIMEOUT_MS
            ctx.timers.register_processing_time(due)
        return due

    def _unset(self, due_ms: Millis, ctx: Context, pending: Pending) -> None:
        """Delete the timer, unless something that still waits of the order id is due then, too."""
        if (pending.order is not None and pending.due_ms == due_ms) or any(
            waiting.due_ms == due_ms for waiting in pending.payments
        ):
            return
        if self._by_event_time:
            ctx.timers.delete_event_time(due_ms)
        else:
            ctx.timers.delete_processing_time(due_ms)
