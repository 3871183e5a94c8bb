"""Clocks that jump, keys and values that are too large, one key that is most of the load: nothing of it changes what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import Context, KeyedProcessFunction, OperatorSpec, keyed_source
from agents.operator.driver import OperatorTask
from agents.testing import HarnessRecord, JobHarness
from tables import ListState, MapState, Ttl, ValueState
from tables.store import PartitionStore

HOUR = 3_600_000
NOW = 1_700_000_000_000


class Event(msgspec.Struct):
    user_id: str
    timestamp: int
    payload: str = ""


class All(KeyedProcessFunction[Event, Any]):
    """Every kind of state and both kinds of timers."""

    count = ValueState(int, default=0)
    recent = ListState(int, keep_last=3, ttl=Ttl(timedelta(hours=1), time=Ttl.Time.EVENT))
    payloads = MapState(str, str)

    def process_element(self, event: Event, ctx: Context) -> Iterator[Any]:
        self.count.update((self.count.value() or 0) + 1)
        self.recent.add(event.timestamp)
        if event.payload:
            self.payloads.put("last", event.payload)
        ctx.timers.register_event_time(event.timestamp + 60_000)
        if self.count.value() == 1:
            ctx.timers.register_processing_time(NOW + HOUR // 2)
        yield "record", len(ctx.key), self.count.value(), list(self.recent.get())

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield str(ctx.time_domain), timestamp_ms, len(ctx.key), self.count.value(), list(self.recent.get())


SOURCE = keyed_source("events", msgspec.json.Decoder(Event).decode, "user_id", out_of_orderness=timedelta(seconds=1))
SPEC = OperatorSpec(uid="all", name="All", job="all", function=All, source=SOURCE, output="out")


def record(offset: int, event: Event) -> HarnessRecord:
    return HarnessRecord(offset, 0, event.user_id.encode(), msgspec.json.encode(event))


def run(clock: list[int]) -> list[Any]:
    """What comes out when the wall clock is so far (ms) from where it ought to be at each record, and four hours later."""
    task = OperatorTask(All(), SOURCE, PartitionStore())
    for number, shift in enumerate(clock):
        task.run([record(number, Event("u", NOW + number * 30_000))], NOW + shift)
        task.freeze()
    task.tick(NOW + 4 * HOUR)
    return [msgspec.json.decode(value) for _, value in task.outputs]


@pytest.mark.parametrize(
    "clock",
    [
        [0, -HOUR, -HOUR, 0, 0, 0],
        [0, HOUR, 0, HOUR, -HOUR, HOUR],
        [0, 3 * HOUR, 3 * HOUR, 3 * HOUR, 3 * HOUR, 3 * HOUR],
    ],
    ids=["an hour back", "to and fro", "ahead"],
)
def test_a_clock_that_steps_changes_no_result_of_event_time_and_fires_a_timer_of_its_own_once(clock: list[int]) -> None:
    steady, stepped = run([0] * 6), run(clock)
    for outputs in (steady, stepped):
        assert [out[1] for out in outputs if out[0] == "processing"] == [NOW + HOUR // 2]
    of_event_time = [[out for out in outputs if out[0] != "processing"] for outputs in (steady, stepped)]
    assert of_event_time[0] == of_event_time[1]
    assert len([out for out in of_event_time[0] if out[0] == "event"]) == 3


def send(job: JobHarness, user: str, timestamp: int, payload: str = "") -> None:
    job.send("events", user, {"user_id": user, "timestamp": timestamp, "payload": payload})


@pytest.mark.parametrize("user", ["k" * 1_000_000, "€" * 30_000, "k" * 65_535, "\0"], ids=len)
def test_a_key_of_any_size_has_state_and_timers_like_others_also_after_a_crash(user: str) -> None:
    size = len(user)
    with JobHarness(SPEC) as job:
        for number in range(2):
            send(job, user, NOW + number)
            send(job, "small", NOW + number)
        job.run()
        job.crash()
        send(job, user, NOW + 2)
        job.crash_before_commit(1)
        job.run()
        assert job.state("all", "recent", user) == [NOW, NOW + 1, NOW + 2]
        assert job.state("all", "count", "small") == 2
        job.end_input()
        fired = [out for out in job.read("out") if out[0] == "event" and out[2] == size]
        assert fired == [["event", NOW + at + 60_000, size, 3, [NOW, NOW + 1, NOW + 2]] for at in range(3)]


def test_a_value_of_20_mb_is_a_record_like_others_and_comes_back_after_a_crash() -> None:
    with JobHarness(SPEC) as job:
        send(job, "u", NOW, "x" * 20_000_000)
        send(job, "v", NOW)
        job.run()
        job.crash()
        assert len(job.state("all", "payloads", "u")["last"]) == 20_000_000
        assert sorted(len(out) for out in job.read("out")) == [4, 4]


def test_one_key_that_is_nine_tenths_of_the_load_keeps_what_it_may_and_takes_nothing_from_others() -> None:
    users = ["hot"] * 9 + ["cold"]
    with JobHarness(SPEC) as job:
        for number in range(2_000):
            send(job, users[number % 10], NOW + number)
        job.run()
        job.crash()
        assert job.state("all", "count", "hot") == 1_800
        assert job.state("all", "count", "cold") == 200
        assert len(job.state("all", "recent", "hot")) == len(job.state("all", "recent", "cold")) == 3
