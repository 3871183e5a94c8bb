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
    KeyedProcessFunction,
    OperatorSpec,
    Source,
    TumblingWindow,
    keyed_source,
)
from agents.testing import JobHarness, OperatorHarness
from app.topology import operators
from models.errors import BadRecord, StateError
from tables import AggregateFunction, AggregatingState, ValueState


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
        (lambda: harness(Late()).process(Event("u", 1)), "declare it in the body of the operator's class"),
        (lambda: ValueState(int, ttl=hours), r"ttl=Ttl\(timedelta\(hours=2\)\)"),
        (lambda: TumblingWindow(timedelta(minutes=1)).aggregate(Sum), "give an instance"),  # type: ignore[arg-type]
        (lambda: AggregatingState(Sum), "give an instance"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_answered_with_what_to_do(mistake: Callable[[], Any], advice: str) -> None:
    with pytest.raises(StateError, match=advice):
        mistake()


class Forgetful(AsyncFunction[Event, int]):
    def __init__(self) -> None:
        self.client = "no super().__init__()"

    async def invoke(self, event: Event) -> int:
        return event.timestamp


def test_an_async_function_that_forgets_its_base_has_the_default_options() -> None:
    h = harness(Forgetful())
    h.process(Event("u", 1))
    h.end_input()
    assert h.outputs == [1]
    assert Forgetful().options.ordered
    assert Forgetful().options.timeout == timedelta(seconds=5)
