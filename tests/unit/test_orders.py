"""Orders with payments: rules by example, and everything against SQL."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.functions.orders import MAX_PAYMENTS, OrderPaymentJoin
from agents.operator import TimeDomain
from agents.testing import Crash, OperatorHarness, Second, Watermark
from models.errors import BadRecord
from models.orders import EnrichedOrder, JoinStatus, Order, Payment
from tests.support import models
from tests.support.events import MINUTE_MS, START_MS, orders_and_payments

MATCHED, TIMEOUT, NOT_FOUND = JoinStatus.MATCHED, JoinStatus.PAYMENT_TIMEOUT, JoinStatus.ORDER_NOT_FOUND
FIVE_MS = 5 * MINUTE_MS


def harness(time: TimeDomain = TimeDomain.EVENT, **options: Any) -> OperatorHarness:
    return OperatorHarness(
        OrderPaymentJoin(time=time),
        key=lambda record: record.order_id,
        timestamp=lambda record: record.timestamp,
        **options,
    )


def order(after_ms: int = 0, order_id: str = "o1") -> Order:
    return Order(order_id, "user1", 9.5, START_MS + after_ms)


def payment(after_ms: int = 0, payment_id: str = "p1", order_id: str = "o1") -> Payment:
    return Payment(payment_id, order_id, 9.5, START_MS + after_ms)


def test_an_order_and_its_payment_match_whichever_comes_first() -> None:
    for payment_first in (False, True):
        made = harness()
        (made.process2 if payment_first else made.process1)(payment() if payment_first else order())
        assert made.outputs == []
        (made.process1 if payment_first else made.process2)(order() if payment_first else payment())
        assert made.outputs == [EnrichedOrder(order(), payment(), MATCHED)]


def test_an_order_without_payment_times_out_after_five_minutes() -> None:
    made = harness()
    made.process1(order())
    made.watermark(START_MS + FIVE_MS - 1)
    assert made.outputs == []
    made.watermark(START_MS + FIVE_MS)
    assert made.outputs == [EnrichedOrder(order(), None, TIMEOUT)]


def test_a_payment_without_order_is_reported_after_five_minutes() -> None:
    made = harness()
    made.process2(payment())
    made.watermark(START_MS + FIVE_MS)
    assert made.outputs == [EnrichedOrder(None, payment(), NOT_FOUND)]


def test_a_match_deletes_the_timer_and_leaves_nothing_pending() -> None:
    made = harness()
    made.process1(order())
    assert made.timers("o1") == [(TimeDomain.EVENT, START_MS + FIVE_MS)]
    assert made.state("pending", "o1").order == order()
    made.process2(payment(1000))
    assert made.timers("o1") == []
    assert made.state("pending", "o1") is None
    made.watermark(START_MS + 10 * FIVE_MS)
    assert len(made.outputs) == 1


def test_the_timer_of_a_matched_payment_does_not_end_another_that_waits() -> None:
    made = harness()
    made.process2(payment(0, "p1"))
    made.process2(payment(0, "p2"))
    made.process1(order())
    assert made.timers("o1") == [(TimeDomain.EVENT, START_MS + FIVE_MS)]
    made.watermark(START_MS + FIVE_MS)
    assert made.outputs == [
        EnrichedOrder(order(), payment(0, "p1"), MATCHED),
        EnrichedOrder(None, payment(0, "p2"), NOT_FOUND),
    ]


def test_the_timer_of_a_matched_payment_does_not_end_a_later_one_early() -> None:
    made = harness()
    made.process2(payment(0, "p1"))
    made.process2(payment(60_000, "p2"))
    made.process1(order(30_000))
    assert made.timers("o1") == [(TimeDomain.EVENT, START_MS + 60_000 + FIVE_MS)]
    made.watermark(START_MS + 60_000 + FIVE_MS - 1)
    assert [one.status for one in made.outputs] == [MATCHED]
    made.watermark(START_MS + 60_000 + FIVE_MS)
    assert [one.status for one in made.outputs] == [MATCHED, NOT_FOUND]


def test_payments_that_wait_for_one_order_are_given_up_each_at_its_own_time() -> None:
    made = harness()
    made.process2(payment(0, "p1"))
    made.process2(payment(60_000, "p2"))
    made.watermark(START_MS + FIVE_MS)
    assert made.outputs == [EnrichedOrder(None, payment(0, "p1"), NOT_FOUND)]
    assert made.timers("o1") == [(TimeDomain.EVENT, START_MS + 60_000 + FIVE_MS)]
    made.watermark(START_MS + 60_000 + FIVE_MS)
    assert made.outputs[1:] == [EnrichedOrder(None, payment(60_000, "p2"), NOT_FOUND)]


def test_several_orders_wait_each_for_its_own_payment() -> None:
    made = harness()
    for number in range(3):
        made.process1(order(number * 1000, f"o{number}"))
    made.process2(payment(5000, "p1", "o1"))
    made.watermark(START_MS + FIVE_MS + 2000)
    assert [(one.order.order_id if one.order else "", one.status) for one in made.outputs] == [
        ("o1", MATCHED),
        ("o0", TIMEOUT),
        ("o2", TIMEOUT),
    ]


def test_repeats_change_nothing_before_and_after_the_match() -> None:
    made = harness()
    for _ in range(2):
        made.process1(order())
    for _ in range(2):
        made.process2(payment(1000))
        made.process1(order())
    made.watermark(START_MS + FIVE_MS + 1000)
    assert [one.status for one in made.outputs] == [MATCHED]


def test_repeats_change_nothing_after_a_timeout() -> None:
    made = harness()
    made.process1(order())
    made.process2(payment(0, "p9", "o9"))
    made.watermark(START_MS + FIVE_MS)
    made.process1(order())
    made.process2(payment(0, "p9", "o9"))
    made.watermark(START_MS + 3 * FIVE_MS)
    assert sorted(one.status.value for one in made.outputs) == ["ORDER_NOT_FOUND", "PAYMENT_TIMEOUT"]


def test_a_payment_five_minutes_after_its_order_is_too_late_though_nobody_has_noticed_yet() -> None:
    made = harness()
    made.process1(order())
    made.process2(payment(FIVE_MS))
    made.end_input()
    assert [one.status for one in made.outputs] == [TIMEOUT, NOT_FOUND]


def test_a_payment_just_in_time_matches() -> None:
    made = harness()
    made.process1(order())
    made.process2(payment(FIVE_MS - 1))
    assert [one.status for one in made.outputs] == [MATCHED]


def test_by_processing_time_the_clock_counts() -> None:
    made = harness(TimeDomain.PROCESSING)
    made.process1(order())
    made.process1(order(0, "o2"))
    made.watermark(START_MS + 10 * FIVE_MS)
    made.advance_processing_time(timedelta(minutes=4, seconds=59))
    made.process2(payment(3 * FIVE_MS))
    assert [one.status for one in made.outputs] == [MATCHED]
    made.advance_processing_time(timedelta(seconds=1))
    assert [(one.order.order_id if one.order else "", one.status) for one in made.outputs[1:]] == [("o2", TIMEOUT)]
    made.process2(payment(0, "p2", "o2"))
    made.advance_processing_time(timedelta(minutes=5))
    assert made.outputs[-1].status is NOT_FOUND


def test_a_flood_of_payments_for_one_order_is_refused_and_those_before_it_are_kept() -> None:
    made = harness()
    for number in range(MAX_PAYMENTS):
        made.process2(payment(0, f"p{number}"))
    with pytest.raises(BadRecord, match="100 payments wait"):
        made.process2(payment(0, "one too many"))
    made.end_input()
    assert len(made.outputs) == MAX_PAYMENTS


def test_what_is_done_is_forgotten_after_an_hour() -> None:
    made = harness()
    made.process1(order())
    made.process2(payment())
    made.watermark(START_MS + 59 * MINUTE_MS)
    assert made.state("done", "o1") is not None
    made.watermark(START_MS + 61 * MINUTE_MS)
    assert made.state("done", "o1") is None


# -- against SQL


def by_sql(records: list[Order | Payment]) -> Counter[tuple[str | None, str | None, str]]:
    orders = [msgspec.to_builtins(one) for one in records if isinstance(one, Order)]
    payments = [msgspec.to_builtins(one) for one in records if isinstance(one, Payment)]
    return models.join(orders, payments)


def by_join(made: OperatorHarness) -> Counter[tuple[str | None, str | None, str]]:
    return models.joined(msgspec.to_builtins(made.outputs))


def script(records: list[Order | Payment]) -> list[Any]:
    return [Second(one) if isinstance(one, Payment) else one for one in records]


@pytest.mark.parametrize("seed", range(10))
def test_the_join_is_that_of_sql_under_disorder_and_repeats(seed: int) -> None:
    records = orders_and_payments(seed, 300)
    made = harness(out_of_orderness=timedelta(seconds=10))
    made.run([*script(records), Watermark(1 << 60)])
    assert by_join(made) == by_sql(records)
    assert list(made.keys("pending")) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_same_comes_out_whenever_the_worker_dies(seed: int) -> None:
    records = orders_and_payments(seed, 100)
    steps: list[Any] = []
    for number, step in enumerate(script(records)):
        steps += [step, Crash()] if number % 5 == seed else [step]
    made = harness(out_of_orderness=timedelta(seconds=10))
    made.run([*steps, Watermark(1 << 60)], commit_every=7)
    assert by_join(made) == by_sql(records)
