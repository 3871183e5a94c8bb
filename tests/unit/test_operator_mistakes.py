"""Mistakes that are easily made in an operator are named where they are made, and a bad record costs itself alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import (
    AsyncFunction,
    Context,
    ExponentialRetry,
    FixedRetry,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    OperatorSpec,
    OutputTag,
    Source,
    TumblingWindow,
    WindowAssigner,
    keyed_source,
)
from agents.testing import JobHarness, OperatorHarness
from app.topology import operators
from models.errors import BadRecord, StateError
from tables import AggregateFunction, AggregatingState, BroadcastState, ListState, Ttl, ValueState


class Event(msgspec.Struct):
    user: str
    timestamp: int
    at: Any = 0


def harness(function: Any, **options: Any) -> OperatorHarness:
    return OperatorHarness(function, key=lambda e: e.user, timestamp=lambda e: e.timestamp, **options)


class Alarm(KeyedProcessFunction[Event, int]):
    def process_element(self, event: Event, ctx: Context) -> None:
        ctx.timers.register_event_time(event.at)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> list[int]:
        return [timestamp_ms]


class Sum(AggregateFunction[Event, int, int]):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Event, accumulator: int) -> int:
        return accumulator + 1

    def get_result(self, accumulator: int) -> int:
        return accumulator


@pytest.mark.parametrize("at", [5.0, 5.5, "5", None, True, 1 << 63, -(1 << 63), 10**5000], ids=lambda at: str(type(at)))
def test_what_cannot_be_a_time_costs_the_record_that_asks_for_it_and_is_no_timer(at: Any) -> None:
    h = harness(Alarm())
    with pytest.raises((BadRecord, ValueError)):
        h.process(Event("u", 1, at))
    assert h.timers("u") == []
    h.snapshot()
    h.process(Event("u", 2, 7))
    h.end_input()
    assert h.outputs == [7]


def test_in_a_job_a_record_with_a_bad_time_is_a_dead_letter_and_the_worker_goes_on() -> None:
    spec = OperatorSpec(
        uid="alarm",
        name="Alarm",
        job="alarm",
        function=Alarm,
        source=keyed_source("events", msgspec.json.Decoder(Event).decode, "user"),
        output="alarms",
    )
    with JobHarness(spec) as job:
        for at in (7, 7.5, 1e300, 8):
            job.send("events", "u", {"user": "u", "timestamp": 1, "at": at})
        job.end_input()
        assert job.read("alarms") == [7, 8]
        reasons = [letter.headers["error-message"].decode() for letter in job.records("events.dlq")]
        assert [reason.partition(":")[0] for reason in reasons] == [
            "a timer at 7.5 (float)",
            "a timer at 1e+300 (float)",
        ]


class Plain(KeyedProcessFunction[Any, int]):
    def process_element(self, event: Any, ctx: Context) -> list[int]:
        return [ctx.timestamp_ms]


class Timed(Plain):
    def on_timer(self, timestamp_ms: int, ctx: Context) -> None:
        """It has timers, so it is driven by the other loop."""


class Calling(AsyncFunction[Any, int]):
    async def invoke(self, event: Any) -> int:
        return int(event["timestamp"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"timestamp": 1}', "KeyError: 'user'"),
        (b'{"user": "u"}', "KeyError: 'timestamp'"),
        (b'{"user": {"name": 5}, "timestamp": 1}', "a key is a text"),
        (b'{"user": 5, "timestamp": 1}', r"its user is 5 \(int\): a key is a text"),
        (b'{"user": null, "timestamp": 1}', "its user is None"),
        (b'{"user": "\\ud800", "timestamp": 1}', "surrogates not allowed"),
        (b'{"user": "u", "timestamp": "2026"}', "its time is '2026'"),
        (b'{"user": "u", "timestamp": null}', "its time is None"),
        (b'{"user": "u", "timestamp": 9000.5}', r"its time is 9000.5 \(float\)"),
        (b'{"user": "u", "timestamp": NaN}', "its time is nan"),
        (b"[]", "list indices"),
    ],
)
@pytest.mark.parametrize("function", [Plain, Timed, Calling])
def test_a_record_without_a_usable_key_or_time_costs_itself_alone_whatever_decodes_it(
    function: Any, value: bytes, reason: str
) -> None:
    source = Source(
        topic="events",
        decode=json.loads,
        key=lambda event: event["user"],
        timestamp=lambda event: event["timestamp"],
        key_name="user",
    )
    spec = OperatorSpec(uid="any", name="Any", job="any", function=function, source=source, output="times")
    with JobHarness(spec) as job:
        for each in (b'{"user": "u", "timestamp": 10000}', value, b'{"user": "u", "timestamp": 20000}'):
            job.send("events", "u", each)
        job.run()
        job.crash()  # what is durable can be read back
        assert job.read("times") == [10_000, 20_000]
        (letter,) = job.records("events.dlq")
        assert re.search(reason, letter.headers["error-message"].decode())


def test_where_the_events_type_promises_key_and_time_nobody_looks_again() -> None:
    decode = msgspec.json.Decoder(Event).decode
    typed = keyed_source("events", decode, "user")
    assert typed.checked() is typed
    assert keyed_source("events", decode, "user", "at").checked().key is not typed.key
    assert all(source.typed for spec in operators() for source in spec.sources if source.decode is not None)


class Waiting(KeyedProcessFunction[Event, int]):
    async def process_element(self, event: Event, ctx: Context) -> None:  # type: ignore[override]
        """It cannot wait."""


class WaitingTimer(Alarm):
    async def on_timer(self, timestamp_ms: int, ctx: Context) -> Any:
        yield 1


class Collecting(KeyedProcessFunction[Event, int]):
    def process_element(self, event: Event, ctx: Context, out: Any) -> None:  # type: ignore[override]
        out.collect(1)


class Camel(KeyedProcessFunction[Event, int]):
    def processElement(self, event: Event, ctx: Context) -> None:
        """By Flink's name."""


