"""The test kit itself: what it shows, what it refuses, and that it forgets nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import (
    Context,
    KeyedBroadcastProcessFunction,
    KeyedProcessFunction,
    OperatorSpec,
    OutputTag,
    keyed_source,
)
from agents.operator.metrics import Meter, OperatorMetrics
from agents.testing import Broadcast, Crash, JobHarness, OperatorHarness, Watermark
from models.errors import StateError
from tables import BroadcastState, ListState, MapState, ReducingState, ValueState
from tables.state import KeyContext


class Event(msgspec.Struct):
    user: str
    timestamp: int
    n: int = 1


ODD: OutputTag[int] = OutputTag("odd")


class Sum(KeyedProcessFunction[Event, int]):
    total = ValueState(int)
    seen = ListState(int)

    def open(self, ctx: Context) -> None:
        self.events = ctx.metrics.counter("events")
        self.last = ctx.metrics.gauge("last")
        self.sizes = ctx.metrics.histogram("sizes", bounds=(1, 10))
        self.rate = ctx.metrics.meter("rate")

    def process_element(self, event: Event, ctx: Context) -> Iterator[int]:
        if event.n < 0:
            raise ValueError("a negative number")
        self.events.inc()
        self.last.set(event.n)
        self.sizes.observe(event.n)
        self.rate.mark()
        self.total.update((self.total.value() or 0) + event.n)
        self.seen.add(event.n)
        if event.n % 2:
            ctx.output(ODD, event.n)
        yield self.total.value() or 0


def harness(function: Any = None, **options: Any) -> OperatorHarness:
    return OperatorHarness(function or Sum(), key=lambda e: e.user, timestamp=lambda e: e.timestamp, **options)


def test_outputs_side_outputs_state_and_counters_are_there_to_be_looked_at() -> None:
    h = harness()
    for n in (1, 2, 3):
        h.process(Event("u", n, n))
    assert h.outputs == [1, 3, 6]
    assert h.side_outputs("odd") == [1, 3]
    assert h.side_outputs("nothing") == []
    assert h.state("total", "u") == 6
    assert h.state("total", "nobody") is None
    assert list(h.keys("seen")) == ["u"]
    assert h.counters()["events", ""] == 3


def test_an_exception_of_the_function_is_raised_where_a_worker_writes_a_dead_letter() -> None:
    h = harness()
    with pytest.raises(ValueError, match="a negative number"):
        h.process(Event("u", 1, -1))
    h.process(Event("u", 2, 5))
    assert h.outputs == [5]


def test_a_snapshot_restores_into_a_changed_function_by_state_name() -> None:
    class SumV2(KeyedProcessFunction[Event, str]):
        amount = ValueState(int, name="total")
        note = ValueState(str)

        def process_element(self, event: Event, ctx: Context) -> Iterator[str]:
            yield f"{self.amount.value()} {self.note.value()}"

    h = harness()
    h.process(Event("u", 1, 41))
    again = OperatorHarness.restore(SumV2(), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    again.process(Event("u", 2))
    assert again.outputs == ["41 None"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ValueState(int), MapState(str, int)),
        (ListState(int), MapState(str, int)),
        (MapState(str, int), ValueState(int)),
        (MapState(str, int), ReducingState(int, max)),
        (MapState(str, int), ListState(int)),
    ],
)
def test_a_state_of_another_kind_under_the_same_name_is_refused_instead_of_beginning_with_nothing(
    before: Any, after: Any
) -> None:
    def function(state: Any) -> Any:
        class Fill(KeyedProcessFunction[Event, int]):
            kept = state

            def process_element(self, event: Event, ctx: Context) -> None:
                if state.kind == "map":
                    self.kept.put("a", event.n)
                elif state.kind == "list":
                    self.kept.add(event.n)
                else:
                    self.kept.update(event.n)

        return Fill()

    h = harness(function(before))
    h.process(Event("u", 1))
    h.process(Event("v", 1))
    again = OperatorHarness.restore(
        function(before), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp
    )
    assert again.state("kept", "u") == h.state("kept", "u")
    with pytest.raises(StateError, match=f"was not written by a {after.kind} state"):
        OperatorHarness.restore(function(after), h.snapshot(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)


def test_a_whole_number_as_key_of_a_map_of_fractions_is_cleared_for_good_after_a_restart() -> None:
    class Levels(KeyedProcessFunction[Event, list[float]]):
        levels = MapState(float, int)

        def process_element(self, event: Event, ctx: Context) -> Iterator[list[float]]:
            if event.n > 0:
                self.levels.put(event.n, 1)
            else:
                self.levels.clear()
            yield list(self.levels.keys())

    h = harness(Levels())
    steps = [Event("u", 1, 5), Crash(), Event("u", 2, 7), Crash(), Event("u", 3, 0), Crash(), Event("u", 4, 8)]
    h.run(steps, commit_every=1)
    assert h.outputs == [[5], [5, 7], [], [8]]


def test_a_crash_loses_what_came_after_the_last_snapshot() -> None:
    h = harness()
    h.process(Event("u", 1, 1))
    h.snapshot()
    h.process(Event("u", 2, 2))
    again = h.crash()
    assert again.state("total", "u") == 1
    assert again.next_offset == 1


@pytest.mark.parametrize("commit_every", [1, 2, 5, 100])
def test_a_script_with_crashes_anywhere_has_the_outputs_of_one_without(commit_every: int) -> None:
    events = [Event("uv"[n % 2], n, n) for n in range(12)]
    calm = harness()
    calm.run(events)
    for at in range(len(events) + 1):
        stormy = harness()
        stormy.run([*events[:at], Crash(), Crash(), *events[at:], Crash()], commit_every=commit_every)
        assert stormy.outputs == calm.outputs
        assert stormy.side_outputs("odd") == calm.side_outputs("odd")


class Limited(KeyedBroadcastProcessFunction[Event, int, int]):
    limits = BroadcastState(str, int)

    def process_broadcast_element(self, element: int, ctx: Context) -> None:
        self.limits.put(ctx.key, element)

    def process_element(self, event: Event, ctx: Context) -> Iterator[int]:
        if event.n > (self.limits.get("limit") or 0):
            yield event.n


def test_broadcasts_survive_crashes_in_a_script() -> None:
    h = harness(Limited())
    h.run([Broadcast("limit", 5), Event("u", 1, 6), Crash(), Event("u", 2, 5), Event("u", 3, 7)], commit_every=1)
    assert h.outputs == [6, 7]


def test_writing_broadcast_state_on_the_data_side_is_an_error() -> None:
    class Wrong(Limited):
        def process_element(self, event: Event, ctx: Context) -> Iterator[int]:
            self.limits.put("limit", 1)
            yield 1

    with pytest.raises(StateError, match="read-only here"):
        harness(Wrong()).process(Event("u", 1))


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda h: h.broadcast("k", 1), "KeyedBroadcastProcessFunction"),
        (lambda h: h.process2(Event("u", 1)), "KeyedCoProcessFunction"),
        (lambda h: h.state("nothing", "u"), "there are seen, total"),
    ],
)
def test_what_a_function_does_not_have_is_said_with_what_to_do(call: Any, advice: str) -> None:
    with pytest.raises(StateError, match=advice):
        call(harness())


def test_end_input_lets_time_run_out() -> None:
    h = harness()
    h.process(Event("u", 1))
    h.run([Watermark(500)])
    assert h.watermark_ms == 500
    h.end_input()
    assert h.watermark_ms > 1 << 60


# -- metrics


def test_gauges_histograms_and_meters_say_what_they_were_told() -> None:
    h = harness()
    for n in (1, 5, 10, 11):
        h.process(Event("u", n, n))
    metrics = h.metrics
    assert metrics.gauge("last").value == 11
    sizes = metrics.histogram("sizes", bounds=(1, 10))
    assert (sizes.counts, sizes.count, sizes.total) == ([1, 2, 1], 4, 27.0)
    assert (sizes.quantile(0.25), sizes.quantile(0.75), sizes.quantile(1)) == (1, 10, float("inf"))
    with pytest.raises(StateError, match="use another name"):
        metrics.histogram("sizes", bounds=(1, 2))


def test_a_meter_counts_the_events_of_the_last_minute() -> None:
    clock = KeyContext()
    meter = Meter(clock)
    assert meter.rate == 0.0
    clock.processing_time_ms = 1_000_000
    meter.mark(50)
    assert meter.rate == 10.0  # in the first step of 5 s
    clock.processing_time_ms += 55_000
    meter.mark(10)
    assert meter.rate == 1.0
    clock.processing_time_ms += 30_000
    assert meter.rate == pytest.approx(10 / 60)
    clock.processing_time_ms += 60_000
    assert meter.rate == 0.0
    assert meter.value == 60


def test_labels_beyond_a_bound_share_one_metric() -> None:
    metrics = OperatorMetrics()
    for n in range(2000):
        metrics.counter("page", f"/{n}").inc()
    assert len(metrics.counters) == OperatorMetrics.MAX_LABELS + 1
    assert metrics.counters["page", "(other)"].value == 1000


# -- a job


SPECS = [
    OperatorSpec(
        uid="sum",
        name="Sum",
        job="test",
        function=Sum,
        source=keyed_source("user-events", msgspec.json.Decoder(Event).decode, "user"),
        output="sums",
        side_outputs={"odd": "odds"},
    ),
    OperatorSpec(
        uid="limited",
        name="Limited",
        job="test",
        function=lambda: Echo(),
        source=keyed_source("doubled", msgspec.json.Decoder(Event).decode, "user"),
        output="user-events",
    ),
]


class Echo(KeyedProcessFunction[Event, Event]):
    def process_element(self, event: Event, ctx: Context) -> Iterator[Event]:
        yield event
        yield event


def test_a_job_runs_from_topic_to_topic_with_real_serialization() -> None:
    start = time.perf_counter()
    with JobHarness(SPECS) as job:
        for n in range(200):
            job.send("doubled", f"u{n % 5}", Event(f"u{n % 5}", n, 1))
        assert len(job.read("sums")) == 400
        assert len(job.read("odds")) == 400
        assert job.state("sum", "total", "u0") == 80
        assert job.counters("sum")["events", ""] == 400
        job.send("doubled", "u0", {"user": "u0"})
        job.send("doubled", "u1", Event("u0", 1))
        job.send("doubled", None, None)
        reasons = [record.headers["error-message"].decode() for record in job.records("doubled.dlq")]
        assert len(reasons) == 3
        assert any("missing required field" in reason for reason in reasons)
        assert any("the record's key is 'u1'" in reason for reason in reasons)
        assert "the record has no value" in reasons
    assert time.perf_counter() - start < 5  # it takes well under a second; the machine may be busy


@pytest.mark.parametrize("crash_before", range(1, 9))
def test_a_worker_that_dies_before_any_commit_changes_nothing(crash_before: int) -> None:
    with JobHarness(SPECS) as job:
        job.crash_before_commit(crash_before)
        for round_ in range(3):
            for n in range(10):
                job.send("doubled", f"u{n}", Event(f"u{n}", round_))
            job.run()
        job.crash()
        assert sorted(job.read("sums")) == sorted([*range(1, 7)] * 10)


def test_operators_have_stable_names() -> None:
    with pytest.raises(StateError, match="use ASCII letters, digits and hyphens"):
        OperatorSpec(uid="sum up", name="", job="", function=Sum, source=SPECS[0].source)


class Grown(msgspec.Struct):
    events: int = 0


class InPlace(KeyedProcessFunction[Event, Grown]):
    grown = ValueState(Grown)

    def process_element(self, event: Event, ctx: Context) -> Iterator[Grown]:
        grown = self.grown.value() or Grown()
        grown.events += 1
        self.grown.update(grown)
        ctx.output("side", grown)
        yield grown


def test_outputs_stay_what_they_were_when_they_were_emitted() -> None:
    h = OperatorHarness(InPlace(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    h.process_batch([Event("u", n) for n in range(3)])
    assert h.outputs == h.side_outputs("side") == [Grown(1), Grown(2), Grown(3)]


def test_neither_harness_takes_a_time_that_is_none() -> None:
    h = harness()
    with pytest.raises(StateError, match="time does not go back"):
        h.advance_processing_time(timedelta(seconds=-1))
    for wrong in (1.5, timedelta(seconds=1), True):
        with pytest.raises(StateError, match="a watermark is a whole number"):
            h.watermark(wrong)  # type: ignore[arg-type]
    with JobHarness(SPECS) as job, pytest.raises(StateError, match="time does not go back"):
        job.advance_processing_time(timedelta(seconds=-1))


def test_a_record_for_a_topic_that_no_operator_reads_is_refused() -> None:
    with JobHarness(SPECS) as job, pytest.raises(StateError, match="no operator reads 'user-event'; they read doubled"):
        job.send("user-event", "u", {})


def test_a_clock_that_only_the_test_moves() -> None:
    h = harness()
    before = h.processing_time_ms
    h.process(Event("u", 1))
    assert h.processing_time_ms == before
    h.advance_processing_time(timedelta(seconds=3))
    assert h.processing_time_ms == before + 3000
