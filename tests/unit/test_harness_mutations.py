"""``check_mutations``: a value of state that was changed and not given back is found by the call that did it, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from agents.operator import Context, KeyedProcessFunction
from agents.testing import Crash, OperatorHarness
from models.errors import StateError
from tables import (
    AggregateFunction,
    AggregatingState,
    ListState,
    MapState,
    ReducingState,
    TimeSeriesState,
    Ttl,
    ValueState,
)


class Box(msgspec.Struct):
    numbers: list[int] = []
    at: int = 0


class Event(msgspec.Struct):
    user: str
    timestamp: int
    do: str = "well"


class Collect(AggregateFunction[int, Box, int]):
    def create_accumulator(self) -> Box:
        return Box()

    def add(self, value: int, accumulator: Box) -> Box:
        accumulator.numbers.append(value)
        return accumulator

    def get_result(self, accumulator: Box) -> int:
        return len(accumulator.numbers)


class Many(KeyedProcessFunction[Event, None]):
    value = ValueState(Box)
    items = ListState(Box)
    entries = MapState(str, Box)
    floats = ValueState(float)
    total = ReducingState(int, lambda a, b: a + b)
    collected = AggregatingState(Collect())
    series = TimeSeriesState(Box, time=lambda box: box.at, keep_for=timedelta(milliseconds=10))
    kept: Box

    def process_element(self, event: Event, ctx: Context) -> None:
        getattr(self, event.do)(event)

    def well(self, event: Event) -> None:
        box = self.value.value() or Box()
        box.numbers.append(event.timestamp)
        self.value.update(box)
        self.kept = box
        for number in range(20):
            self.items.add(Box([number]))
        self.entries.put("a", Box())
        self.entries.put(f"b{event.timestamp}", Box())
        self.floats.update(event.timestamp)  # comes back as 1.0, which is as good
        self.total.add(1)
        self.collected.add(1)
        self.series.add(Box(at=event.timestamp))

    def changes_a_value(self, event: Event) -> None:
        (self.value.value() or Box()).numbers.append(1)

    def changes_what_it_kept(self, event: Event) -> None:
        self.kept.numbers.append(1)

    def changes_one_entry_and_puts_another(self, event: Event) -> None:
        self.entries["a"].numbers.append(1)
        self.entries.put("c", Box())

    def changes_an_old_element_and_adds_a_new_one(self, event: Event) -> None:
        self.items.get()[0].numbers.append(1)
        self.items.add(Box())

    def writes_past_the_state(self, event: Event) -> None:
        self.items.get().append(Box())

    def gives_one_value_to_two_entries(self, event: Event) -> None:
        box = Box()
        self.entries.put("one", box)
        self.entries.put("two", box)


def harness(function: Any, *, check: bool = True) -> OperatorHarness:
    return OperatorHarness(function, key=lambda e: e.user, timestamp=lambda e: e.timestamp, check_mutations=check)


@pytest.mark.parametrize(
    ("do", "state", "key"),
    [
        (Many.changes_a_value, "value", "u"),
        (Many.changes_what_it_kept, "value", "v"),
        (Many.changes_one_entry_and_puts_another, "entries", "u"),
        (Many.changes_an_old_element_and_adds_a_new_one, "items", "u"),
        (Many.writes_past_the_state, "items", "u"),
    ],
)
@pytest.mark.parametrize("restored", [False, True])
def test_the_call_that_changes_state_in_place_raises_and_names_state_and_key(
    do: Callable[..., None], state: str, key: str, restored: bool
) -> None:
    h = harness(Many())
    for user, timestamp in (("u", 1), ("u", 2), ("v", 3)):
        h.process(Event(user, timestamp))
    if restored and do is not Many.changes_what_it_kept:
        h.snapshot()
        h = h.crash()
    with pytest.raises(StateError, match=f"state '{state}' of key '{key}' was changed in place"):
        h.process(Event("u", 4, do.__name__))


def test_a_function_that_gives_back_what_it_changes_has_the_same_state_with_and_without_the_check() -> None:
    script = [Event(user, n) for n in range(12) for user in "uv"]
    script.insert(5, Event("u", 3, "gives_one_value_to_two_entries"))
    found = []
    for check in (True, False):
        h = harness(Many(), check=check)
        h.run([*script[:9], Crash(), *script[9:], Crash()], commit_every=4)
        found.append(
            {name: h.state(name, "u") for name in ("value", "items", "entries", "total", "collected", "series")}
        )
    assert found[0] == found[1]


def test_what_is_not_in_a_snapshot_yet_is_lost_in_a_crash_with_the_check_as_without() -> None:
    h = harness(Many())
    h.process(Event("u", 1))
    h.snapshot()
    h.process(Event("u", 2))
    assert h.crash().state("total", "u") == 1


class Expiring(KeyedProcessFunction[Event, None]):
    ttl = Ttl(timedelta(milliseconds=100), update=Ttl.Update.ON_READ_AND_WRITE)
    items = ListState(int, ttl=ttl)
    entries = MapState(int, int, ttl=ttl)
    value = ValueState(int, ttl=ttl)

    def process_element(self, event: Event, ctx: Context) -> None:
        if event.do == "well":
            self.items.add(event.timestamp)
            self.entries.put(event.timestamp, 1)
            self.value.update(event.timestamp)
        self.items.get()
        self.entries.get(event.timestamp)
        self.value.value()


def test_expiry_and_renewal_by_reading_are_no_changes_in_place() -> None:
    h = harness(Expiring())
    for step in range(60):
        h.process(Event("u", step, "well" if step % 7 == 0 else "read"))
        h.advance_processing_time(timedelta(milliseconds=9 if step % 20 else 150))
    assert h.next_offset == 60


class Mistyped(KeyedProcessFunction[Event, None]):
    numbers = ValueState(list[int])

    def process_element(self, event: Event, ctx: Context) -> None:
        self.numbers.update([event.do])  # type: ignore[list-item]


def test_a_value_that_does_not_come_back_as_its_type_is_found_by_the_call_that_stored_it() -> None:
    with pytest.raises(StateError, match="state 'numbers' of key 'u' does not fit its declared type"):
        harness(Mistyped()).process(Event("u", 1, "text"))
