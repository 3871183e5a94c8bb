"""Timers: when they fire, for whom, and what a restart finds of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import Context, KeyedProcessFunction, TimeDomain
from agents.operator.driver import OperatorTask
from agents.operator.spec import Source
from agents.operator.timers import TimerQueue
from agents.testing import HarnessRecord, OperatorHarness
from models.errors import BadRecord, StateError
from tables import ValueState
from tables.changelog import Marker, marker_row
from tables.state import KeyContext
from tables.store import PartitionStore


class Event(msgspec.Struct):
    user: str
    timestamp: int
    at: int = 0
    action: str = "event"


class Alarm(KeyedProcessFunction[Event, Any]):
    """Sets or deletes the timer that the event asks for, and says what fires."""

    count = ValueState(int)

    def process_element(self, event: Event, ctx: Context) -> Iterator[Any]:
        timers = ctx.timers
        if event.action == "event":
            timers.register_event_time(event.at)
        elif event.action == "delete":
            timers.delete_event_time(event.at)
        elif event.action == "processing":
            timers.register_processing_time(event.at)
        elif event.action == "delete-processing":
            timers.delete_processing_time(event.at)
        self.count.update((self.count.value() or 0) + 1)
        yield event.timestamp

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield ctx.current_key, str(ctx.time_domain), timestamp_ms, self.count.value()
        self.count.clear()


def harness(function: KeyedProcessFunction[Any, Any] | None = None, **options: Any) -> OperatorHarness:
    return OperatorHarness(function or Alarm(), key=lambda e: e.user, timestamp=lambda e: e.timestamp, **options)


def fired(h: OperatorHarness) -> list[Any]:
    return [out for out in h.outputs if isinstance(out, tuple)]


def test_a_timer_fires_when_the_watermark_reaches_it_and_not_a_millisecond_earlier() -> None:
    h = harness()
    h.process(Event("u", 1000, 5000))
    h.watermark(4999)
    assert fired(h) == []
    h.watermark(5000)
    assert fired(h) == [("u", "event", 5000, 1)]


def test_a_timer_fires_before_the_record_that_makes_it_due() -> None:
    h = harness(out_of_orderness=timedelta(0))
    h.process(Event("u", 1000, 2000))
    h.process(Event("v", 2000, 0, "none"))
    assert h.outputs == [1000, ("u", "event", 2000, 1), 2000]


def test_timers_fire_in_the_order_of_time_whatever_the_order_of_setting() -> None:
    h = harness()
    for at in (30, 10, 20, 5):
        h.process(Event(f"u{at}", 1, at))
    h.watermark(100)
    assert [out[2] for out in fired(h)] == [5, 10, 20, 30]


def test_setting_a_timer_twice_is_setting_it_once() -> None:
    h = harness()
    for _ in range(3):
        h.process(Event("u", 1, 10))
    assert h.timers("u") == [(TimeDomain.EVENT, 10)]
    h.watermark(10)
    assert len(fired(h)) == 1


def test_setting_a_timer_that_is_a_row_already_adds_no_row() -> None:
    h = harness()
    h.process(Event("u", 1, 10))
    before = len(h.snapshot().rows)
    h.process(Event("u", 1, 10))
    rows = h.snapshot().rows[before:]
    assert not [key for key, _ in rows if key.startswith(b"timers/")]


def test_a_timer_that_is_a_row_fires_once_though_it_is_set_again_beside_a_new_one_of_another_key() -> None:
    h = harness()
    h.process(Event("u", 1, 10))
    h.snapshot()
    h.process(Event("v", 1, 10))
    h.process(Event("u", 1, 10))
    h.watermark(10)
    assert sorted(out[0] for out in fired(h)) == ["u", "v"]


def test_a_timer_at_a_float_is_refused_also_where_another_key_has_one_at_that_time() -> None:
    h = harness()
    h.process(Event("u", 0, 100))
    h.snapshot()
    with pytest.raises(BadRecord, match=r"a timer at 100\.0"):
        h.process(Event("v", 0, 100.0))  # type: ignore[arg-type]  # a mistake
    h.snapshot()
    assert h.timers("v") == []


def test_a_deleted_timer_does_not_fire() -> None:
    h = harness()
    h.process(Event("u", 1, 10))
    h.process(Event("u", 1, 10, "delete"))
    h.watermark(100)
    assert fired(h) == []


def test_deleting_takes_the_current_keys_timer_only() -> None:
    h = harness()
    h.process(Event("u", 1, 10))
    h.process(Event("v", 1, 10))
    h.process(Event("v", 1, 10, "delete"))
    h.watermark(100)
    assert [out[0] for out in fired(h)] == ["u"]


def test_deleting_a_timer_that_is_not_there_does_nothing() -> None:
    h = harness()
    h.process(Event("u", 1, 10, "delete"))
    assert h.timers("u") == []


def test_a_timer_set_for_a_time_that_has_passed_fires_right_after_the_call_that_set_it() -> None:
    h = harness()
    h.watermark(1000)
    h.process(Event("u", 500, 700))
    assert h.outputs == [500, ("u", "event", 700, 1)]


def test_a_timer_set_for_a_time_of_the_clock_that_has_passed_fires_without_waiting_for_the_clock() -> None:
    h = harness()
    now = h.processing_time_ms
    h.process(Event("u", 500, now, "processing"))
    assert h.outputs == [500, ("u", "processing", now, 1)]


def test_a_timer_set_within_on_timer_for_a_due_time_fires_in_the_same_round_and_in_order() -> None:
    class Chain(Alarm):
        def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
            if timestamp_ms < 30:
                ctx.timers.register_event_time(timestamp_ms + 10)
            yield ctx.key, timestamp_ms

    h = harness(Chain())
    h.process(Event("u", 1, 10))
    h.process(Event("v", 1, 25))
    h.watermark(100)
    assert fired(h) == [("u", 10), ("u", 20), ("v", 25), ("u", 30), ("v", 35)]


def test_state_is_that_of_the_timers_key() -> None:
    h = harness()
    h.process(Event("u", 1, 10))
    h.process(Event("v", 1, 20))
    h.process(Event("v", 1, 20))
    h.watermark(10)
    assert h.state("count", "u") is None
    assert h.state("count", "v") == 2


def test_processing_time_timers_follow_the_wall_clock_without_any_record() -> None:
    h = harness()
    start = h.processing_time_ms
    h.process(Event("u", 1, start + 60_000, "processing"))
    h.advance_processing_time(timedelta(seconds=59))
    assert fired(h) == []
    h.advance_processing_time(timedelta(seconds=1))
    assert fired(h) == [("u", "processing", start + 60_000, 1)]


def test_processing_time_stands_at_the_timers_own_time_when_it_fires() -> None:
    class Now(Alarm):
        def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
            yield timestamp_ms, ctx.processing_time_ms

    h = harness(Now())
    start = h.processing_time_ms
    for after in (3000, 1000):
        h.process(Event("u", 1, start + after, "processing"))
    h.advance_processing_time(timedelta(minutes=1))
    assert fired(h) == [(start + 1000, start + 1000), (start + 3000, start + 3000)]


def test_a_deleted_processing_time_timer_does_not_fire() -> None:
    h = harness()
    at = h.processing_time_ms + 10
    h.process(Event("u", 1, at, "processing"))
    h.process(Event("u", 1, at, "delete-processing"))
    h.advance_processing_time(timedelta(seconds=1))
    assert fired(h) == []


def test_the_two_domains_do_not_mix() -> None:
    h = harness()
    at = h.processing_time_ms + 10
    h.process(Event("u", 1, at, "processing"))
    h.process(Event("u", 1, at, "event"))
    assert h.timers("u") == [(TimeDomain.EVENT, at), (TimeDomain.PROCESSING, at)]
    h.watermark(at)
    assert [out[1] for out in fired(h)] == ["event"]
    h.advance_processing_time(timedelta(seconds=1))
    assert [out[1] for out in fired(h)] == ["event", "processing"]


def test_pending_timers_survive_a_restart_and_fired_and_deleted_ones_stay_gone() -> None:
    h = harness()
    at = h.processing_time_ms + 5000
    h.process(Event("fired", 1, 10))
    h.process(Event("deleted", 1, 50))
    h.process(Event("kept", 1, 50))
    h.process(Event("kept", 1, at, "processing"))
    h.snapshot()
    h.watermark(10)
    h.process(Event("deleted", 1, 50, "delete"))
    again = OperatorHarness.restore(Alarm(), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    assert again.timers("fired") == again.timers("deleted") == []
    assert again.timers("kept") == [(TimeDomain.EVENT, 50), (TimeDomain.PROCESSING, at)]
    again.watermark(100)
    again.advance_processing_time(timedelta(seconds=10))
    assert [out[:3] for out in fired(again)] == [("kept", "event", 50), ("kept", "processing", at)]


def test_a_timer_that_is_set_and_fires_between_two_freezes_never_reaches_the_changelog() -> None:
    h = harness(out_of_orderness=timedelta(0))
    h.process(Event("u", 1, 10))
    h.process(Event("u", 20, 0, "none"))
    assert not [key for key, _ in h.snapshot().rows if key.startswith(b"timers/")]


def test_a_timer_that_fired_and_was_set_again_is_a_row() -> None:
    h = harness()
    h.process(Event("u", 1, 10))
    h.snapshot()
    h.watermark(10)
    h.process(Event("u", 1, 10, "delete"))
    h.process(Event("u", 1, 90))
    again = OperatorHarness.restore(Alarm(), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    assert again.timers("u") == [(TimeDomain.EVENT, 90)]


def test_after_a_crash_timers_due_by_the_restored_watermark_fire_before_the_next_record() -> None:
    h = harness(out_of_orderness=timedelta(0))
    h.process(Event("u", 1000, 2000))
    rows = h.snapshot().rows
    marker = [(key, value) for key, value in rows if key.startswith(b"\x00marker")][-1]
    # A part that was cut between two slices: the watermark is past the timer, the timer is still there.
    cut = (*rows, marker_row("harness", Marker(1, 5000)))
    assert marker[0] == cut[-1][0]
    again = OperatorHarness.restore(
        Alarm(),
        h.snapshot()._replace(rows=cut),
        key=lambda e: e.user,
        timestamp=lambda e: e.timestamp,
        out_of_orderness=timedelta(0),
    )
    again.process(Event("v", 5000, 0, "none"))
    assert again.outputs == [("u", "event", 2000, 1), 5000]


def test_a_function_without_on_timer_that_sets_one_is_told_so() -> None:
    class Forgetful(KeyedProcessFunction[Event, Any]):
        def process_element(self, event: Event, ctx: Context) -> None:
            ctx.timers.register_event_time(event.timestamp + 1)

    with pytest.raises(StateError, match="Forgetful uses timers but has no on_timer"):
        harness(Forgetful()).process(Event("u", 1))


def test_an_exception_in_on_timer_spends_the_timer_and_is_counted() -> None:
    class Broken(Alarm):
        def on_timer(self, timestamp_ms: int, ctx: Context) -> None:  # type: ignore[override]
            raise ValueError("broken")

    h = harness(Broken())
    h.process(Event("u", 1, 10))
    with pytest.raises(ValueError, match="broken"):
        h.watermark(10)
    assert h.timers("u") == []
    assert h.counters()["timer_errors", ""] == 1


def test_session_like_deleting_and_setting_does_not_grow_the_queue() -> None:
    context = KeyContext()
    context.key = "u"
    queue = TimerQueue(TimeDomain.EVENT, context, PartitionStore().rows("timers/event"))
    for at in range(100_000):
        queue.register(at + 1000)
        if at:
            queue.delete(at + 999)
    assert len(queue) == 1
    assert len(queue._heap) < 5000
    assert queue.due == 100_999


class Tick:
    """A stopwatch that says a little more at every look."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def sliced(step: float, store: PartitionStore, keys: int) -> tuple[OperatorTask, list[HarnessRecord]]:
    source = Source(
        topic="t",
        decode=msgspec.json.Decoder(Event).decode,
        key=lambda e: e.user,
        timestamp=lambda e: e.timestamp,
        out_of_orderness=timedelta(0),
    )
    task = OperatorTask(Alarm(), source, store, stopwatch=Tick(step), slice_seconds=0.02)
    events = [Event(f"u{n}", n // 10, 50_000) for n in range(keys)]
    events += [Event("last", 50_000, 0, "none"), Event("last", 50_001, 0, "none")]
    return task, [HarnessRecord(n, 0, e.user.encode(), msgspec.json.encode(e)) for n, e in enumerate(events)]


def test_many_timers_due_at_one_instant_fire_in_slices_with_the_record_in_hand_held_back() -> None:
    task, records = sliced(0.015, PartitionStore(), 5000)
    more = task.run(records, 0)
    slices = 0
    while more:
        slices += 1
        # The marker stands before the record that made the timers due.
        assert task.next_offset == 5000
        more = task.resume()
    assert slices >= 4
    assert task.next_offset == 5002
    outs = [msgspec.json.decode(value) for _, value in task.outputs]
    assert outs[-2:] == [50_000, 50_001]
    assert sorted(out[0] for out in outs if isinstance(out, list)) == sorted(f"u{n}" for n in range(5000))


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_a_crash_between_two_slices_fires_every_timer_exactly_once(crash_at: int) -> None:
    def apply(task: OperatorTask, store: PartitionStore) -> None:
        rows = [*task.freeze(), *task.markers()]
        store.apply([HarnessRecord(i, 0, key, value) for i, (key, value) in enumerate(rows)], 0)

    log, store = PartitionStore(), PartitionStore()
    task, records = sliced(0.015, store, 5000)
    committed: list[bytes] = []
    more = task.run(records, 0)
    for _ in range(crash_at):
        apply(task, log)
        committed += [value for _, value in task.outputs]
        task.outputs.clear()
        if not more:
            break
        more = task.resume()
    again, _ = sliced(0.015, log, 0)  # what was not committed is lost
    more = again.run(records[again.next_offset :], 0)
    while more:
        more = again.resume()
    committed += [value for _, value in again.outputs]
    outs = [msgspec.json.decode(value) for value in committed]
    names = [out[0] for out in outs if isinstance(out, list)]
    assert len(names) == len(set(names)) == 5000
    assert [out for out in outs if isinstance(out, int)] == [n // 10 for n in range(5000)] + [50_000, 50_001]
