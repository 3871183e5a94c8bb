"""One contract for all kinds of keyed state: against a plain model, on every store, with a restart between every two steps."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.events import UserEvent
from tables import (
    AggregateFunction,
    AggregatingState,
    ListState,
    MapState,
    ReducingState,
    RingState,
    TimeSeriesState,
    ValueState,
    series,
)
from tests.contract.state_kit import START, Bed, LogRecord
from tests.contract.state_stores import STORES, StoreMaker, make_stores

KEYS = ["a", "", "a\0", "a\0\0", "a\0b", "\0", "ü€😀", "a\0\0\x08", "state", "x" * 300]


class Point(msgspec.Struct, array_like=True, gc=False):
    """An element with a time."""

    time: int
    n: int


class Mean(AggregateFunction[int, list[int], float]):
    """Sum and count."""

    def create_accumulator(self) -> list[int]:
        return [0, 0]

    def add(self, value: int, accumulator: list[int]) -> list[int]:
        accumulator[0] += value
        accumulator[1] += 1
        return accumulator

    def get_result(self, accumulator: list[int]) -> float:
        return accumulator[0] / accumulator[1]

    def merge(self, a: list[int], b: list[int]) -> list[int]:
        return [a[0] + b[0], a[1] + b[1]]


# A kind under test: how it is declared, one random step on handle and model, and how the model looks.
# The model maps a user key to whatever the kind's ``look`` shows, or has no entry.

Model = dict[str, Any]
Step = Callable[[random.Random, Any, Model, str, int], None]


def value_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    if rng.random() < 0.25:
        state.clear()
        model.pop(key, None)
    else:
        model[key] = rng.randrange(1000)
        state.update(model[key])
    assert state.value() == model.get(key)


def reduce_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    if rng.random() < 0.15:
        state.clear()
        model.pop(key, None)
    else:
        n = rng.randrange(1000)
        state.add(n)
        model[key] = model.get(key, 0) + n
    assert state.get() == model.get(key)


def mean_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    inner = model.setdefault("(sums)", {})
    if rng.random() < 0.15:
        state.clear()
        model.pop(key, None)
        inner.pop(key, None)
    else:
        n = rng.randrange(1000)
        state.add(n)
        inner.setdefault(key, []).append(n)
        model[key] = sum(inner[key]) / len(inner[key])
    assert state.get() == model.get(key)


def list_step(rng: random.Random, state: Any, model: Model, key: str, now: int, last: int | None = None) -> None:
    dice = rng.random()
    if dice < 0.04:
        state.clear()
        model.pop(key, None)
    elif dice < 0.08:
        new = [rng.randrange(1000) for _ in range(rng.randrange(5))]
        state.update(new)
        model[key] = new
    else:
        for _ in range(rng.choice((1, 1, 1, 3, 30))):
            n = rng.randrange(1000)
            state.add(n)
            model.setdefault(key, []).append(n)
    if last is not None and key in model:
        model[key] = model[key][-last:]
    if not model.get(key):
        model.pop(key, None)
    assert list(state.get()) == model.get(key, [])
    assert len(state) == len(model.get(key, []))


def bounded_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    list_step(rng, state, model, key, now, last=20)


def timed_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    point = Point(now - rng.choice((0, 0, 0, 400, 5000)), rng.randrange(1000))
    state.add(point)
    kept = [*model.get(key, []), point]
    while kept[0].time <= point.time - 3000:
        del kept[0]
    model[key] = kept
    assert list(state.get()) == kept


def series_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    if rng.random() < 0.03:
        state.clear()
        model.pop(key, None)
        model.get("(all)", {}).pop(key, None)
        return
    point = Point(now - rng.choice((0, 0, 0, 0, 300, 2500, 4000, 60_000)), rng.randrange(1000))
    series = state.add(point)
    everything = model.setdefault("(all)", {}).setdefault(key, [])
    newest = max((p.time for p in everything), default=point.time)
    low = max(newest, point.time) - 3000 if everything else -1
    if not everything:
        model.setdefault("(floor)", {})[key] = -1
    floors = model["(floor)"]
    if everything and min(p.time for p in model[key]) <= low:
        floors[key] = max(floors[key], low)
    everything.append(point)
    in_order = sorted(everything, key=lambda p: p.time)
    kept = in_order[bisect_right(in_order, floors[key], key=lambda p: p.time) :][-25:]
    if not any(p is point for p in kept):
        kept = [point, *kept[len(kept) == 25 :]]
    model[key] = kept
    assert list(series) == kept
    assert series.latest == point


def map_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    dice = rng.random()
    entry = rng.choice(("", "a", "a\0", "\0\0", "b" * 70_000, "ü"))
    if dice < 0.1:
        state.clear()
        model.pop(key, None)
    elif dice < 0.35:
        state.remove(entry)
        model.get(key, {}).pop(entry, None)
    else:
        n = rng.randrange(1000)
        state.put(entry, n)
        model.setdefault(key, {})[entry] = n
    if not model.get(key):
        model.pop(key, None)
    expected = model.get(key, {})
    assert dict(state.entries()) == expected
    assert state.get(entry) == expected.get(entry)
    assert state.contains(entry) == (entry in expected)
    assert state.is_empty() == (not expected)
    assert sorted(state) == sorted(expected)
    assert len(state) == len(expected)


class PlainTimeSeries(TimeSeriesState[Any]):
    """As it is where nothing could be compiled."""

    def _open(self) -> None:
        compiled, series.COMPILED = series.COMPILED, False
        try:
            super()._open()
        finally:
            series.COMPILED = compiled


def user_event(number: int) -> UserEvent:
    kind = ("CLICK", "LOGIN", "PURCHASE")[number % 3]
    return UserEvent(event_id=f"e{number}", user_id="u", event_type=kind, timestamp=START)


def ring_step(rng: random.Random, state: Any, model: Model, key: str, now: int) -> None:
    dice = rng.random()
    new = [user_event(rng.randrange(1000)) for _ in range(rng.choice((1, 1, 1, 3, 30)))]
    if dice < 0.08:
        state.clear()
        model.pop(key, None)
    elif dice < 0.16:
        state.update(new)
        model[key] = new[-10:]
    else:
        for event in new:
            column = state.add(event)
        model[key] = [*model.get(key, []), *new][-10:]
        assert column == [event.event_type for event in model[key]]
    assert state.get() == model.get(key, [])
    assert state.where("CLICK") == [event for event in model.get(key, []) if event.event_type == "CLICK"]


KINDS: dict[str, tuple[Callable[[], Any], Step]] = {
    "value": (lambda: ValueState(int), value_step),
    "reducing": (lambda: ReducingState(int, lambda a, b: a + b), reduce_step),
    "aggregating": (lambda: AggregatingState(Mean()), mean_step),
    "list": (lambda: ListState(int), list_step),
    "list-keep-last": (lambda: ListState(int, keep_last=20), bounded_step),
    "list-keep-for": (
        lambda: ListState(Point, keep_for=timedelta(seconds=3), time=lambda p: p.time),
        timed_step,
    ),
    "series": (
        lambda: TimeSeriesState(Point, time=lambda p: p.time, keep_for=timedelta(seconds=3), keep_last=25),
        series_step,
    ),
    "series-plain": (
        lambda: PlainTimeSeries(Point, time="time", keep_for=timedelta(seconds=3), keep_last=25),
        series_step,
    ),
    "map": (lambda: MapState(str, int), map_step),
    "ring": (lambda: RingState(UserEvent, keep_last=10, column="event_type"), ring_step),
}


@pytest.fixture
def stores(tmp_path: Path) -> StoreMaker:
    """Makes stores of a kind in a folder of the test."""
    return lambda kind: make_stores(kind, tmp_path)


def shown(model: Model) -> Model:
    return {key: value for key, value in model.items() if not key.startswith("(")}


def seen(bed: Bed) -> Model:
    return {key: bed.state.look(key) for key in bed.state.stored_keys()}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_restarted_between_every_two_steps_equals_its_model(kind: str, store: str, stores: StoreMaker) -> None:
    declare, step = KINDS[kind]
    rng = random.Random(kind)
    bed = Bed(declare, stores(store))
    model: Model = {}
    now = START
    for number in range(250 if store == "memory" else 40):  # opening a database takes its time
        now += rng.randrange(400)
        bed.at(now)
        key = rng.choice(KEYS)
        step(rng, bed.on(key), model, key, now)
        bed.cut()
        if not number % 9:
            bed.compact()
        bed = bed.restart()
        assert seen(bed) == shown(model)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_one_batch_become_durable_together_or_not_at_all(kind: str, store: str, stores: StoreMaker) -> None:
    declare, step = KINDS[kind]
    rng = random.Random(kind + "batches")
    bed = Bed(declare, stores(store))
    model: Model = {}
    now = START
    for _ in range(60 if store == "memory" else 25):
        before = msgspec.msgpack.decode(msgspec.msgpack.encode(seen(bed)))
        trial = copied(model)
        for _ in range(rng.randrange(1, 25)):
            now += rng.randrange(100)
            bed.at(now)
            key = rng.choice(KEYS)
            step(rng, bed.on(key), trial, key, now)
        assert seen(bed) == shown(trial)
        if rng.random() < 0.3:
            bed = bed.restart()
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(seen(bed))) == before
        else:
            bed.cut()
            model = trial
            if rng.random() < 0.3:
                bed = bed.restart()
            assert seen(bed) == shown(model)


def copied(model: Model) -> Model:
    return {
        key: {k: list(v) if isinstance(v, list) else v for k, v in value.items()}
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, list)
        else value
        for key, value in model.items()
    }


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_of_a_state_are_the_state(kind: str, store: str, stores: StoreMaker) -> None:
    declare, step = KINDS[kind]
    rng = random.Random(kind + "rows")
    bed = Bed(declare, stores(store))
    model: Model = {}
    for number in range(120):
        bed.at(START + 100 * number)
        key = rng.choice(KEYS)
        step(rng, bed.on(key), model, key, START + 100 * number)
        if not number % 10:
            bed.cut()
        if not number % 40:
            bed = bed.restart()
    bed.cut()
    rows = list(bed.state.stored_rows())
    assert len({key for key, _ in rows}) == len(rows)
    copy = Bed(declare, stores("memory"))
    copy.log.extend(LogRecord(offset, 0, key, value) for offset, (key, value) in enumerate(rows))
    copy.end = len(rows)
    assert seen(copy.restart()) == shown(model)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cleared_key_leaves_no_row_in_the_changelog(kind: str, store: str, stores: StoreMaker) -> None:
    declare, _ = KINDS[kind]
    bed = Bed(declare, stores(store))
    for number in range(100):
        bed.at(START + 10 * number)
        _fill(bed, kind, number)
        bed.cut()
        if not number % 30:
            bed = bed.restart()
    assert bed.living_rows()
    bed.on("k").clear()
    bed.cut()
    assert bed.living_rows() == {}
    assert seen(bed) == {}
    assert seen(bed.restart()) == {}


def _fill(bed: Bed, kind: str, number: int) -> None:
    state = bed.on("k")
    if kind == "map":
        state.put(str(number), number)
    elif kind == "value":
        state.update(number)
    elif kind == "ring":
        state.add(user_event(number))
    elif kind in ("series", "series-plain", "list-keep-for"):
        state.add(Point(START + number, number))
    else:
        state.add(number)
