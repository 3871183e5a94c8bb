"""Windows: which records they hold, when their results come out, and what a restart finds of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import (
    AggregateFunction,
    Context,
    CountWindow,
    EarlyEvery,
    OnCount,
    OnTime,
    OpenWindow,
    Purging,
    SessionWindow,
    SlidingWindow,
    TimeDomain,
    Trigger,
    TriggerResult,
    TumblingWindow,
    Window,
    WindowAssigner,
)
from agents.testing import Crash, OperatorHarness, Watermark
from models.errors import BadRecord, StateError

MINUTE = 60_000
FIVE = timedelta(minutes=5)


class Event(msgspec.Struct):
    user: str
    timestamp: int
    amount: int = 1


class Total(msgspec.Struct):
    count: int = 0
    amount: int = 0


class Sum(AggregateFunction[Event, Total, int]):
    def create_accumulator(self) -> Total:
        return Total()

    def add(self, value: Event, accumulator: Total) -> Total:
        return Total(accumulator.count + 1, accumulator.amount + value.amount)

    def get_result(self, accumulator: Total) -> int:
        return accumulator.amount

    def merge(self, a: Total, b: Total) -> Total:
        return Total(a.count + b.count, a.amount + b.amount)


def named(key: str, window: Window, result: Any) -> tuple[str, int, int, Any]:
    return key, window.start_ms, window.end_ms, result


def harness(function: Any, **options: Any) -> OperatorHarness:
    return OperatorHarness(function, key=lambda e: e.user, timestamp=lambda e: e.timestamp, **options)


def test_a_tumbling_window_emits_once_when_the_watermark_reaches_its_end() -> None:
    h = harness(TumblingWindow(FIVE).aggregate(Sum(), into=named))
    h.process(Event("u", 0, 1))
    h.process(Event("u", 5 * MINUTE - 1, 2))
    h.process(Event("u", 5 * MINUTE, 4))
    h.watermark(5 * MINUTE - 1)
    assert h.outputs == []
    h.watermark(5 * MINUTE)
    assert h.outputs == [("u", 0, 5 * MINUTE, 3)]
    h.watermark(10 * MINUTE)
    assert h.outputs[1:] == [("u", 5 * MINUTE, 10 * MINUTE, 4)]


def test_without_into_the_result_itself_is_emitted() -> None:
    h = harness(TumblingWindow(FIVE).aggregate(Sum()))
    h.process(Event("u", 0, 7))
    h.end_input()
    assert h.outputs == [7]


def test_windows_are_aligned_to_1970_plus_the_offset_also_before_it() -> None:
    windows = TumblingWindow(timedelta(milliseconds=10), offset=timedelta(milliseconds=3))
    assert list(windows.assign(None, 12)) == [Window(3, 13)]
    assert list(windows.assign(None, 2)) == [Window(-7, 3)]
    assert list(windows.assign(None, -8)) == [Window(-17, -7)]


def test_a_record_is_in_size_over_slide_sliding_windows() -> None:
    windows = SlidingWindow(timedelta(milliseconds=10), timedelta(milliseconds=4))
    assert list(windows.assign(None, 9)) == [Window(8, 18), Window(4, 14), Window(0, 10)]
    assert list(windows.assign(None, 10)) == [Window(8, 18), Window(4, 14)]


def test_slides_longer_than_the_size_leave_records_out_without_calling_them_windows() -> None:
    windows = SlidingWindow(timedelta(milliseconds=3), timedelta(milliseconds=10))
    assert list(windows.assign(None, 12)) == [Window(10, 13)]
    assert list(windows.assign(None, 13)) == []


def test_a_closed_window_leaves_no_state_and_no_timer() -> None:
    h = harness(SlidingWindow(FIVE, timedelta(minutes=1)).process(lambda key, window, events: len(events), of=Event))
    for n in range(20):
        h.process(Event("u", n * 10_000))
    h.end_input()
    assert list(h.keys("panes")) == list(h.keys("elements")) == []
    assert h.timers("u") == []
    live: dict[bytes, bytes | None] = dict(h.snapshot().rows)
    assert not [key for key, value in live.items() if value is not None and not key.startswith(b"\x00")]


def test_a_late_record_within_the_allowed_lateness_emits_the_window_anew() -> None:
    h = harness(TumblingWindow(FIVE, allowed_lateness=timedelta(minutes=1)).aggregate(Sum()))
    h.process(Event("u", 0, 1))
    h.watermark(5 * MINUTE)
    h.process(Event("u", 1, 2))
    h.watermark(6 * MINUTE - 1)
    h.process(Event("u", 2, 4))
    assert h.outputs == [1, 3, 7]
    assert h.late == []


def test_a_record_beyond_the_allowed_lateness_goes_to_the_late_side_output_and_is_counted() -> None:
    h = harness(TumblingWindow(FIVE, allowed_lateness=timedelta(minutes=1)).aggregate(Sum()))
    h.process(Event("u", 0, 1))
    h.watermark(6 * MINUTE)
    late = Event("u", 1, 2)
    h.process(late)
    assert h.outputs == [1]
    assert h.side_outputs("late") == [late]
    assert h.counters()["late", ""] == 1
    assert list(h.keys("panes")) == []


def test_a_record_that_is_late_for_some_of_its_sliding_windows_counts_in_the_others() -> None:
    h = harness(SlidingWindow(timedelta(minutes=2), timedelta(minutes=1)).aggregate(Sum(), into=named))
    h.watermark(2 * MINUTE)
    h.process(Event("u", MINUTE + 1, 5))  # [0, 2) is closed, [1, 3) is open
    h.end_input()
    assert h.outputs == [("u", MINUTE, 3 * MINUTE, 5)]
    assert h.late == []


def test_reduce_combines_records_two_at_a_time() -> None:
    larger = TumblingWindow(FIVE).reduce(lambda a, b: a if a.amount >= b.amount else b)
    h = harness(larger)
    for n, amount in enumerate((3, 9, 4)):
        h.process(Event("u", n, amount))
    h.end_input()
    assert h.outputs == [Event("u", 1, 9)]


def test_process_gets_all_records_in_the_order_of_event_time() -> None:
    def both_ends(key: str, window: Window, events: list[Event], ctx: Context) -> Iterator[Any]:
        yield key, events[0].timestamp, events[-1].timestamp, ctx.watermark_ms

    h = harness(TumblingWindow(FIVE).process(both_ends, of=Event))
    for timestamp in (7, 3, 5):
        h.process(Event("u", timestamp))
    h.watermark(5 * MINUTE)
    assert h.outputs == [("u", 3, 7, 5 * MINUTE)]


@pytest.mark.parametrize(
    "made",
    [
        lambda: TumblingWindow(FIVE).aggregate(Sum()),
        lambda: TumblingWindow(FIVE).reduce(lambda a, b: Event(a.user, a.timestamp, a.amount + b.amount), of=Event),
        lambda: TumblingWindow(FIVE).process(lambda key, window, events: sum(e.amount for e in events), of=Event),
        lambda: SessionWindow(timedelta(minutes=1)).aggregate(Sum()),
        lambda: SessionWindow(timedelta(minutes=1)).process(
            lambda k, w, events: sum(e.amount for e in events), of=Event
        ),
        lambda: CountWindow(4).aggregate(Sum()),
    ],
)
def test_windows_survive_a_restart_between_every_two_steps(made: Any) -> None:
    steps: list[Any] = []
    for n in range(12):
        steps += [Event("u", n * 20_000 + (n % 3) * 70_000, n), Event("v", n * 30_000, n), Watermark(n * 25_000)]
    plain = harness(made())
    plain.run(steps)
    plain.end_input()
    broken = harness(made())
    broken.run([part for step in steps for part in (step, Crash())], commit_every=1)
    broken.end_input()
    assert broken.outputs == plain.outputs
    assert broken.late == plain.late


def test_a_reduced_value_read_back_before_its_type_is_known_becomes_an_event_again() -> None:
    made = TumblingWindow(FIVE).reduce(lambda a, b: Event(a.user, a.timestamp, a.amount + b.amount))
    h = harness(made)
    h.process(Event("u", 1, 1))
    again = OperatorHarness.restore(
        TumblingWindow(FIVE).reduce(lambda a, b: Event(a.user, a.timestamp, a.amount + b.amount)),
        h.snapshot(),
        key=lambda e: e.user,
        timestamp=lambda e: e.timestamp,
    )
    again.process(Event("u", 2, 2))
    again.end_input()
    assert again.outputs == [Event("u", 1, 3)]


# -- sessions


def sessions(**options: Any) -> OperatorHarness:
    return harness(SessionWindow(timedelta(milliseconds=10), **options).aggregate(Sum(), into=named))


def test_a_session_goes_on_while_records_come_less_than_the_gap_apart() -> None:
    h = sessions()
    for timestamp in (0, 9, 18):
        h.process(Event("u", timestamp))
    h.end_input()
    assert h.outputs == [("u", 0, 28, 3)]


def test_exactly_the_gap_apart_are_two_sessions() -> None:
    h = sessions()
    h.process(Event("u", 0))
    h.process(Event("u", 10))
    h.end_input()
    assert h.outputs == [("u", 0, 10, 1), ("u", 10, 20, 1)]


def test_a_record_in_between_makes_one_session_of_two() -> None:
    h = sessions()
    for timestamp in (0, 18, 9):
        h.process(Event("u", timestamp, timestamp + 1))
    assert h.timers("u") == [(TimeDomain.EVENT, 28)]
    h.end_input()
    assert h.outputs == [("u", 0, 28, 30)]


def test_a_late_record_moves_neither_the_end_nor_the_timer_of_its_session_back() -> None:
    h = sessions()
    h.process(Event("u", 100))
    h.process(Event("u", 95))
    assert h.timers("u") == [(TimeDomain.EVENT, 110)]
    h.end_input()
    assert h.outputs == [("u", 95, 110, 2)]


def test_a_session_still_open_takes_a_record_whose_own_window_would_be_late() -> None:
    h = sessions()
    h.process(Event("u", 100))
    h.watermark(105)
    h.process(Event("u", 93))
    h.end_input()
    assert h.outputs == [("u", 93, 110, 2)]
    assert h.late == []


def test_the_gap_may_depend_on_the_record() -> None:
    class ByAmount(SessionWindow):
        def gap_ms(self, event: Event) -> int:
            return event.amount

    h = harness(ByAmount(timedelta(milliseconds=1)).aggregate(Sum(), into=named))
    h.process(Event("u", 0, 100))
    h.process(Event("u", 99, 5))
    h.process(Event("u", 104, 1))
    h.end_input()
    assert h.outputs == [("u", 0, 104, 105), ("u", 104, 105, 1)]


def test_windows_that_merge_need_an_aggregate_that_merges() -> None:
    class NoMerge(AggregateFunction[Event, int, int]):
        def create_accumulator(self) -> int:
            return 0

        def add(self, value: Event, accumulator: int) -> int:
            return accumulator + 1

        def get_result(self, accumulator: int) -> int:
            return accumulator

    with pytest.raises(StateError, match=r"NoMerge needs merge\(first, second\)"):
        SessionWindow(FIVE).aggregate(NoMerge())
    h = harness(TumblingWindow(FIVE).aggregate(NoMerge()))
    h.process(Event("u", 1))
    h.end_input()
    assert h.outputs == [1]


# -- count windows and triggers


def test_a_count_window_emits_every_so_many_records_of_a_key() -> None:
    h = harness(CountWindow(3).aggregate(Sum()))
    for n in range(7):
        h.process(Event("u", n, n))
        h.process(Event("v", n, 100))
    assert h.outputs == [3, 300, 12, 300]
    h.end_input()
    assert len(h.outputs) == 4


def test_a_window_of_all_time_has_a_trigger_and_no_count_beside_it() -> None:
    h = harness(CountWindow(trigger=OnCount(2)).aggregate(Sum()))
    for n in range(4):
        h.process(Event("u", n))
    assert h.outputs == [2, 4]
    with pytest.raises(StateError, match="give one of them"):
        CountWindow(3, trigger=OnCount(2))
    with pytest.raises(StateError, match="a whole number of records"):
        CountWindow()


def test_a_count_window_leaves_no_state_behind_what_it_emitted() -> None:
    h = harness(CountWindow(2).process(lambda key, window, events: len(events), of=Event))
    for n in range(4):
        h.process(Event("u", n))
    assert h.outputs == [2, 2]
    assert list(h.keys("panes")) == list(h.keys("elements")) == []


def test_a_session_goes_on_where_its_trigger_emptied_it() -> None:
    h = harness(SessionWindow(FIVE, trigger=Purging(OnCount(2))).aggregate(Sum(), into=named))
    for minute in (0, 1, 2, 3, 20):
        h.process(Event("u", minute * MINUTE))
    assert h.outputs == [("u", 0, 6 * MINUTE, 2), ("u", 0, 8 * MINUTE, 2)]
    h.end_input()
    assert len(h.outputs) == 2
    assert h.timers("u") == []
    assert list(h.keys("panes")) == []


class OddGap(SessionWindow):
    def gap_ms(self, event: Event) -> int:
        return event.amount


def test_a_gap_that_is_no_time_costs_its_record_and_not_the_session_that_it_would_join() -> None:
    h = harness(OddGap(FIVE).aggregate(Sum(), into=named))
    h.process(Event("u", 0, 100))
    with pytest.raises(BadRecord, match="whole milliseconds"):
        h.process(Event("u", 50, 100.5))  # type: ignore[arg-type]  # a mistake
    h.end_input()
    assert h.outputs == [("u", 0, 100, 100)]
    assert list(h.keys("panes")) == []


def test_early_results_come_at_every_full_interval_with_news_and_the_last_one_on_time() -> None:
    h = harness(TumblingWindow(FIVE, trigger=EarlyEvery(timedelta(minutes=1))).aggregate(Sum()))
    h.process(Event("u", 1, 1))
    h.watermark(MINUTE)
    h.watermark(2 * MINUTE)  # nothing new
    h.process(Event("u", 2 * MINUTE + 1, 2))
    h.watermark(3 * MINUTE)
    h.process(Event("u", 4 * MINUTE + 1, 4))
    h.watermark(5 * MINUTE)
    assert h.outputs == [1, 3, 7]


def test_early_results_may_follow_the_wall_clock() -> None:
    trigger = EarlyEvery(timedelta(minutes=1), domain=TimeDomain.PROCESSING)
    h = harness(TumblingWindow(FIVE, trigger=trigger).aggregate(Sum()))
    h.process(Event("u", 1, 1))
    h.advance_processing_time(timedelta(minutes=1))
    assert h.outputs == [1]
    h.watermark(5 * MINUTE)
    assert h.outputs == [1, 1]
    assert h.timers("u") == []


def test_early_results_of_a_session_come_though_the_watermark_lags_behind_its_growth() -> None:
    trigger = EarlyEvery(timedelta(minutes=1))
    h = harness(SessionWindow(FIVE, trigger=trigger).aggregate(Sum()), out_of_orderness=timedelta(seconds=10))
    for second in range(0, 200, 5):
        h.process(Event("u", 1000 * second))
    # At each full minute of event time 10 s more are there already; the record that moves the watermark comes after.
    assert h.outputs == [14, 26, 38]
    h.end_input()
    assert h.outputs[3:] == [40, 40]
    assert h.timers("u") == []


def test_early_results_do_not_repeat_what_was_emitted_at_the_end_or_late() -> None:
    trigger = EarlyEvery(timedelta(minutes=1), domain=TimeDomain.PROCESSING)
    h = harness(TumblingWindow(FIVE, allowed_lateness=FIVE, trigger=trigger).aggregate(Sum()))
    h.process(Event("u", 1, 1))
    h.watermark(5 * MINUTE)
    h.advance_processing_time(FIVE)
    assert h.outputs == [1]
    h.process(Event("u", 2, 2))
    h.advance_processing_time(FIVE)
    assert h.outputs == [1, 3]


def test_the_clock_of_early_results_may_be_given_as_its_text() -> None:
    h = harness(TumblingWindow(FIVE, trigger=EarlyEvery(timedelta(minutes=1), domain="processing")).aggregate(Sum()))  # type: ignore[arg-type]  # as a user without types may
    h.process(Event("u", 1, 1))
    h.advance_processing_time(timedelta(minutes=1))
    assert h.outputs == [1]
    with pytest.raises(StateError, match="domain='wall': use 'event', 'processing'"):
        EarlyEvery(FIVE, domain="wall")  # type: ignore[arg-type]


def test_a_count_trigger_fires_without_emptying_and_purging_empties() -> None:
    keeping = harness(TumblingWindow(FIVE, trigger=OnCount(2)).aggregate(Sum()))
    purging = harness(TumblingWindow(FIVE, trigger=Purging(OnCount(2))).aggregate(Sum()))
    for n in range(4):
        keeping.process(Event("u", n))
        purging.process(Event("u", n))
    assert keeping.outputs == [2, 4]
    assert purging.outputs == [2, 2]


def test_a_purging_time_trigger_emits_only_what_came_since() -> None:
    h = harness(TumblingWindow(FIVE, trigger=Purging(OnTime()), allowed_lateness=FIVE).aggregate(Sum()))
    h.process(Event("u", 1, 1))
    h.watermark(5 * MINUTE)
    h.process(Event("u", 2, 2))
    assert h.outputs == [1, 2]


class OnAmount(Trigger):
    """Fires once the window holds enough; the amount so far is the trigger's own memory."""

    def on_element(self, window: OpenWindow) -> TriggerResult:
        window.state["records"] = window.state.get("records", 0) + 1
        return TriggerResult.FIRE_AND_PURGE if window.state["records"] % 3 == 0 else TriggerResult.CONTINUE


