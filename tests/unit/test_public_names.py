"""What a user imports to write an operator: the names are there, are one thing each, say what they are, and have the types they say."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, assert_type

import msgspec
import pytest

import agents.operator
import agents.testing
import tables
from agents.functions.sessions import SessionAnalytics
from agents.operator import Context, KeyedBroadcastProcessFunction, KeyedProcessFunction, TumblingWindow
from agents.testing import OperatorHarness
from models.errors import StateError
from models.events import UserEvent
from tables import AggregateFunction, AggregatingState, BroadcastState, MapState, ValueState

MODULES = (tables, agents.operator, agents.testing)


def test_the_names_of_an_operator_are_imported_from_three_modules() -> None:
    exec(
        "from tables import ValueState, ListState, MapState, ReducingState, AggregatingState, BroadcastState, Ttl\n"
        "from agents.operator import (KeyedProcessFunction, KeyedBroadcastProcessFunction, KeyedCoProcessFunction, AsyncFunction,\n"
        "    OutputTag, TumblingWindow, SlidingWindow, SessionWindow, CountWindow)\n"
        "from agents.testing import OperatorHarness, JobHarness\n",
        {},
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_and_method_says_what_it_is(module: Any) -> None:
    silent = []
    for name in module.__all__:
        found = getattr(module, name)
        written = (vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__) or ""
        if not written or written.startswith(f"{name}("):  # what a dataclass makes up
            silent.append(name)
        for method in dir(found) if inspect.isclass(found) else ():
            member = inspect.getattr_static(found, method)
            if method.startswith("_") or not isinstance(member, (type(lambda: 0), property, classmethod, staticmethod)):
                continue
            if not inspect.getdoc(getattr(found, method)):
                silent.append(f"{name}.{method}")
    assert silent == []


def test_a_name_means_the_same_wherever_it_is_imported_from() -> None:
    for name in tables.__all__:
        assert getattr(agents.operator, name, getattr(tables, name)) is getattr(tables, name)


class Renamed(SessionAnalytics):
    """A later version of the function: other class, same states."""


def test_the_harness_is_used_as_the_interface_shows() -> None:
    ways: dict[str, Any] = {"key": lambda e: e.user_id, "timestamp": lambda e: e.timestamp}
    h = OperatorHarness(SessionAnalytics(), out_of_orderness=timedelta(seconds=10), **ways)
    at = 1_700_000_000_000
    for number in range(3):
        h.process(UserEvent(event_id=f"e{number}", user_id="user42", event_type="CLICK", timestamp=at + number))
    assert len(h.outputs) == 3
    assert h.state("metrics", "user42").event_count == 3
    assert h.state("metrics", "nobody") is None
    assert h.timers("user42") == [("event", at + 1_800_000)]
    assert h.side_outputs("late") == []
    snapshot = h.snapshot()
    h2 = OperatorHarness.restore(Renamed(), snapshot, **ways)
    assert h2.state("metrics", "user42") == h.state("metrics", "user42")
    h2.watermark(at + 1_800_002)
    assert h2.side_outputs("session-summaries")[0].event_count == 3
    h.advance_processing_time(timedelta(hours=2))
    assert h.state("metrics", "user42") is None
    h.end_input()
    assert len(h.side_outputs("session-summaries")) == 1


class Event(msgspec.Struct):
    user: str
    timestamp: int


class Typed(KeyedProcessFunction[Event, str]):
    counts = MapState(str, int)
    rules = BroadcastState(str, int)
    plain = ValueState(int, default=0)
    made = ValueState(list[int], default=list)

    def process_element(self, event: Event, ctx: Context) -> Iterator[str]:
        """The types that a user's checker sees."""
        assert_type(self.counts.get("a"), int | None)
        assert_type(self.counts.get("a", 0), int)
        assert_type(self.rules.get("a"), int | None)
        assert_type(self.rules.get("a", 0), int)
        assert_type(self.plain.value(), int | None)
        self.counts.put("a", self.counts.get("a", 0) + 1)
        yield f"{self.counts.get('a')} {self.counts.get('b')} {self.plain.value()} {self.made.value()}"


