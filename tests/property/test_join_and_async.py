"""Two inputs against a join in SQL; async calls under any order of completion and any crash."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.operator import AsyncFunction, Context, KeyedCoProcessFunction
from agents.testing import Advance, Crash, OperatorHarness, Second
from tables import ListState


class Left(msgspec.Struct):
    key: str
    n: int
    timestamp: int = 1


class Join(KeyedCoProcessFunction[Left, Left, tuple[int, int]]):
    """Every left with every right of its key."""

    left = ListState(Left)
    right = ListState(Left)

    def process_element1(self, event: Left, ctx: Context) -> Iterator[tuple[int, int]]:
        self.left.add(event)
        for other in self.right:
            yield event.n, other.n

    def process_element2(self, event: Left, ctx: Context) -> Iterator[tuple[int, int]]:
        self.right.add(event)
        for other in self.left:
            yield other.n, event.n


sides = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.booleans()), max_size=30)


@settings(max_examples=80, deadline=None)
@given(sides)
def test_a_join_is_what_sql_finds_whatever_the_order_and_whatever_dies(script: list[tuple[bool, str, bool]]) -> None:
    steps: list[Any] = []
    database = sqlite3.connect(":memory:")
    database.executescript("create table l (key, n); create table r (key, n);")
    for n, (is_left, key, dies) in enumerate(script):
        event = Left(key, n)
        steps.append(event if is_left else Second(event))
        database.execute(f"insert into {'l' if is_left else 'r'} values (?, ?)", (key, n))
        if dies:
            steps.append(Crash())
    h = OperatorHarness(Join(), key=lambda e: e.key, timestamp=lambda e: e.timestamp)
    h.run(steps, commit_every=3)
    expected = database.execute("select l.n, r.n from l join r on l.key = r.key").fetchall()
    database.close()
    assert sorted(h.outputs) == sorted(expected)


class Call(msgspec.Struct):
    n: int
    takes: int
    key: str = "u"
    timestamp: int = 1


class Waits(AsyncFunction[Call, int]):
    async def invoke(self, event: Call) -> int:
        await asyncio.sleep(event.takes)
        return event.n


@settings(max_examples=60, deadline=None)
@given(
    ordered=st.booleans(),
    capacity=st.integers(1, 5),
    commit_every=st.integers(1, 4),
    script=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.booleans()), max_size=14),
)
def test_every_call_is_answered_once_and_the_marker_never_passes_one_in_flight(
    ordered: bool, capacity: int, commit_every: int, script: list[tuple[int, int, bool]]
) -> None:
    h = OperatorHarness(
        Waits(ordered=ordered, capacity=capacity, timeout=None), key=lambda e: e.key, timestamp=lambda e: e.timestamp
    )
    steps: list[Any] = []
    for n, (takes, pause, dies) in enumerate(script):
        steps += [Call(n, takes), Advance(timedelta(seconds=pause))]
        if dies:
            steps.append(Crash())
    h.run(steps, commit_every=commit_every)
    done = set(h.outputs)
    assert h.next_offset <= min((n for n in range(len(script)) if n not in done), default=len(script))
    h.end_input()
    assert sorted(h.outputs) == list(range(len(script)))
    if ordered:
        assert h.outputs == sorted(h.outputs)
    assert h.next_offset == len(script)
