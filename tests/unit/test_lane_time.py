"""Time in a lane: timers without traffic, slices that give way to the loop, idle partitions, late records, calls in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.lane import Lane, LaneOptions
from agents.operator import (
    AsyncFunction,
    Context,
    KeyedProcessFunction,
    OperatorSpec,
    SessionWindow,
    TumblingWindow,
    keyed_source,
)
from agents.testing import HarnessRecord, JobHarness
from agents.transport import Batch, SealedPart
from models.errors import StateError
from models.time import ManualClock
from tables import ListState, Ttl, ValueState
from tables.log import TopicPartition
from tables.store import PartitionStore
from tests.unit.test_lane import HeldSink


class Event(msgspec.Struct):
    user: str
    timestamp: int
    wake: int = 0


class Sleeper(KeyedProcessFunction[Event, Any]):
    def process_element(self, event: Event, ctx: Context) -> None:
        if event.wake:
            ctx.timers.register_processing_time(event.wake)
        else:
            ctx.timers.register_event_time(50_000)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield ctx.key, timestamp_ms


def spec(function: Callable[[], Any], **options: Any) -> OperatorSpec:
    source = keyed_source("numbers", msgspec.json.Decoder(Event).decode, "user", **options)
    return OperatorSpec(uid="op", name="Op", job="test", function=function, source=source, output="sums")


class Bench:
    """A lane on a real loop, partitions opened by the test."""

    def __init__(self, operator: OperatorSpec, *, tick: timedelta | None = None, **options: Any) -> None:
        self.sink = HeldSink()
        self.sink.counts["late-events"] = 4
        self.fatal: list[BaseException] = []
        self.clock = ManualClock(1000)
        self.lane = Lane(
            operator,
            LaneOptions(
                app_id="app",
                app_version="1",
                commit_interval=timedelta(milliseconds=1),
                max_drift=timedelta(days=10_000),
                clock=self.clock,
                tick=tick,
                **options,
            ),
            lambda: self.sink,
            fatal=lambda exc, where: self.fatal.append(exc),
            current_epoch=lambda: 0,
        )

    async def give(self, *events: Event, first: int = 0, partition: int = 0) -> None:
        records = [
            HarnessRecord(first + i, e.timestamp, e.user.encode(), msgspec.json.encode(e)) for i, e in enumerate(events)
        ]
        await self.lane.process(Batch(TopicPartition("numbers", partition), records, first + len(events), 0))

    def restored(self, partition: int = 0) -> PartitionStore:
        store = PartitionStore()
        rows = [row for part in self.sink.written if part.source.partition == partition for row in part.rows]
        store.apply([HarnessRecord(i, 0, key, value) for i, (key, value) in enumerate(rows)], len(rows))
        return store

    def emitted(self) -> list[Any]:
        return [
            msgspec.json.decode(value or b"")
            for part in self.sink.written
            for tp, outs in part.outputs.items()
            for _, value, _ in outs
            if tp.topic == "sums"
        ]

    async def close(self) -> None:
        for partition in list(self.lane.partitions):
            await self.lane.close(partition)


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


async def test_processing_time_timers_fire_without_traffic() -> None:
    bench = Bench(spec(Sleeper), tick=timedelta(milliseconds=5))
    bench.lane.open(0, PartitionStore())
    await bench.give(Event("u", 1, wake=61_000))
    await until(lambda: bench.sink.written)
    bench.clock.advance(timedelta(minutes=1))
    await until(bench.emitted)
    assert bench.emitted() == [["u", 61_000]]
    assert bench.lane.offsets() == {TopicPartition("numbers", 0): 1}
    await bench.close()


async def test_a_tick_with_nothing_to_do_writes_nothing() -> None:
    bench = Bench(spec(Sleeper))
    bench.lane.open(0, PartitionStore())
    await bench.give(Event("u", 1, wake=61_000))
    await bench.lane.drain(timedelta(seconds=5))
    for _ in range(10):
        await bench.lane.tick()
        await bench.lane.drain(timedelta(seconds=5))
    assert len(bench.sink.written) == 1
    await bench.close()


class Forgetful(KeyedProcessFunction[Event, Any]):
    last = ValueState(int, ttl=Ttl(timedelta(minutes=1)))

    def process_element(self, event: Event, ctx: Context) -> None:
        self.last.update(event.timestamp)


async def test_ticks_clean_up_expired_state_and_write_only_when_something_expired() -> None:
    bench = Bench(spec(Forgetful))
    bench.lane.open(0, PartitionStore())
    await bench.give(Event("u", 1))
    await bench.lane.drain(timedelta(seconds=5))
    for _ in range(5):
        await bench.lane.tick()
        await bench.lane.drain(timedelta(seconds=5))
    assert len(bench.sink.written) == 1
    for _ in range(30):
        bench.clock.advance(timedelta(seconds=10))
        await bench.lane.tick()
        await bench.lane.drain(timedelta(seconds=5))
    assert len(bench.sink.written) == 2
    assert bench.restored().rows("last").whole == {}
    await bench.close()


async def test_a_part_of_fired_timers_only_has_the_same_offset_and_their_tombstones() -> None:
    bench = Bench(spec(Sleeper))
    bench.lane.open(0, PartitionStore())
    await bench.give(Event("u", 1, wake=61_000))
    await bench.lane.drain(timedelta(seconds=5))
    bench.clock.advance(timedelta(minutes=1))
    await bench.lane.tick()
    await bench.lane.drain(timedelta(seconds=5))
    first, second = bench.sink.written
    assert second.next_offset == first.next_offset == 1
    assert [key for key, value in second.rows if value is None] == [
        key for key, _ in first.rows if key.startswith(b"timers/processing")
    ]
    await bench.close()


class Stalls:
    """The longest time that the event loop was held."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_many_timers_of_one_instant_are_many_parts_and_the_record_that_made_them_due_comes_last() -> None:
    bench = Bench(spec(Sleeper, out_of_orderness=timedelta(0)), timer_slice=timedelta(milliseconds=2))
    bench.lane.open(0, PartitionStore())
    count = 20_000
    await bench.give(*(Event(f"u{n}", 1) for n in range(count)))
    await bench.lane.drain(timedelta(seconds=5))
    before = len(bench.sink.written)
    await bench.give(Event("last", 50_000), first=count)
    await bench.lane.drain(timedelta(seconds=5))
    parts = bench.sink.written[before:]
    assert len(parts) > 3
    assert [part.next_offset for part in parts[:-1]] == [count] * (len(parts) - 1)
    assert parts[-1].next_offset == count + 1
    assert (
        len({key for key, _ in bench.emitted()}) == len(bench.emitted()) == count + 1
    )  # its own timer was due at once
    assert bench.restored().rows("timers/event").parts == {}
    await bench.close()


