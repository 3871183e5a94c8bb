"""Event time: watermarks, idleness, lateness, the guard against the future, and the order of things in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import AsyncFunction, Context, KeyedProcessFunction, SessionWindow, TumblingWindow
from agents.testing import Advance, OperatorHarness
from models.errors import BadRecord
from tables import Ttl, ValueState

BOUND = timedelta(milliseconds=100)


class Event(msgspec.Struct):
    user: str
    timestamp: int


class Watch(KeyedProcessFunction[Event, Any]):
    """Says the watermark that each record sees."""

    def process_element(self, event: Event, ctx: Context) -> Iterator[Any]:
        yield event.timestamp, ctx.watermark_ms


class Echo(Watch):
    """The same with timers, which takes the other loop."""

    def on_timer(self, timestamp_ms: int, ctx: Context) -> Iterator[Any]:
        yield "timer", timestamp_ms


def harness(function: Any = None, **options: Any) -> OperatorHarness:
    return OperatorHarness(function or Watch(), key=lambda e: e.user, timestamp=lambda e: e.timestamp, **options)


@pytest.mark.parametrize("function", [Watch, Echo])
def test_the_watermark_is_the_newest_event_time_less_the_bound_and_never_goes_back(function: Any) -> None:
    h = harness(function(), out_of_orderness=BOUND)
    for timestamp in (1000, 900, 1200, 1100):
        h.process(Event("u", timestamp))
    assert h.outputs == [(1000, 900), (900, 900), (1200, 1100), (1100, 1100)]


@pytest.mark.parametrize("function", [Watch, Echo])
def test_without_a_bound_the_watermark_moves_only_when_told_to(function: Any) -> None:
    h = harness(function())
    h.process(Event("u", 5000))
    assert h.watermark_ms == -1
    h.watermark(3000)
    h.watermark(2000)
    assert h.watermark_ms == 3000


@pytest.mark.parametrize("function", [Watch, Echo])
def test_the_watermark_survives_a_restart(function: Any) -> None:
    h = harness(function(), out_of_orderness=BOUND)
    h.process(Event("u", 1000))
    again = OperatorHarness.restore(
        function(), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp, out_of_orderness=BOUND
    )
    again.process(Event("u", 950))
    assert again.outputs == [(950, 900)]


@pytest.mark.parametrize("cuts", [[8], [4, 4], [1] * 8, [3, 1, 4]])
def test_results_do_not_depend_on_where_batches_are_cut(cuts: list[int]) -> None:
    events = [Event(f"u{n % 2}", timestamp) for n, timestamp in enumerate((0, 50, 400, 120, 800, 90, 1300, 1250))]

    def played(sizes: list[int]) -> list[Any]:
        h = harness(
            SessionWindow(timedelta(milliseconds=200)).process(
                lambda key, window, events: (key, window, events), of=Event
            ),
            out_of_orderness=BOUND,
        )
        at = 0
        for size in sizes:
            h.process_batch(events[at : at + size])
            at += size
        h.end_input()
        return h.outputs + h.late

    assert played(cuts) == played([1] * 8)


class Call(AsyncFunction[Event, int]):
    async def invoke(self, event: Event) -> int:
        return event.timestamp


@pytest.mark.parametrize("function", [Watch, Echo, Call])
def test_a_record_from_the_far_future_is_refused_and_moves_nothing(function: Any) -> None:
    h = harness(function(), out_of_orderness=BOUND, max_drift=timedelta(hours=2))
    now = h.processing_time_ms
    h.process(Event("u", now + 2 * 3600 * 1000))
    before = h.watermark_ms
    with pytest.raises(BadRecord, match="ahead of the clock"):
        h.process(Event("u", 4_070_908_800_000))  # the year 2099
    assert h.watermark_ms == before


@pytest.mark.parametrize("function", [Watch, Echo, Call])
def test_a_record_from_the_far_future_is_refused_also_where_it_would_move_nothing(function: Any) -> None:
    h = harness(function(), max_drift=timedelta(hours=2))
    h.process(Event("u", h.processing_time_ms))
    with pytest.raises(BadRecord, match="ahead of the clock"):
        h.process(Event("u", 4_070_908_800_000))


@pytest.mark.parametrize("shift_ms", [-3_600_000, 0, 3_600_000])
def test_event_time_results_do_not_depend_on_the_clock_of_the_worker(shift_ms: int) -> None:
    h = harness(
        TumblingWindow(timedelta(seconds=1)).process(lambda k, w, events: len(events), of=Event), out_of_orderness=BOUND
    )
    h.advance_processing_time(timedelta(milliseconds=3_600_000 + shift_ms))
    for n in range(100):
        h.process(Event("u", 1_700_000_000_000 + n * 37))
        h.advance_processing_time(timedelta(milliseconds=n % 7))
    h.end_input()
    assert h.outputs == [28, 27, 27, 18]


# -- lateness


def test_late_records_reach_the_function_unless_a_lateness_is_set() -> None:
    h = harness(out_of_orderness=BOUND)
    h.process(Event("u", 1000))
    h.process(Event("u", 1))
    assert h.outputs == [(1000, 900), (1, 900)]
    assert h.late == []


def test_records_older_than_the_allowed_lateness_are_late_and_the_function_does_not_see_them() -> None:
    h = harness(out_of_orderness=BOUND, allowed_lateness=timedelta(milliseconds=50))
    h.process(Event("u", 1000))
    h.process(Event("u", 850))
    h.process(Event("u", 849))
    assert [out[0] for out in h.outputs] == [1000, 850]
    assert h.side_outputs("late") == [Event("u", 849)]
    assert h.counters()["late", ""] == 1


def test_a_burst_of_late_records_of_30_days_is_counted_and_sets_no_timers() -> None:
    day = 86_400_000
    base = 1_700_000_000_000
    h = harness(
        TumblingWindow(timedelta(minutes=5)).process(lambda k, w, events: len(events), of=Event), out_of_orderness=BOUND
    )
    h.process(Event("u", base))
    for n in range(1, 31):
        h.process(Event("u", base - n * day))
    assert len(h.late) == h.counters()["late", ""] == 30
    assert len(h.timers("u")) == 1


# -- idleness


GAP = timedelta(minutes=30)
IDLE = timedelta(minutes=1)


def test_a_last_session_closes_after_its_gap_and_the_idle_time_though_nothing_more_arrives() -> None:
    h = harness(
        SessionWindow(GAP).process(lambda k, w, events: len(events), of=Event), out_of_orderness=BOUND, idle_after=IDLE
    )
    h.process(Event("u", 1_000_000))
    h.advance_processing_time(GAP + IDLE - timedelta(milliseconds=1))
    assert h.outputs == []
    h.advance_processing_time(timedelta(milliseconds=1))
    assert h.outputs == [1]


@pytest.mark.parametrize("timestamp", [0, 99, 100])
def test_a_partition_whose_records_are_all_within_the_bound_of_1970_goes_on_with_the_clock_too(timestamp: int) -> None:
    h = harness(Echo(), out_of_orderness=BOUND, idle_after=IDLE)
    h.process(Event("u", timestamp))
    h.advance_processing_time(GAP + IDLE)
    assert h.watermark_ms == timestamp + GAP // timedelta(milliseconds=1)


class Remember(KeyedProcessFunction[Event, int]):
    """Without timers, so that time alone matters to its state only."""

    seen = ValueState(int, ttl=Ttl(GAP, time=Ttl.Time.EVENT))

    def process_element(self, event: Event, ctx: Context) -> None:
        self.seen.update(event.timestamp)


def test_a_life_in_event_time_ends_in_an_idle_partition_of_a_function_without_timers() -> None:
    h = harness(Remember(), out_of_orderness=BOUND, idle_after=IDLE)
    h.process(Event("u", 1_000_000))
    h.process(Event("v", 999_990))
    h.advance_processing_time(GAP + IDLE - timedelta(milliseconds=1))
    assert h.state("seen", "u") == 1_000_000
    h.advance_processing_time(timedelta(milliseconds=1))
    assert h.state("seen", "u") is None


def test_a_refused_record_from_the_future_does_not_move_the_time_of_an_idle_partition() -> None:
    h = harness(Echo(), out_of_orderness=BOUND, idle_after=IDLE, max_drift=timedelta(hours=2))
    h.process(Event("u", 1_000_000))
    with pytest.raises(BadRecord):
        h.process(Event("u", 4_070_908_800_000))
    h.advance_processing_time(GAP + IDLE)
    assert h.watermark_ms == 1_000_000 + GAP // timedelta(milliseconds=1)


def test_without_idleness_time_stands_still_when_nothing_arrives() -> None:
    h = harness(SessionWindow(GAP).process(lambda k, w, events: len(events), of=Event), out_of_orderness=BOUND)
    h.process(Event("u", 1_000_000))
    h.advance_processing_time(timedelta(days=1))
    assert h.outputs == []


def test_a_partition_without_any_record_has_no_time_to_go_on_with() -> None:
    h = harness(Echo(), out_of_orderness=BOUND, idle_after=IDLE)
    h.advance_processing_time(timedelta(hours=1))
    assert h.watermark_ms == -1


def test_a_producer_of_current_events_that_pauses_has_no_late_records_when_it_goes_on() -> None:
    h = harness(
        SessionWindow(timedelta(minutes=5)).process(lambda k, w, events: len(events), of=Event),
        out_of_orderness=BOUND,
        idle_after=IDLE,
    )
    for _ in range(5):
        h.process(Event("u", h.processing_time_ms - 20_000))  # 20 s on its way
        h.advance_processing_time(timedelta(minutes=20))
        # As much behind what it sends next as it takes to be idle: also what is overtaken on its way is in time.
        assert h.watermark_ms == h.processing_time_ms - 20_000 - IDLE // timedelta(milliseconds=1)
    assert h.late == []
    assert h.outputs == [1] * 5


def test_a_lifted_watermark_survives_a_restart() -> None:
    def made() -> Any:
        return SessionWindow(GAP).process(lambda k, w, events: len(events), of=Event)

    h = harness(made(), out_of_orderness=BOUND, idle_after=IDLE)
    h.process(Event("u", 1_000_000))
    h.advance_processing_time(GAP + IDLE)
    again = h.crash(made())
    assert again.watermark_ms == -1  # nothing was committed
    h.snapshot()
    again = h.crash(made())
    assert again.watermark_ms == h.watermark_ms
    again.process(Event("u", 1_000_000))
    assert len(again.late) == 1


def test_time_that_passes_in_small_steps_gives_what_one_large_step_gives() -> None:
    def made() -> OperatorHarness:
        return harness(
            SessionWindow(GAP).process(lambda k, w, events: (w.end_ms, len(events)), of=Event),
            out_of_orderness=BOUND,
            idle_after=IDLE,
        )

    coarse, fine = made(), made()
    for h in (coarse, fine):
        h.process(Event("u", 1_000_000))
        h.process(Event("v", 1_000_500))
    coarse.run([Advance(timedelta(hours=1))])
    fine.run([Advance(timedelta(seconds=10))] * 360)
    assert coarse.outputs == fine.outputs == [(2_800_000, 1), (2_800_500, 1)]