class WithoutRules(Typed):
    rules = None  # type: ignore[assignment]

    def process_element(self, event: Event, ctx: Context) -> Iterator[str]:
        self.counts.put("a", self.counts.get("a", 0) + 1)
        yield f"{self.counts.get('a')} {self.counts.get('b')} {self.plain.value()} {self.made.value()}"


def test_defaults_are_what_a_key_without_a_value_has() -> None:
    h = OperatorHarness(WithoutRules(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
    h.process(Event("u", 1))
    h.process(Event("u", 2))
    assert h.outputs == ["1 None 0 []", "2 None 0 []"]
    assert h.state("plain", "u") is None


def test_a_default_that_all_keys_would_share_is_refused_when_it_is_declared() -> None:
    with pytest.raises(StateError, match="give a function that makes a new one, such as default=list"):
        ValueState(list[int], default=[])


@pytest.mark.parametrize("other", [BroadcastState(str, int, name="counts"), BroadcastState(str, str, name="rules")])
def test_two_states_of_one_name_are_refused_whatever_their_kinds(other: Any) -> None:
    nothing = {"process_broadcast_element": lambda self, element, ctx: None}
    twice = type("Twice", (Typed, KeyedBroadcastProcessFunction), {"other": other, **nothing})
    with pytest.raises(StateError, match="are both named"):
        OperatorHarness(twice(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)


class Counts(msgspec.Struct):
    number: int = 0


class Named(AggregateFunction[Event, list[Counts], int]):
    def create_accumulator(self):  # type: ignore[no-untyped-def]
        return []

    def add(self, value: Event, accumulator: list[Counts]) -> list[Counts]:
        return [*accumulator, Counts(value.timestamp)]

    def get_result(self, accumulator: list[Counts]) -> int:
        return sum(each.number for each in accumulator)


class Annotated(Named, AggregateFunction):  # type: ignore[type-arg]
    def create_accumulator(self) -> list[Counts]:
        return []


class Shown(AggregateFunction):  # type: ignore[type-arg]
    def create_accumulator(self):  # type: ignore[no-untyped-def]
        return Counts()

    def add(self, value, accumulator):  # type: ignore[no-untyped-def]
        return Counts(accumulator.number + value.timestamp)

    def get_result(self, accumulator):  # type: ignore[no-untyped-def]
        return accumulator.number


class Aggregating(KeyedProcessFunction[Event, int]):
    named = AggregatingState(Named())
    annotated = AggregatingState(Annotated())
    shown = AggregatingState(Shown())

    def process_element(self, event: Event, ctx: Context) -> Iterator[int]:
        for state in (self.named, self.annotated, self.shown):
            state.add(event)
            yield state.get() or 0


@pytest.mark.parametrize("function", [Named, Annotated, Shown])
def test_state_and_windows_take_an_accumulators_type_from_the_same_places(function: Any) -> None:
    def restarted(made: Any) -> OperatorHarness:
        h = OperatorHarness(made(), key=lambda e: e.user, timestamp=lambda e: e.timestamp)
        h.process(Event("u", 1))
        h.snapshot()
        h = h.crash()
        h.process(Event("u", 2))
        h.end_input()
        return h

    assert restarted(Aggregating).outputs == [3, 3, 3]
    assert restarted(lambda: TumblingWindow(timedelta(seconds=1)).aggregate(function())).outputs == [3]


def test_an_accumulator_of_nobody_knows_what_is_refused_by_state_and_windows() -> None:
    class Untyped(Shown):
        def create_accumulator(self):  # type: ignore[no-untyped-def]
            return {}

    for declare in (AggregatingState, TumblingWindow(timedelta(seconds=1)).aggregate):
        with pytest.raises(StateError, match="does not say what its dict holds"):
            declare(Untyped())
