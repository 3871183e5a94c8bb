"""Windows against brute force: every window of every key is computed from the whole input, in any order of arrival."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.operator import AggregateFunction, SessionWindow, SlidingWindow, TumblingWindow, Window
from agents.testing import Crash, OperatorHarness

LATENESS = timedelta(milliseconds=1000)


class Event(msgspec.Struct):
    user: str
    timestamp: int
    amount: int


class Sum(AggregateFunction[Event, int, int]):
    def create_accumulator(self) -> int:
        return 0

    def add(self, value: Event, accumulator: int) -> int:
        return accumulator + value.amount

    def get_result(self, accumulator: int) -> int:
        return accumulator

    def merge(self, a: int, b: int) -> int:
        return a + b


def named(key: str, window: Window, result: Any) -> Any:
    return key, window.start_ms, window.end_ms, result


def amounts(key: str, window: Window, events: list[Event]) -> Any:
    return [(key, window.start_ms, window.end_ms, sum(e.amount for e in events))]


events = st.lists(
    st.builds(Event, st.sampled_from("uv"), st.integers(0, 100), st.integers(1, 9)), min_size=1, max_size=30
)
#: arrival: each event up to so many places away from its own
shuffles = st.randoms(use_true_random=False)


def ms(n: int) -> timedelta:
    return timedelta(milliseconds=n)


def run(function: Any, arriving: list[Any], **options: Any) -> OperatorHarness:
    h = OperatorHarness(function, key=lambda e: e.user, timestamp=lambda e: e.timestamp, **options)
    h.run(arriving, commit_every=4)
    h.end_input()
    return h


def fixed(all_events: list[Event], size: int, slide: int, offset: int) -> dict[tuple[str, int, int], int]:
    found: dict[tuple[str, int, int], int] = defaultdict(int)
    for start in range(-size * 2 - slide, 120):
        if (start - offset) % slide == 0:
            for event in all_events:
                if start <= event.timestamp < start + size:
                    found[event.user, start, start + size] += event.amount
    return found


def by_sessions(all_events: list[Event], gap: int) -> dict[tuple[str, int, int], int]:
    found = {}
    for user in {event.user for event in all_events}:
        mine = sorted((event.timestamp, event.amount) for event in all_events if event.user == user)
        start, end, total = mine[0][0], mine[0][0] + gap, 0
        for timestamp, amount in mine:
            if timestamp >= end:
                found[user, start, end] = total
                start, total = timestamp, 0
            end = timestamp + gap
            total += amount
        found[user, start, end] = total
    return found


@pytest.mark.parametrize("how", ["aggregate", "process"])
@settings(max_examples=60, deadline=None)
@given(all_events=events, size=st.integers(1, 30), slide=st.integers(1, 30), offset=st.integers(0, 7), chance=shuffles)
def test_sliding_windows_are_what_brute_force_finds_in_any_order(
    how: str, all_events: list[Event], size: int, slide: int, offset: int, chance: Any
) -> None:
    windows = SlidingWindow(ms(size), ms(slide), offset=ms(offset))
    function = windows.aggregate(Sum(), into=named) if how == "aggregate" else windows.process(amounts, of=Event)
    chance.shuffle(all_events)
    crashing = [part for event in all_events for part in ((event, Crash()) if event.amount > 7 else (event,))]
    h = run(function, crashing, out_of_orderness=LATENESS)
    expected = fixed(all_events, size, slide, offset)
    assert sorted(h.outputs) == sorted((*window, total) for window, total in expected.items())
    assert h.late == []


@settings(max_examples=60, deadline=None)
@given(all_events=events, gap=st.integers(1, 30), chance=shuffles)
@pytest.mark.parametrize("how", ["aggregate", "process"])
def test_sessions_are_what_sorting_finds_in_any_order(how: str, all_events: list[Event], gap: int, chance: Any) -> None:
    windows = SessionWindow(ms(gap))
    function = windows.aggregate(Sum(), into=named) if how == "aggregate" else windows.process(amounts, of=Event)
    chance.shuffle(all_events)
    crashing = [part for event in all_events for part in ((event, Crash()) if event.amount > 7 else (event,))]
    h = run(function, crashing, out_of_orderness=LATENESS)
    assert sorted(h.outputs) == sorted((*window, total) for window, total in by_sessions(all_events, gap).items())
    assert all(not list(h.keys(name)) for name in ("panes",))
    assert h.timers("u") == h.timers("v") == []


@settings(max_examples=60, deadline=None)
@given(
    all_events=events, size=st.integers(1, 30), bound=st.integers(0, 40), lateness=st.integers(0, 40), chance=shuffles
)
def test_every_record_counts_in_the_last_result_of_its_window_or_is_late(
    all_events: list[Event], size: int, bound: int, lateness: int, chance: Any
) -> None:
    chance.shuffle(all_events)
    function = TumblingWindow(ms(size), allowed_lateness=ms(lateness)).aggregate(Sum(), into=named)
    h = run(function, all_events, out_of_orderness=ms(bound))
    last = {(key, start): total for key, start, _, total in h.outputs}
    late = sum(event.amount for event in h.late)
    assert sum(last.values()) + late == sum(event.amount for event in all_events)
    newest = -1
    for event in all_events:
        is_late = (event.timestamp // size + 1) * size + lateness <= max(newest, event.timestamp) - bound
        assert is_late == any(event is each for each in h.late)
        newest = max(newest, event.timestamp)