def test_a_trigger_of_ones_own_keeps_its_memory_across_a_restart() -> None:
    h = harness(TumblingWindow(FIVE, trigger=OnAmount()).aggregate(Sum()))
    h.run([part for n in range(7) for part in (Event("u", n, 10), Crash())], commit_every=1)
    assert h.outputs == [30, 30]


class DayParts(WindowAssigner):
    """Mornings and afternoons."""

    def assign(self, event: Any, timestamp_ms: int) -> Iterable[Window]:
        half = 12 * 60 * MINUTE
        start = timestamp_ms // half * half
        return [Window(start, start + half)]


def test_windows_of_ones_own_are_a_subclass_with_assign() -> None:
    h = harness(DayParts().aggregate(Sum(), into=named))
    half = 12 * 60 * MINUTE
    for timestamp in (0, half - 1, half):
        h.process(Event("u", timestamp))
    h.end_input()
    assert h.outputs == [("u", 0, half, 2), ("u", half, 2 * half, 1)]


class Overlapping(WindowAssigner):
    """Two windows that end at the same time."""

    def assign(self, event: Any, timestamp_ms: int) -> Iterable[Window]:
        return [Window(0, 10), Window(5, 10)] if timestamp_ms >= 5 else [Window(0, 10)]


@pytest.mark.parametrize("trigger", [OnTime(), Purging(OnTime()), EarlyEvery(timedelta(hours=1))])
@pytest.mark.parametrize("kind", ["process", "aggregate"])
def test_a_window_whose_function_fails_is_gone_and_other_windows_of_its_key_are_not_affected(
    kind: str, trigger: Trigger
) -> None:
    def emit(key: str, window: Window, what: Any) -> Any:
        if window.start_ms == 0:
            raise ValueError("not this window")
        return window.start_ms, what if isinstance(what, int) else len(what)

    windows: WindowAssigner = Overlapping(trigger=trigger)
    h = harness(windows.process(emit, of=Event) if kind == "process" else windows.aggregate(Sum(), into=emit))
    h.process(Event("u", 1))
    h.process(Event("u", 7))
    with pytest.raises(ValueError, match="not this window"):
        h.watermark(10)
    assert h.outputs == [(5, 1)]
    assert list(h.keys("panes")) == []
    assert h.timers("u") == []

    tumbling = harness(TumblingWindow(timedelta(milliseconds=10), trigger=trigger).aggregate(Sum(), into=emit))
    for timestamp in (1, 11, 21):
        tumbling.process(Event("u", timestamp))
    with pytest.raises(ValueError, match="not this window"):
        tumbling.watermark(10)
    tumbling.watermark(30)
    assert tumbling.outputs == [(10, 1), (20, 1)]


