"""The broadcast side: what becomes of a broadcast topic's records, in a job and on a worker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.lane import Lane, LaneOptions
from agents.operator import Context, KeyedBroadcastProcessFunction, OperatorSpec, keyed_source
from agents.testing import HarnessRecord, JobHarness
from app.broadcasts import BroadcastReader
from models.errors import BadRecord
from tables import BroadcastState


class Payment(msgspec.Struct):
    user_id: str
    amount: float
    timestamp: int = 0


class Limit(msgspec.Struct):
    amount: float


class Limits(KeyedBroadcastProcessFunction[Payment, Limit | None, Any]):
    limits = BroadcastState(str, Limit)

    def process_element(self, event: Payment, ctx: Context) -> Iterator[Any]:
        yield sorted(name for name, limit in self.limits.entries() if event.amount > limit.amount)

    def process_broadcast_element(self, element: Limit | None, ctx: Context) -> None:
        if element is None:
            self.limits.remove(ctx.key)
            return
        if element.amount < 0:
            raise ZeroDivisionError("no such limit")
        self.limits.put(ctx.key, element)


SPEC = OperatorSpec(
    uid="limits",
    name="Limits",
    job="limits",
    function=Limits,
    source=keyed_source("payments-made", msgspec.json.Decoder(Payment).decode, "user_id"),
    broadcast="limits",
    broadcast_decode=msgspec.json.Decoder(Limit).decode,
    output="exceeded",
)


def pay(job: JobHarness) -> Any:
    job.send("payments-made", "u", {"user_id": "u", "amount": 10})
    return job.read("exceeded")[-1]


def test_a_broadcast_function_gets_decoded_elements_and_none_for_what_is_deleted() -> None:
    with JobHarness(SPEC, partitions={"limits": 1}) as job:
        job.send("limits", "five", {"amount": 5})
        job.send("limits", "nine", {"amount": 9})
        assert pay(job) == ["five", "nine"]
        job.crash()
        job.send("limits", "five", None)
        assert pay(job) == ["nine"]


@pytest.mark.parametrize(("key", "value"), [("bad", b"not json"), ("bad", {"amount": -1}), (b"\xff", {"amount": 1})])
def test_a_broadcast_record_that_is_refused_or_fails_is_counted_and_the_next_one_follows(key: Any, value: Any) -> None:
    with JobHarness(SPEC, partitions={"limits": 1}) as job:
        job.send("limits", "five", {"amount": 5})
        job.send("limits", key, value)
        job.send("limits", "six", {"amount": 6})
        assert pay(job) == ["five", "six"]
        assert job.counters("limits")["broadcast_refused", ""] == 1


def test_without_a_decoder_elements_are_the_values_as_they_lie() -> None:
    class Raw(Limits):
        def process_broadcast_element(self, element: Any, ctx: Context) -> None:
            self.limits.put(ctx.key, Limit(float(element)))

    raw = OperatorSpec(
        uid="raw",
        name="Raw",
        job="raw",
        function=Raw,
        source=SPEC.source,
        broadcast="limits",
        output="exceeded",
    )
    with JobHarness(raw, partitions={"limits": 1}) as job:
        job.send("limits", "five", b"5.0")
        assert pay(job) == ["five"]


def a_lane() -> Lane:
    options = LaneOptions(app_id="a", app_version="0", commit_interval=timedelta(0), max_drift=timedelta(0))
    nothing: Any = None
    return Lane(SPEC, options, lambda: nothing, fatal=lambda error, where: None, current_epoch=lambda: 0)


async def test_a_worker_goes_on_behind_a_broadcast_record_that_its_function_fails_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lane = a_lane()
    nothing: Any = None
    reader = BroadcastReader("limits", [lane], lambda: nothing, lambda error, where: None)
    for offset, (key, value) in enumerate([(b"a", b'{"amount":-1}'), (b"b", b"{"), (b"c", b'{"amount":1}')]):
        reader._give(HarnessRecord(offset, 0, key, value))
    assert reader.refused == 2
    assert lane.broadcasts is not None
    assert list(lane.broadcasts.states["limits"]) == ["c"]
    assert "limits@0: operator limits failed" in caplog.text


async def test_the_reason_of_a_refused_record_says_what_is_wrong_with_it() -> None:
    lane = a_lane()
    assert lane.broadcasts is not None
    reason = lane.broadcasts.take(HarnessRecord(0, 0, b"a", b"{"), "limits")
    assert isinstance(reason, BadRecord)
    assert "the value is not a record of this topic" in str(reason)
