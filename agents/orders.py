"""The orders job: orders and payments in, joined by order id."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from agents.functions.orders import OrderPaymentJoin
from agents.operator import OperatorSpec, TimeDomain, keyed_source
from models.orders import Order, Payment
from models.topics import TopicNames

#: Orders, and payments, of a partition may come this much out of order.
DISORDER = timedelta(seconds=10)


def orders(time: TimeDomain = TimeDomain.EVENT) -> OperatorSpec:
    """The join, counting its five minutes by event time or by the clock."""
    return OperatorSpec(
        uid="orders",
        name="Orders with payments",
        job="orders",
        function=lambda: OrderPaymentJoin(time=time),
        source=keyed_source(
            TopicNames.ORDERS, msgspec.json.Decoder(Order).decode, "order_id", out_of_orderness=DISORDER
        ),
        source2=keyed_source(
            TopicNames.PAYMENTS, msgspec.json.Decoder(Payment).decode, "order_id", out_of_orderness=DISORDER
        ),
        output=TopicNames.ENRICHED_ORDERS,
    )


ORDERS = orders()