@pytest.mark.parametrize("made", [TumblingWindow, SessionWindow])
def test_a_lateness_that_a_restart_adds_or_takes_away_leaves_no_window_behind(made: Any) -> None:
    def operator(lateness: int) -> Any:
        windows = made(timedelta(milliseconds=10), allowed_lateness=timedelta(milliseconds=lateness))
        return windows.aggregate(Sum())

    for before, after in ((0, 5), (5, 0), (2, 5), (5, 2)):
        h = harness(operator(before))
        h.process(Event("u", 0, 1))
        h = OperatorHarness.restore(
            operator(after), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp
        )
        h.watermark(10)
        assert h.outputs == [1]
        h.process(Event("u", 0, 2))  # of a session that still stands it does not move the end
        if after:
            assert h.outputs == [1, 3]
        else:
            assert h.late == [Event("u", 0, 2)]
        h.watermark(20)
        assert list(h.keys("panes")) == []
        assert h.timers("u") == []


class Answers(Trigger):
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def on_element(self, window: OpenWindow) -> TriggerResult:
        return self._answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("answer", [None, True, "fire"])
def test_a_trigger_that_answers_something_else_is_told_what_to_return(answer: Any) -> None:
    h = harness(TumblingWindow(FIVE, trigger=Answers(answer)).aggregate(Sum()))
    with pytest.raises(StateError, match=r"Answers answers .*: return a TriggerResult"):
        h.process(Event("u", 1))


