"""Two keyed inputs: shared state, the smaller watermark, both offsets in the markers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import Context, KeyedCoProcessFunction, KeyedProcessFunction, OperatorSpec, keyed_source
from agents.operator.driver import OperatorTask
from agents.testing import Crash, HarnessRecord, JobHarness, OperatorHarness, Second
from models.errors import StateError
from tables import ValueState
from tables.store import PartitionStore


class Order(msgspec.Struct):
    order_id: str
    timestamp: int
    amount: float = 1.0


class Payment(msgspec.Struct):
    payment_id: str
    order_id: str
    timestamp: int


class Join(KeyedCoProcessFunction[Order, Payment, tuple[str, str]]):
    order = ValueState(Order)
    payment = ValueState(Payment)

    def process_element1(self, event: Order, ctx: Context) -> Iterator[tuple[str, str]]:
        self.order.update(event)
        yield from self._joined(ctx)

    def process_element2(self, event: Payment, ctx: Context) -> Iterator[tuple[str, str]]:
        self.payment.update(event)
        yield from self._joined(ctx)

    def _joined(self, ctx: Context) -> Iterator[tuple[str, str]]:
        order, payment = self.order.value(), self.payment.value()
        if order is None or payment is None:
            ctx.timers.register_event_time(ctx.timestamp_ms + 1000)
            return
        ctx.timers.delete_event_time(
            (order.timestamp if payment.timestamp == ctx.timestamp_ms else payment.timestamp) + 1000
        )
        self.order.clear()
        self.payment.clear()
        yield order.order_id, payment.payment_id

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[tuple[str, str]]:
        yield ctx.key, "timeout"
        self.order.clear()
        self.payment.clear()


def harness(**options: Any) -> OperatorHarness:
    return OperatorHarness(Join(), key=lambda e: e.order_id, timestamp=lambda e: e.timestamp, **options)


def test_both_inputs_share_the_state_of_a_key() -> None:
    h = harness()
    h.process1(Order("o1", 10))
    h.process2(Payment("p2", "o2", 20))
    assert h.outputs == []
    h.process2(Payment("p1", "o1", 30))
    h.process1(Order("o2", 40))
    assert h.outputs == [("o1", "p1"), ("o2", "p2")]
    assert h.timers("o1") == h.timers("o2") == []


def test_the_watermark_is_the_smaller_of_both_inputs() -> None:
    h = harness(out_of_orderness=timedelta(0))
    h.process1(Order("o1", 10_000))
    assert h.watermark_ms == -1
    h.process2(Payment("p2", "o2", 2000))
    assert h.watermark_ms == 2000
    h.process2(Payment("p3", "o3", 50_000))
    assert h.watermark_ms == 10_000
    assert h.outputs == [("o2", "timeout")]


def test_an_idle_input_does_not_hold_the_other_one_back() -> None:
    h = harness(out_of_orderness=timedelta(0), idle_after=timedelta(minutes=1))
    h.process1(Order("o1", 10_000))
    h.advance_processing_time(timedelta(seconds=50))
    h.process1(Order("o2", 30_000))
    h.advance_processing_time(
        timedelta(seconds=20)
    )  # the second input has been silent for 70 s, the first one for 20 s
    assert h.watermark_ms == 30_000
    assert h.outputs == [("o1", "timeout")]


def test_an_idle_input_that_comes_back_does_not_move_time_back() -> None:
    h = harness(out_of_orderness=timedelta(0), idle_after=timedelta(minutes=1))
    h.process1(Order("o1", 10_000))
    h.advance_processing_time(timedelta(seconds=59))
    h.process1(Order("o2", 30_000))
    h.advance_processing_time(timedelta(seconds=2))
    h.process2(Payment("p2", "o2", 5_000))
    assert h.watermark_ms == 30_000
    assert ("o2", "p2") in h.outputs


def test_both_offsets_and_both_watermarks_are_in_the_markers() -> None:
    h = harness(out_of_orderness=timedelta(0))
    for n in range(3):
        h.process1(Order(f"o{n}", 1000 + n))
    h.process2(Payment("p0", "o0", 2000))
    store = PartitionStore()
    store.apply([HarnessRecord(i, 0, key, value) for i, (key, value) in enumerate(h.snapshot().rows)], 0)
    assert store.markers["harness"] == (3, 1002)
    assert store.markers["harness2"] == (1, 2000)


def test_a_crash_anywhere_changes_nothing() -> None:
    script: list[Any] = []
    for n in range(10):
        script += [Order(f"o{n}", n * 400), Second(Payment(f"p{n - 2}", f"o{n - 2}", n * 400))]
    plain = harness(out_of_orderness=timedelta(0))
    plain.run(script)
    for at in range(len(script)):
        broken = harness(out_of_orderness=timedelta(0))
        broken.run([*script[:at], Crash(), *script[at:]], commit_every=3)
        assert broken.outputs == plain.outputs


def test_a_function_of_one_input_has_no_second_one() -> None:
    class One(KeyedProcessFunction[Order, Any]):
        def process_element(self, event: Order, ctx: Context) -> None: ...

    h = OperatorHarness(One(), key=lambda e: e.order_id, timestamp=lambda e: e.timestamp)
    with pytest.raises(StateError, match="derive it from KeyedCoProcessFunction"):
        h.process2(Payment("p", "o", 1))


def test_an_operator_with_two_inputs_needs_two_sources() -> None:
    source = keyed_source("orders", msgspec.json.Decoder(Order).decode, "order_id")
    with pytest.raises(StateError, match="give its operator a source2="):
        OperatorTask(Join(), source, PartitionStore())


SPEC = OperatorSpec(
    uid="orders",
    name="Order and payment join",
    job="orders",
    function=Join,
    source=keyed_source("orders", msgspec.json.Decoder(Order).decode, "order_id"),
    source2=keyed_source("payments", msgspec.json.Decoder(Payment).decode, "order_id"),
    output="enriched-orders",
)


@pytest.mark.parametrize("crash_before", [None, 1, 2, 3])
def test_in_a_job_both_topics_meet_by_key_whatever_dies(crash_before: int | None) -> None:
    with JobHarness(SPEC) as job:
        if crash_before:
            job.crash_before_commit(crash_before)
        for n in range(20):
            job.send("orders", f"o{n}", Order(f"o{n}", 1000 + n))
            job.send("payments", f"o{n}", Payment(f"p{n}", f"o{n}", 1000 + n))
        assert sorted(job.read("enriched-orders")) == sorted([f"o{n}", f"p{n}"] for n in range(20))


def test_a_bad_record_of_the_second_input_goes_to_its_own_dead_letter_topic() -> None:
    with JobHarness(SPEC) as job:
        job.send("payments", "o1", b"not json")
        job.send("payments", "o2", Payment("p", "o1", 1))
        assert job.read("orders.dlq") == []
        (first, second) = sorted(job.records("payments.dlq"), key=lambda record: str(record.key))
        assert first.value == "not json"
        assert b"key is 'o2'" in second.headers["error-message"]