class OneOfTwo(KeyedCoProcessFunction[Event, Event, int]):
    def process_element1(self, event: Event, ctx: Context) -> None:
        """And no second one."""


class OnlyTime(Alarm):
    def on_timer(self, timestamp_ms: int) -> list[int]:  # type: ignore[override]
        return [timestamp_ms]


class WaitingOpen(Alarm):
    async def open(self, ctx: Context) -> None:  # type: ignore[override]
        """It cannot wait either."""


class Opening(Alarm):
    count = ValueState(int)

    def open(self, ctx: Context) -> None:
        self.count.update(1)


class Opened(Alarm):
    count = ValueState(int)

    def process_element(self, event: Event, ctx: Context) -> None:
        self.count.update(1)


class OpeningTimer(Alarm):
    def open(self, ctx: Context) -> None:
        ctx.timers.register_event_time(1)


class Limits(KeyedBroadcastProcessFunction[Event, int, int]):
    limits = BroadcastState(str, int)
    count = ValueState(int)

    def process_element(self, event: Event, ctx: Context) -> None:
        ctx.timers.register_event_time(event.at)

    def on_timer(self, timestamp_ms: int, ctx: Context) -> None:
        """It may have timers, elsewhere."""

    def process_broadcast_element(self, element: int, ctx: Context) -> None:
        self.limits.put(ctx.key, element)


class YieldingLimits(Limits):
    def process_broadcast_element(self, element: int, ctx: Context) -> Any:
        self.limits.put(ctx.key, element)
        yield element


class WaitingLimits(Limits):
    async def process_broadcast_element(self, element: int, ctx: Context) -> None:  # type: ignore[override]
        self.limits.put(ctx.key, element)


class ReturningLimits(Limits):
    def process_broadcast_element(self, element: int, ctx: Context) -> Any:
        return [element]


class CountingLimits(Limits):
    def process_broadcast_element(self, element: int, ctx: Context) -> None:
        self.count.update(1)


class TimingLimits(Limits):
    def process_broadcast_element(self, element: int, ctx: Context) -> None:
        ctx.timers.register_processing_time(1)


class EmittingLimits(Limits):
    def process_broadcast_element(self, element: int, ctx: Context) -> None:
        ctx.output("seen", element)