class Given(WindowAssigner):
    def __init__(self, windows: Any) -> None:
        self._windows = windows

    def assign(self, event: Any, timestamp_ms: int) -> Any:
        return self._windows


def test_windows_that_are_none_are_refused_with_what_to_return() -> None:
    for nothing in (Window(10, 10), Window(10, 0)):
        with pytest.raises(BadRecord, match="it has to end after its start"):
            harness(Given([nothing]).aggregate(Sum())).process(Event("u", 1))
    with pytest.raises(StateError, match=r"return a list of Window\(start_ms, end_ms\)"):
        harness(Given(Window(0, 10)).aggregate(Sum())).process(Event("u", 1))


def test_last_weeks_records_fall_into_the_windows_of_last_week() -> None:
    """Event time decides, not the clock of the machine that replays (Faust's windows expire on the wall clock)."""
    week = 7 * 24 * 60 * MINUTE
    results = []
    for ago in (0, week):
        h = harness(TumblingWindow(FIVE).aggregate(Sum(), into=named), out_of_orderness=timedelta(seconds=10))
        base = 1_700_000_000_000 // (5 * MINUTE) * 5 * MINUTE - ago
        for n in range(100):
            h.process(Event(f"u{n % 3}", base + n * 17_000))
        h.end_input()
        results.append(Counter((key, start - base, count) for key, start, _, count in h.outputs))
    assert results[0] == results[1]