async def test_while_timers_fire_in_slices_the_loop_goes_on_and_a_revoked_partition_is_let_go() -> None:
    bench = Bench(spec(Sleeper, out_of_orderness=timedelta(0)), timer_slice=timedelta(milliseconds=2))
    bench.lane.open(0, PartitionStore())
    count = 20_000
    await bench.give(*(Event(f"u{n}", 1) for n in range(count)))
    await bench.lane.drain(timedelta(seconds=5))
    giving = asyncio.ensure_future(bench.give(Event("last", 50_000), first=count))
    await until(lambda: len(bench.emitted()) > 0)
    revoked: Any = bench.lane.partitions[0].task
    by_then = revoked.fired
    await bench.lane.close(0)
    await asyncio.wait_for(giving, 5)
    assert revoked.fired == by_then  # what is left is its successor's, and the loop's time somebody else's
    fired = len(bench.emitted())
    assert 0 < fired < count
    # The successor finds exactly the timers that have not fired, and the record in hand still to come.
    bench.lane.open(0, bench.restored())
    assert bench.lane.offsets() == {TopicPartition("numbers", 0): count}
    await bench.give(Event("last", 50_000), first=count)
    await bench.lane.drain(timedelta(seconds=5))
    assert len({key for key, _ in bench.emitted()}) == len(bench.emitted()) == count + 1
    await bench.close()


async def test_a_million_timers_due_at_one_instant_do_not_hold_the_loop_for_100_ms() -> None:
    bench = Bench(spec(Sleeper, out_of_orderness=timedelta(0)))
    bench.lane.open(0, PartitionStore())
    opened = bench.lane.partitions[0]
    context, timers = opened.task.context, opened.task.timers  # type: ignore[union-attr]
    count = 1_000_000
    for n in range(count):
        context.key = str(n)
        timers.register_event_time(50_000)  # type: ignore[union-attr]
    opened.task.freeze()
    emitted = 0

    async def write(part: SealedPart) -> int:
        nonlocal emitted
        emitted += sum(len(outs) for outs in part.outputs.values())
        return 0

    bench.sink.write = write  # type: ignore[method-assign]
    stalls = Stalls()
    await asyncio.sleep(0)  # it looks at the clock from here on
    await bench.give(Event("last", 50_000))
    await bench.lane.drain(timedelta(seconds=60))
    await stalls.stop()
    assert emitted == count + 1
    # The rule is 100 ms on a core of its own; here two cores may be shared with a whole test run.
    assert stalls.longest < 0.3
    await bench.close()


async def test_a_quiet_partition_follows_the_furthest_other_one_unless_it_has_records_waiting() -> None:
    def windows() -> Any:
        return TumblingWindow(timedelta(seconds=10)).process(lambda key, window, events: len(events), of=Event)

    waiting = {TopicPartition("numbers", 0): True}
    bench = Bench(spec(windows, out_of_orderness=timedelta(0), idle_after=timedelta(milliseconds=50)))
    bench.lane.context.waiting = lambda tp, offset: waiting.get(tp, False)
    bench.lane.open(0, PartitionStore())
    bench.lane.open(1, PartitionStore())
    await bench.give(Event("u", 5_000), partition=0)
    await bench.give(Event("v", 700_000), partition=1)
    await asyncio.sleep(0.06)
    await bench.lane.tick()
    assert bench.lane.watermarks()[0] == 5_000  # its records are on their way
    waiting.clear()

    async def lifted() -> bool:
        await bench.lane.tick()
        return bench.lane.watermarks()[0] >= 700_000

    deadline = time.monotonic() + 5
    while not await lifted():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await bench.lane.drain(timedelta(seconds=5))
    assert bench.emitted() == [1]
    await bench.close()