class Remembering(AsyncFunction[Event, int]):
    count = ValueState(int)

    async def invoke(self, event: Event) -> int:
        return 1


class QuickCall(AsyncFunction[Event, int]):
    def invoke(self, event: Event) -> int:  # type: ignore[override]
        return 1


class YieldingCall(AsyncFunction[Event, int]):
    async def invoke(self, event: Event) -> Any:
        yield 1


class NoCall(AsyncFunction[Event, int]):
    pass


class Forgetful(AsyncFunction[Event, int]):
    def __init__(self) -> None:
        self.client = "no super().__init__()"

    async def invoke(self, event: Event) -> int:
        return event.timestamp


class WaitingFallback(Forgetful):
    async def timeout(self, event: Event) -> int:  # type: ignore[override]
        return 1


class QuickOpen(Forgetful):
    def open(self) -> None:  # type: ignore[override]
        """Without async."""


class OtherMetrics(Forgetful):
    def __init__(self) -> None:
        self.metrics: Any = {}


class OpenWithContext(Forgetful):
    async def open(self, ctx: Context) -> None:  # type: ignore[override]
        """As Flink's."""


class Late(KeyedProcessFunction[Event, int]):
    def __init__(self) -> None:
        self.own = ValueState(int)

    def process_element(self, event: Event, ctx: Context) -> None:
        self.own.update(1)


hours: Any = timedelta(hours=2)


