"""What somebody who knows Flink writes first works, or is refused with what to write instead; it never silently means something else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import (
    AsyncFunction,
    Context,
    FixedRetry,
    KeyedBroadcastProcessFunction,
    KeyedProcessFunction,
    OnTime,
    OutputTag,
    SessionWindow,
    Source,
    TimeDomain,
    TumblingWindow,
    Window,
    WindowAssigner,
)
from agents.testing import JobHarness, OperatorHarness
from models.errors import StateError
from tables import AggregatingState, BroadcastState, ListState, MapState, Ttl

MS = timedelta(milliseconds=1)
ALERTS = OutputTag[int]("alerts")


class Event(msgspec.Struct):
    user: str
    timestamp: int
    value: int = 1


def harness(function: Any) -> OperatorHarness:
    return OperatorHarness(function, key=lambda e: e.user, timestamp=lambda e: e.timestamp)


def restarted(h: OperatorHarness, function: Any) -> OperatorHarness:
    return OperatorHarness.restore(function, h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)


class Recent(KeyedProcessFunction[Event, None]):
    recent = ListState(int, keep_for=10 * MS)

    def process_element(self, event: Event, ctx: Context) -> None:
        self.recent.add(event.value)
        ctx.output(ALERTS, event.value)


@pytest.mark.parametrize("restart", [False, True])
def test_a_list_keeps_its_elements_by_the_time_of_their_records_where_they_have_none(restart: bool) -> None:
    h = harness(Recent())
    for value in range(60):
        h.process(Event("u", value // 3, value))
        if restart:
            h = restarted(h, Recent())
    assert h.state("recent", "u") == list(range(30, 60))


def test_a_side_output_is_asked_for_by_its_tag_or_the_tags_name() -> None:
    h = harness(Recent())
    h.process(Event("u", 1, 7))
    assert h.side_outputs(ALERTS) == h.side_outputs("alerts") == [7]


def test_choices_of_a_time_to_live_may_be_texts_and_any_other_is_refused() -> None:
    texts: dict[str, Any] = {"update": "on-read-and-write", "cleanup": "full-snapshot", "time": "event"}
    ttl = Ttl(10 * MS, visibility="return-expired-if-not-cleaned-up", **texts)  # type: ignore[arg-type]
    assert ttl == Ttl(
        10 * MS,
        Ttl.Update.ON_READ_AND_WRITE,
        Ttl.Visibility.RETURN_EXPIRED_IF_NOT_CLEANED_UP,
        Ttl.Cleanup.FULL_SNAPSHOT,
        Ttl.Time.EVENT,
    )
    other: Any = TimeDomain.EVENT
    assert Ttl(10 * MS, time=other).time is Ttl.Time.EVENT
    for option in ("update", "visibility", "cleanup", "time"):
        wrong: dict[str, Any] = {option: "nonsense"}
        with pytest.raises(StateError, match="'nonsense': use '"):
            Ttl(10 * MS, **wrong)


NUMBER: Any = 5


@pytest.mark.parametrize(
    "made",
    [
        lambda: Ttl(NUMBER),
        lambda: TumblingWindow(NUMBER),
        lambda: TumblingWindow(MS, allowed_lateness=NUMBER),
        lambda: Source(topic="t", out_of_orderness=NUMBER),
        lambda: AsyncFunction(timeout=NUMBER),
        lambda: FixedRetry(delay=NUMBER),
    ],
)
def test_a_number_is_no_length_of_time(made: Callable[[], Any]) -> None:
    with pytest.raises(StateError, match="give a timedelta"):
        made()


def test_unordered_is_the_opposite_of_ordered_and_both_must_agree() -> None:
    assert AsyncFunction().options.ordered
    assert not AsyncFunction(unordered=True).options.ordered
    with pytest.raises(StateError, match="contradict"):
        AsyncFunction(ordered=True, unordered=True)


def test_a_retry_and_a_trigger_are_instances() -> None:
    wrong: Any = OnTime
    with pytest.raises(StateError, match="give a FixedRetry"):
        AsyncFunction(retry=NUMBER)
    with pytest.raises(StateError, match="give an instance of a Trigger"):
        TumblingWindow(MS, trigger=wrong)


class Sum:
    """An aggregate by what it has, not by what it is derived from."""

    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Event, accumulator: int) -> int:
        return accumulator + value.value

    def get_result(self, accumulator: int) -> int:
        return accumulator


def test_an_aggregate_needs_its_methods_and_no_base() -> None:
    aggregate: Any = Sum()
    h = harness(TumblingWindow(10 * MS).aggregate(aggregate))
    h.process(Event("u", 1))
    h.process(Event("u", 2))
    h.end_input()
    assert h.outputs == [2]
    assert AggregatingState(aggregate).of is int
    with pytest.raises(StateError, match="needs merge"):
        SessionWindow(10 * MS).aggregate(aggregate)


class Tens(WindowAssigner):
    def __init__(self, size: int) -> None:
        self.size = size

    def assign(self, event: Any, timestamp_ms: int) -> Any:
        return [(timestamp_ms // self.size * self.size, timestamp_ms // self.size * self.size + self.size)]


def test_windows_of_ones_own_may_be_plain_pairs_and_records_keep_their_type_over_a_restart() -> None:
    def made() -> Any:
        return Tens(10).process(lambda key, window, events: (window, window.start, sum(e.value for e in events)))

    h = harness(made())
    h.process(Event("u", 12, 5))
    h = restarted(h, made())
    h.end_input()
    assert h.outputs == [(Window(10, 20), 10, 5)]


def test_a_job_of_the_application_is_run_by_its_name() -> None:
    with JobHarness("sessions") as job:
        assert job.read("session-insights") == []
    with pytest.raises(StateError, match="no job 'session'; there are fraud, "):
        JobHarness("session")


class Bounded(KeyedProcessFunction[Event, None]):
    recent = ListState(int, keep_for=10 * MS, keep_last=20)
    names = MapState(str, int)

    def process_element(self, event: Event, ctx: Context) -> None:
        self.recent.add_all([event.value, -event.value])
        self.names.put_all({"a": event.value, "b": event.timestamp})
        ctx.metrics.histogram("h").update(event.value)
        ctx.metrics.meter("m").mark_event()


def test_both_bounds_of_a_list_hold_and_several_elements_or_entries_are_added_at_once() -> None:
    h = harness(Bounded())
    for number in range(1, 40):
        h.process(Event("u", number, number))
        h = restarted(h, Bounded())
    assert h.state("recent", "u") == [sign * number for number in range(30, 40) for sign in (1, -1)]
    h.process(Event("u", 39, 40))
    assert h.state("recent", "u")[0] == 31
    h.process(Event("u", 100, 41))
    assert h.state("recent", "u") == [41, -41]
    assert h.state("names", "u") == {"a": 41, "b": 100}
    assert h.metrics.histogram("h").count == h.metrics.meter("m").value == 2


class Rules(KeyedBroadcastProcessFunction[Event, int | None, Any]):
    limits = BroadcastState(str, int)

    def process_element(self, event: Event, ctx: Context) -> Any:
        if event.value == 0:
            self.limits.clear()
        yield "a" in self.limits, self.limits.is_empty(), list(self.limits.keys()), list(self.limits.values())

    def process_broadcast_element(self, element: int | None, ctx: Context) -> None:
        if element is None:
            self.limits.clear()
        else:
            self.limits.put(ctx.key, element)


def test_broadcast_state_is_read_as_other_maps_and_cleared_on_its_own_side_only() -> None:
    h = harness(Rules())
    h.broadcast("a", 5)
    h.process(Event("u", 1))
    assert h.state("limits", "a") == 5
    with pytest.raises(StateError, match="read-only"):
        h.process(Event("u", 2, 0))
    h.broadcast("a", None)
    h.process(Event("u", 3))
    assert h.outputs == [(True, False, ["a"], [5]), (False, True, [], [])]
