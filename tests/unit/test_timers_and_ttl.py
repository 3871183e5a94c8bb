"""What a timer finds of states that expire in event time: however far the watermark jumps, it passes through each timer on its way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import Context, KeyedProcessFunction, driver
from agents.operator.driver import OperatorTask
from agents.operator.spec import Source
from agents.testing import HarnessRecord, OperatorHarness
from tables import ListState, MapState, Ttl, ValueState
from tables.store import PartitionStore

LIFE = 100
TTL = Ttl(timedelta(milliseconds=LIFE), time=Ttl.Time.EVENT)


class Event(msgspec.Struct):
    user: str
    timestamp: int
    delays: tuple[int, ...] = ()


class Reader(KeyedProcessFunction[Event, Any]):
    """Writes each event's time to states of every kind, and says at each timer what is left of them."""

    value = ValueState(int, ttl=TTL)
    items = ListState(int, ttl=TTL)
    entries = MapState(int, int, ttl=TTL)
    written_by_timer = ValueState(int, ttl=TTL)

    def process_element(self, event: Event, ctx: Context) -> None:
        at = event.timestamp
        self.value.update(at)
        self.items.add(at)
        self.entries.put(at, at)
        for delay in event.delays:
            ctx.timers.register_event_time(at + delay)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield (
            timestamp_ms,
            ctx.watermark_ms,
            self.value.value(),
            list(self.items.get()),
            sorted(self.entries.keys()),
            self.written_by_timer.value(),
        )
        self.written_by_timer.update(timestamp_ms)


def harness() -> OperatorHarness:
    return OperatorHarness(Reader(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)


def test_a_timer_finds_what_lives_at_its_own_time_however_far_the_watermark_jumps() -> None:
    h = harness()
    h.process(Event("u", 0, (LIFE - 1, LIFE)))
    h.watermark(1_000_000)
    assert h.outputs == [
        (LIFE - 1, LIFE - 1, 0, [0], [0], None),
        (LIFE, LIFE, None, [], [], LIFE - 1),
    ]
    assert h.watermark_ms == 1_000_000
    assert h.state("written_by_timer", "u") is None


def test_what_a_timer_writes_begins_its_life_at_the_timers_time() -> None:
    h = harness()
    h.process(Event("u", 0, (10, 10 + LIFE - 1, 10 + 2 * LIFE)))
    h.watermark(5_000)
    assert [out[-1] for out in h.outputs] == [None, 10, None]


def test_a_timer_set_for_a_time_that_has_passed_does_not_take_time_back() -> None:
    h = harness()
    h.process(Event("u", 0))
    h.watermark(LIFE)
    h.process(Event("v", LIFE, (-50,)))
    assert h.outputs == [(50, LIFE, LIFE, [LIFE], [LIFE], None)]


class Passing(Reader):
    """At its timer for 10 it sets one for 5, which has passed, and one for 20, which the watermark has passed but time has not."""

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield timestamp_ms, ctx.watermark_ms
        if timestamp_ms == 10:
            ctx.timers.register_event_time(5)
            ctx.timers.register_event_time(20)


def test_timers_set_within_a_jump_fire_within_it_and_time_never_goes_back() -> None:
    h = OperatorHarness(Passing(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    h.process(Event("u", 0, (10, 30)))
    h.watermark(1_000)
    assert h.outputs == [(10, 10), (5, 10), (20, 20), (30, 30)]


class Clocks(KeyedProcessFunction[Event, Any]):
    """Its processing-time timer sets an event-time timer for a time that has passed, and that one a processing-time timer."""

    def process_element(self, event: Event, ctx: Context) -> None:
        ctx.timers.register_processing_time(ctx.processing_time_ms + 10)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield str(ctx.time_domain)
        if ctx.time_domain == "processing" and timestamp_ms % 10 == 0:
            ctx.timers.register_event_time(1)
        elif ctx.time_domain == "event":
            ctx.timers.register_processing_time(ctx.processing_time_ms - 1)


def test_a_timer_that_a_timer_of_the_other_clock_sets_for_a_time_that_has_passed_fires_at_once() -> None:
    h = OperatorHarness(Clocks(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    h.watermark(100)
    h.process(Event("u", 100))
    h.advance_processing_time(timedelta(milliseconds=10))
    assert h.outputs == ["processing", "event", "processing"]


class Tick:
    """A stopwatch by which every look is a slice."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def sliced(store: PartitionStore) -> OperatorTask:
    source = Source(
        topic="t",
        decode=msgspec.json.Decoder(Event).decode,
        key=lambda e: e.user,
        timestamp=lambda e: e.timestamp,
        out_of_orderness=timedelta(0),
    )
    return OperatorTask(Reader(), source, store, stopwatch=Tick(), slice_seconds=0.1)


@pytest.mark.parametrize("crash_at", range(1, 4))
def test_after_a_crash_between_two_slices_timers_find_what_they_would_have_found(
    crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_STRIDE", 1)
    events = [Event("u", 0, (20, 50, LIFE - 1, LIFE)), Event("u", 1_000_000, ())]
    records = [HarnessRecord(n, 0, b"u", msgspec.json.encode(event)) for n, event in enumerate(events)]
    task, rows, outputs = sliced(PartitionStore()), [], []
    more = task.run(records, 0)
    for _ in range(crash_at):
        assert more
        rows += [*task.freeze(), *task.markers()]
        outputs += task.outputs
        task.outputs.clear()
        more = task.resume()
    store = PartitionStore()  # what the last slice did is lost
    store.apply([HarnessRecord(n, 0, key, value) for n, (key, value) in enumerate(rows)], len(rows))
    again = sliced(store)
    more = again.run([record for record in records if record.offset >= again.next_offset], 0)
    while more:
        more = again.resume()
    assert [msgspec.json.decode(value) for _, value in [*outputs, *again.outputs]] == [
        [20, 20, 0, [0], [0], None],
        [50, 50, 0, [0], [0], 20],
        [LIFE - 1, LIFE - 1, 0, [0], [0], 50],
        [LIFE, LIFE, None, [], [], LIFE - 1],
    ]
    assert again.context.watermark_ms == 1_000_000