@pytest.mark.parametrize(
    ("mistake", "advice"),
    [
        (lambda: harness(TumblingWindow(timedelta(minutes=1))), r"TumblingWindow\(...\).aggregate"),
        (lambda: harness(Waiting()), "Waiting.process_element is async, .*AsyncFunction"),
        (lambda: harness(WaitingTimer()), "WaitingTimer.on_timer is async"),
        (lambda: harness(Alarm), r"Alarm is a class: give an instance of it, Alarm\(\)"),
        (lambda: harness(Collecting()), r"is called as process_element\(self, event, ctx\); results are yielded"),
        (lambda: harness(Camel()), r"Camel has no process_element: define process_element\(self, event, ctx\)"),
        (lambda: harness(OneOfTwo()), "OneOfTwo has no process_element2"),
        (lambda: harness(OnlyTime()), r"is called as on_timer\(self, timestamp_ms, ctx\)"),
        (lambda: harness(WaitingOpen()), "WaitingOpen.open is async"),
        (lambda: harness(Opening()), r"Opening uses state or timers in open\(\)"),
        (lambda: harness(OpeningTimer()), r"OpeningTimer uses state or timers in open\(\)"),
        (lambda: harness(YieldingLimits()), "process_broadcast_element yields, but nothing is emitted there"),
        (lambda: harness(WaitingLimits()), "process_broadcast_element is async"),
        (lambda: harness(ReturningLimits()).broadcast("a", 1), "process_broadcast_element returns list"),
        (lambda: harness(CountingLimits()).broadcast("a", 1), "state 'count' is keyed, .* a BroadcastState"),
        (lambda: harness(TimingLimits()).broadcast("a", 1), "TimingLimits sets a timer on its broadcast side"),
        (lambda: harness(EmittingLimits()).broadcast("a", 1), "emits to a side output on its broadcast side"),
        (lambda: harness(Remembering()), "declares the state 'count', and an AsyncFunction has none"),
        (lambda: harness(YieldingCall()), "invoke yields: return the result, a list"),
        (lambda: harness(QuickCall()), r"invoke is not async: write async def invoke"),
        (lambda: harness(NoCall()), r"NoCall has no invoke: define invoke\(self, event\)"),
        (lambda: harness(WaitingFallback()), "timeout is async: .* write def timeout"),
        (lambda: harness(QuickOpen()), "open is not async: write async def open"),
        (lambda: harness(OtherMetrics()), "metrics is dict: .* use another name"),
        (lambda: harness(OpenWithContext()), r"is called as open\(self\)"),
        (lambda: harness(Forgetful(), allowed_lateness=hours), "leave allowed_lateness= to an operator"),
        (lambda: harness(Late()).process(Event("u", 1)), "declare it in the body of the operator's class"),
        (lambda: ValueState(int, ttl=hours), r"ttl=Ttl\(timedelta\(hours=2\)\)"),
        (lambda: TumblingWindow(timedelta(minutes=1)).aggregate(Sum), "give an instance"),  # type: ignore[arg-type]
        (lambda: AggregatingState(Sum), "give an instance"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_answered_with_what_to_do(mistake: Callable[[], Any], advice: str) -> None:
    with pytest.raises(StateError, match=advice):
        mistake()


def spec(function: Any, **options: Any) -> OperatorSpec:
    source = keyed_source("events", msgspec.json.Decoder(Event).decode, "user")
    return OperatorSpec(uid="one", name="One", job="one", function=function, source=source, output="out", **options)


SHARED = Opened()
INPUT = keyed_source("more", msgspec.json.Decoder(Event).decode, "user")


@pytest.mark.parametrize(
    ("mistake", "advice"),
    [
        (lambda: spec(Alarm()), r"function=Alarm is an instance, .* give the class"),
        (lambda: JobHarness(spec(lambda: SHARED)), "this Opened is in use already: each partition"),
        (lambda: JobHarness([spec(Alarm), spec(Waiting)]), "both have the uid 'one'"),
        (
            lambda: JobHarness(spec(Alarm, broadcast="limits")),
            "needs a function that is a KeyedBroadcastProcessFunction",
        ),
        (lambda: JobHarness(spec(Limits)), "Limits reads a broadcast topic: name it with broadcast="),
        (lambda: JobHarness(spec(Forgetful, source2=INPUT)), "an AsyncFunction has one input"),
        (lambda: JobHarness(spec(Alarm)).counters("two"), "no operator 'two'; there are one"),
        (lambda: harness(Opened()).keys("counts"), "no state 'counts'; there are count"),
    ],
)
def test_a_mistake_in_a_spec_is_answered_with_what_to_do(mistake: Callable[[], Any], advice: str) -> None:
    SHARED.__dict__.clear()
    with pytest.raises(StateError, match=advice):
        mistake()


def test_two_harnesses_do_not_share_a_function() -> None:
    function = Opened()
    first = harness(function)
    with pytest.raises(StateError, match="in use already"):
        harness(function)
    first.process(Event("u", 1))
    assert first.state("count", "u") == 1


def test_side_outputs_are_named_by_their_tags_or_by_the_tags_names() -> None:
    tag = OutputTag[int]("odd")
    assert (
        spec(Alarm, side_outputs={tag: "odds"}).side_outputs == spec(Alarm, side_outputs={"odd": "odds"}).side_outputs
    )


def test_a_job_shows_entries_of_broadcast_state() -> None:
    with JobHarness(spec(Limits, broadcast="limits", broadcast_decode=msgspec.json.decode)) as job:
        job.send("limits", "a", 5)
        assert job.state("one", "limits", "a") == 5
        assert job.state("one", "limits", "b") is None


def test_an_async_function_that_forgets_its_base_has_the_default_options() -> None:
    h = harness(Forgetful())
    h.process(Event("u", 1))
    h.end_input()
    assert h.outputs == [1]
    assert Forgetful().options.ordered
    assert Forgetful().options.timeout == timedelta(seconds=5)


class OneValue(KeyedProcessFunction[Event, Any]):
    """Returns an output where a list of them belongs."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def process_element(self, event: Event, ctx: Context) -> Any:
        return self.value

    def on_timer(self, timestamp_ms: int, ctx: Context) -> None: ...


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}])
def test_one_output_without_a_list_is_no_list_of_its_parts(value: Any) -> None:
    with pytest.raises(BadRecord, match=r"OneValue returns .*: return a list of outputs, \[value\], or yield each"):
        harness(OneValue(value)).process(Event("u", 1))


class Untimed(Plain):
    """Has no timers, so the quicker of the two loops."""


class Waits(AsyncFunction[Event, int]):
    async def invoke(self, event: Event) -> int:
        return event.timestamp


@pytest.mark.parametrize("function", [Untimed, Timed, Waits])
def test_a_record_without_a_key_is_a_dead_letter_in_every_loop(function: Any) -> None:
    spec = OperatorSpec(
        uid="keyless",
        name="Keyless",
        job="keyless",
        function=function,
        source=keyed_source("events", msgspec.json.Decoder(Event).decode, "user"),
        output="times",
    )
    with JobHarness(spec) as job:
        job.send("events", "", Event("", 1))
        job.send("events", "u", Event("u", 2))
        job.end_input()
        assert len(job.read("times")) == 1
        (letter,) = job.records("events.dlq")
        assert letter.headers["error-message"].decode() == "the record has no key"


BACK = timedelta(seconds=-1)


@pytest.mark.parametrize(
    ("declare", "reason"),
    [
        (
            lambda: TumblingWindow(timedelta(seconds=1), allowed_lateness=BACK),
            "allowed_lateness .*time does not go back",
        ),
        (lambda: Source(topic="events", out_of_orderness=BACK), "out_of_orderness .*time does not go back"),
        (lambda: Source(topic="events", allowed_lateness=BACK), "allowed_lateness .*time does not go back"),
        (lambda: Source(topic="events", idle_after=BACK), "idle_after .*time does not go back"),
        (lambda: FixedRetry(delay=BACK), "delay .*time does not go back"),
        (lambda: ExponentialRetry(first=BACK), "first .*time does not go back"),
        (lambda: ExponentialRetry(most=BACK), "most .*time does not go back"),
        (lambda: ExponentialRetry(factor=0.5), "factor=0.5: delays grow by it"),
        (lambda: FixedRetry(attempts=2.5), "attempts=2.5: a whole number"),  # type: ignore[arg-type]
        (lambda: AsyncFunction(capacity=1.5), "capacity=1.5: a whole number"),  # type: ignore[arg-type]
        (lambda: AsyncFunction(timeout=BACK), "timeout=.*a millisecond at least, or None"),
        (lambda: ListState(int, keep_last=2.5), "keep_last=2.5: a whole number"),  # type: ignore[arg-type]
        (lambda: Ttl.Cleanup.incremental(1.5), r"incremental\(1.5\): at least one key"),  # type: ignore[arg-type]
        (lambda: TumblingWindow(timedelta(seconds=1)).reduce(5), r"reduce\(5\): give a function"),  # type: ignore[arg-type]
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_where_it_is_given(declare: Callable[[], Any], reason: str) -> None:
    with pytest.raises(StateError, match=reason):
        declare()


class Returning(KeyedProcessFunction[Any, Any]):
    def process_element(self, event: Any, ctx: Context) -> Any:
        return event


def test_a_struct_or_a_number_is_one_value_and_no_list_of_outputs() -> None:
    for given in (Event("u", 1, 7), 7):
        h = OperatorHarness(Returning(), key=lambda e: "u", timestamp=lambda e: 1)
        with pytest.raises(BadRecord, match="return a list of outputs"):
            h.process(given)


class Nothing(WindowAssigner):
    def assign(self, event: Any, timestamp_ms: int) -> Any:
        """Forgets to return."""


def test_an_assigner_that_returns_nothing_is_told_what_to_return() -> None:
    with pytest.raises(BadRecord, match=r"Nothing\.assign returns None: return a list of windows"):
        harness(Nothing().reduce(max)).process(Event("u", 1, 7))


def emitting(**options: Any) -> OperatorSpec:
    source = keyed_source("events", msgspec.json.Decoder(Event).decode, "user")
    return OperatorSpec(uid="plain", name="Plain", job="plain", function=Plain, source=source, **options)


def test_outputs_that_go_nowhere_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for options, told in (({}, 1), ({"output": "times"}, 0)):
        caplog.clear()
        with JobHarness(emitting(**options)) as job:
            for number in range(5):
                job.send("events", "u", {"user": "u", "timestamp": number, "at": 1})
                job.run()
        assert caplog.text.count("has no output=") == told


def test_a_misspelt_topic_is_refused_instead_of_being_empty() -> None:
    with JobHarness(emitting(output="times")) as job:
        for topic in ("events", "events.dlq", "times", "late-events"):
            assert job.read(topic) == []
        with pytest.raises(StateError, match=r"no topic 'time'; it has .*times"):
            job.read("time")
