"""Records of the orders job: ``orders``, ``payments`` and ``enriched-orders``."""

from __future__ import annotations

import enum

import msgspec

from models.transactions import Identifier, Timestamp


class Order(msgspec.Struct, frozen=True, gc=False):
    """A user ordered something.  ``amount`` is finite; ``timestamp`` is event time."""

    order_id: Identifier
    user_id: Identifier
    amount: float
    timestamp: Timestamp


class Payment(msgspec.Struct, frozen=True, gc=False):
    """Somebody paid for an order."""

    payment_id: Identifier
    order_id: Identifier
    amount: float
    timestamp: Timestamp


class JoinStatus(enum.Enum):
    """How the wait for the other half ended."""

    MATCHED = "MATCHED"
    PAYMENT_TIMEOUT = "PAYMENT_TIMEOUT"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"


class EnrichedOrder(msgspec.Struct, frozen=True, gc=False):
    """An order with its payment, or one of them whose other half did not come in time (then that one is ``None``)."""

    order: Order | None
    payment: Payment | None
    status: JoinStatus