class Tagged(KeyedProcessFunction[Event, Any]):
    seen = ListState(int)

    def process_element(self, event: Event, ctx: Context) -> None:
        ctx.output("nowhere", event)


async def test_a_side_output_without_a_topic_is_an_error_that_names_it() -> None:
    bench = Bench(spec(Tagged))
    bench.lane.open(0, PartitionStore())
    with pytest.raises(StateError, match="side output 'nowhere', which has no topic"):
        await bench.give(Event("u", 1))
    await bench.close()


def test_late_records_lie_on_late_events_with_the_operator_and_both_times() -> None:
    def sessions() -> Any:
        return SessionWindow(timedelta(seconds=1)).process(lambda key, window, events: len(events), of=Event)

    with JobHarness(spec(sessions, out_of_orderness=timedelta(0))) as job:
        job.send("numbers", "u", Event("u", 100_000))
        job.send("numbers", "u", {"user": "u", "timestamp": 5, "more": "than the type knows"})
        (letter,) = job.records("late-events")
        assert letter.key == "u"
        assert letter.value == {
            "operator": "op",
            "record": {"user": "u", "timestamp": 5, "more": "than the type knows"},
            "timestamp": 5,
            "watermark": 100_000,
        }
        assert job.counters("op")["late", ""] == 1


class Slow(AsyncFunction[Event, int]):
    """Answers when the test says so."""

    gates: dict[int, asyncio.Event]

    async def open(self) -> None:
        self.gates = {}

    async def invoke(self, event: Event) -> int:
        gate = self.gates.setdefault(event.timestamp, asyncio.Event())
        await gate.wait()
        return event.timestamp


async def test_a_partition_revoked_with_calls_in_flight_forgets_them_and_its_successor_calls_again() -> None:
    function = Slow(ordered=False, timeout=None)
    bench = Bench(spec(lambda: function))
    bench.lane.open(0, PartitionStore())
    await bench.give(*(Event("u", n) for n in range(4)))
    await until(lambda: len(function.gates) == 4)
    function.gates[2].set()
    await until(lambda: bench.emitted() == [2])
    await bench.lane.drain(timedelta(seconds=5))
    assert bench.lane.offsets() == {TopicPartition("numbers", 0): 0}
    await bench.lane.close(0)
    for gate in function.gates.values():
        gate.set()  # too late: nobody listens any more
    await asyncio.sleep(0.01)
    bench.lane.open(0, bench.restored())
    await bench.give(*(Event("u", n) for n in range(4)))
    await until(lambda: len(function.gates) == 3)
    for gate in function.gates.values():
        gate.set()
    await until(lambda: len(bench.emitted()) == 4)
    assert sorted(bench.emitted()) == [0, 1, 2, 3]
    await bench.lane.drain(timedelta(seconds=5))
    assert bench.lane.offsets() == {TopicPartition("numbers", 0): 4}
    assert bench.restored().rows("async/done").whole == {}
    await bench.close()


async def test_a_revoked_partition_gives_back_the_room_of_its_calls_and_of_results_that_wait_for_them() -> None:
    function = Slow(ordered=True, capacity=2, timeout=None)
    bench = Bench(spec(lambda: function))
    bench.lane.open(0, PartitionStore())
    bench.lane.open(1, PartitionStore())
    await bench.give(Event("u", 0), Event("u", 1))
    await until(lambda: len(function.gates) == 2)
    function.gates[1].set()  # its result waits for that of 0
    await asyncio.sleep(0.01)
    await bench.lane.close(0)
    await asyncio.wait_for(bench.give(Event("v", 10), Event("v", 11), partition=1), 5)
    await until(lambda: {10, 11} <= set(function.gates))
    await bench.close()


async def test_calls_of_all_partitions_share_the_capacity_and_back_pressure_reaches_the_source() -> None:
    function = Slow(ordered=True, capacity=3, timeout=None)
    bench = Bench(spec(lambda: function))
    bench.lane.open(0, PartitionStore())
    bench.lane.open(1, PartitionStore())
    await bench.give(Event("u", 0), Event("u", 1))
    giving = asyncio.ensure_future(bench.give(Event("v", 10), Event("v", 11), partition=1))
    await until(lambda: len(function.gates) == 3)
    await asyncio.sleep(0.01)
    assert not giving.done()
    function.gates[0].set()
    await until(giving.done)
    for gate in list(function.gates.values()):
        gate.set()
    await until(lambda: len(function.gates) == 4)
    function.gates[11].set()
    await until(lambda: len(bench.emitted()) == 4)
    await bench.close()
