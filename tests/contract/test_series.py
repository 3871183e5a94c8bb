"""One contract for a key's series: the compiled one and its Python twin do the same, step by step."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import StateError
from models.history import HistoryEntry
from tables import TimeSeriesState, Ttl, series
from tables.series import PlainSeries, Shape, shape_of
from tests.contract.state_kit import START, Bed, MemoryStores

try:
    from tables import _series
except ImportError:
    _series = None  # type: ignore[assignment]

Make = Callable[[Shape[Any]], PlainSeries[Any]]


def compiled(shape: Shape[Any]) -> PlainSeries[Any]:
    if _series is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tables/_series.pyx is not compiled: install where there is a C compiler")
        pytest.skip("tables/_series.pyx is not compiled here")
    return _series.Series(_series.Layout(shape))


BOTH = pytest.mark.parametrize("make", [compiled, PlainSeries])

HISTORY = shape_of(HistoryEntry, "timestamp")


class Boxed(msgspec.Struct):
    """Not array-like, with a field that is any object."""

    at: int
    what: object = None


class Only(msgspec.Struct, kw_only=True):
    """Cannot be made anew from the values of its fields alone."""

    at: int


class Tagged(msgspec.Struct, tag="t", array_like=True):
    at: int


def entry(at: int, amount: float = 1.0, merchant: str = "m", country: str = "DE") -> HistoryEntry:
    return HistoryEntry(at, amount, merchant, country)


@BOTH
@pytest.mark.parametrize(
    ("shape", "make_one"),
    [
        (HISTORY, entry),
        (shape_of(HistoryEntry, lambda item: item.timestamp), entry),
        (shape_of(Boxed, "at"), lambda at: Boxed(at, {"n": at})),
        (shape_of(Only, "at"), lambda at: Only(at=at)),
        (shape_of(Tagged, "at"), Tagged),
        (shape_of(int, lambda item: item), int),
    ],
)
def test_elements_of_any_shape_come_back_equal_and_are_encoded_as_they_are(
    make: Make, shape: Shape[Any], make_one: Any
) -> None:
    series = make(shape)
    for at in (5, 3, 9):
        series.add(make_one(at), 100, 10)
    expected = [make_one(3), make_one(5), make_one(9)]
    assert list(series) == series[:] == expected
    assert (series[0], series[-1], series.latest, series.previous) == (
        make_one(3),
        make_one(9),
        make_one(9),
        make_one(3),
    )
    encode = msgspec.msgpack.encode
    assert encode(series.elements()) == encode(expected)
    assert encode(series.head()) == encode((-1, make_one(9)))
    assert series.packed() == encode((-1, make_one(9))) + encode(expected)


class Fields(msgspec.Struct, array_like=True):
    at: int
    real: float
    text: str | None = None
    what: object = None


WHOLE = [edge + by for edge in (0, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 60) for by in (-1, 0, 1)]


@BOTH
@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_packed_it_is_what_the_encoder_makes_of_it(make: Make, count: int) -> None:
    chance = random.Random(count)
    series = make(shape_of(Fields, "at"))
    texts = [None, "", "a" * 31, "b" * 32, "ü" * 127, "語" * 86, "c" * 256, *(["😀" * 20_000] if count < 20 else [])]
    for _ in range(count):
        at, whole = (chance.choice(WHOLE) * chance.choice((1, -1)) for _ in range(2))
        real = chance.choice([0.0, -0.0, 1.5, 1e300, 5e-324, chance.random()])
        series.add(
            Fields(at, real, chance.choice(texts), chance.choice([None, whole, [1, {"a": real}]])), 1 << 61, 1 << 30
        )
    encode = msgspec.msgpack.encode
    assert series.packed() == encode(series.head()) + encode(list(series))


@BOTH
def test_equal_texts_are_told_from_others_that_look_alike(make: Make) -> None:
    """They are looked up by their end and their length first."""
    series = make(HISTORY)
    texts = ["x12345678", "y12345678", "12345678", "ü2345678", "\u0132345678", "", "a", "\0a", "é", "語"]
    for _ in range(3):
        for text in texts:
            series.add(entry(1, merchant="".join(text), country=text[::-1]), 100, 1000)
    assert series.column("merchant", 0, 99) == 3 * texts
    assert series.column("country", 0, 99) == [text[::-1] for text in 3 * texts]


@BOTH
def test_a_column_and_a_position_are_what_the_elements_say(make: Make) -> None:
    series = make(HISTORY)
    for at in (10, 20, 20, 30):
        series.add(entry(at, at / 2, f"m{at}"), 100, 10)
    assert [series.position(at) for at in (9, 10, 20, 29, 30, 31)] == [0, 1, 3, 3, 4, 4]
    assert series.column("timestamp", 1, 3) == [20, 20]
    assert series.column("amount", 0, 99) == [5.0, 10.0, 10.0, 15.0]
    assert series.column("merchant", 3, 4) == ["m30"]
    assert series.column("country", 4, 2) == []
    assert [series.reaches(n, 10, 20) for n in (-1, 0, 1, 2, 3, 99)] == [True, True, True, True, False, False]


@BOTH
def test_a_place_without_an_element_is_an_index_error(make: Make) -> None:
    series = make(HISTORY)
    series.add(entry(1), 100, 10)
    for number in (1, -2):
        with pytest.raises(IndexError):
            series[number]


@BOTH
@pytest.mark.parametrize("wrong", [5, Boxed(1), None])
def test_an_element_of_another_type_is_refused_and_changes_nothing(make: Make, wrong: Any) -> None:
    series = make(HISTORY)
    series.add(entry(1), 100, 10)
    with pytest.raises(TypeError, match="HistoryEntry"):
        series.add(wrong, 100, 10)
    assert list(series) == [entry(1)]
    assert series.latest == entry(1)


def test_a_field_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    series = compiled(HISTORY)
    series.add(entry(1), 100, 10)
    for wrong in (entry(2, "much"), entry("now"), entry(1 << 70), entry(1 << 62)):  # type: ignore[arg-type]
        with pytest.raises((TypeError, OverflowError)):
            series.add(wrong, 100, 10)
    assert list(series) == [entry(1)]
    assert (series.latest, series.previous) == (entry(1), None)


def test_a_time_that_is_no_field_is_refused_by_name() -> None:
    for of in (HistoryEntry, Only):
        with pytest.raises(StateError, match="no such field"):
            shape_of(of, "when")


def use_and_drop(texts: list[str]) -> None:
    series = compiled(HISTORY)
    again = [text.encode().decode() for text in texts]
    for number, text in enumerate(again + texts):
        series.add(entry(number - 3 * (number % 5), 1.0, text, text), 12, 6)
        _ = series[0], list(series), series.elements(), series.column("merchant", 0, 3), series.previous
    assert len(series) <= 6
    series.restore([entry(n, 1.0, text, text) for n, text in enumerate(texts)], -1, entry(1, 1.0, texts[0]))
    with pytest.raises(TypeError):
        series.restore([entry(1, 1.0, texts[3]), 5], -1, None)


def test_nothing_is_kept_of_what_has_gone() -> None:
    texts = [f"text {number}" + "x" * number for number in range(40)]
    before = [sys.getrefcount(text) for text in texts]
    for _ in range(3):
        use_and_drop(texts)
    gc.collect()
    assert [sys.getrefcount(text) for text in texts] == before


STEPS = st.lists(
    st.tuples(st.integers(0, 60), st.floats(allow_nan=False), st.sampled_from("abc"), st.booleans()), max_size=60
)


@given(steps=STEPS, keep_ms=st.integers(1, 40), keep_last=st.integers(2, 12))
@settings(max_examples=300, deadline=None)
def test_both_say_the_same_after_each_step(
    steps: list[tuple[int, float, str, bool]], keep_ms: int, keep_last: int
) -> None:
    fast, plain = compiled(HISTORY), PlainSeries(HISTORY)
    for at, amount, text, restart in steps:
        added = entry(at, amount, text)
        assert fast.add(added, keep_ms, keep_last) == plain.add(added, keep_ms, keep_last)
        assert said(fast) == said(plain)
        if restart:
            again: list[Any] = []
            for one, make in ((fast, compiled), (plain, PlainSeries)):
                other = make(HISTORY)
                other.restore(list(one), one.floor, one.latest)
                again.append(other)
            fast, plain = again
            assert said(fast) == said(plain)


def said(series: PlainSeries[Any]) -> Any:
    return (
        series[:],
        len(series),
        series.floor,
        series.latest,
        series.previous,
        [series.position(at) for at in range(0, 62, 7)],
        [series.reaches(n, at - 9, at) for n in range(4) for at in range(0, 62, 13)],
        series.column("amount", 1, len(series) - 1),
        msgspec.msgpack.encode((series.head(), series.elements())),
    )


def test_a_series_that_has_shrunk_gives_its_memory_back() -> None:
    """Seen from outside: a key that was busy once does not stay large for ever."""
    assert _series is not None or os.environ.get("CI") != "true"
    import tracemalloc

    series = partial(compiled, HISTORY)()
    tracemalloc.start()
    try:
        for at in range(20_000):
            series.add(entry(at), 1 << 40, 1 << 30)
        large = tracemalloc.get_traced_memory()[0]
        for at in range(20_000, 80_000):
            series.add(entry(at), 10, 1 << 30)
        small = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(series) == 10
    assert large > 500_000
    assert small < large / 20


class Payment(msgspec.Struct):
    """Has what a HistoryEntry has, and more."""

    payment_id: str
    country: str
    amount: float
    timestamp: int
    merchant: str


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("ttl", [None, Ttl(timedelta(hours=1))])
def test_an_element_made_from_another_object_is_the_same_as_one_that_was_made_before(
    monkeypatch: pytest.MonkeyPatch, fast: bool, ttl: Ttl | None
) -> None:
    monkeypatch.setattr(series, "COMPILED", fast and series.COMPILED)
    beds = [
        Bed(lambda: TimeSeriesState(HistoryEntry, time="timestamp", keep_last=40, ttl=ttl), MemoryStores())
        for _ in range(2)
    ]
    for number in range(60):
        for bed, whole in zip(beds, (True, False), strict=True):
            bed.at(START + number)
            state = bed.on(f"key{number % 2}")
            if whole:
                state.add(entry(START + number, number / 2, f"m{number}"))
            else:
                state.add_from(Payment(f"p{number}", "DE", number / 2, START + number, f"m{number}"))
        if number % 7 == 0:
            rows = [bed.cut() for bed in beds]
            assert rows[0] == rows[1] != []
        if number % 20 == 19:
            beds = [bed.restart() for bed in beds]
    assert beds[0].state.look("key1") == beds[1].state.look("key1")


def test_an_object_without_such_a_field_or_elements_that_are_more_are_refused() -> None:
    state = Bed(lambda: TimeSeriesState(HistoryEntry, time="timestamp"), MemoryStores()).on("k")
    with pytest.raises(AttributeError, match="timestamp"):
        state.add_from(Boxed(1))
    state = Bed(lambda: TimeSeriesState(Only, time="at"), MemoryStores()).on("k")
    with pytest.raises(StateError, match="not made of its fields"):
        state.add_from(Boxed(1))


class Plain:
    """Keeps its fields in a dict."""

    def __init__(self, at: int, what: object) -> None:
        self.at = at
        self.what = what


class Slotted:
    __slots__ = ("at", "what")

    def __init__(self, at: int, what: object) -> None:
        self.at = at
        self.what = what


class Shadowing(Slotted):
    """Has the slots of its base, and something else under their names."""

    __slots__ = ()
    what = property(lambda self: "shadowed")

    def __init__(self, at: int) -> None:
        self.at = at


class Answering(Slotted):
    """Asks nobody for its fields."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        return "answered" if name == "what" else super().__getattribute__(name)


class Numbered:
    """Has no field of its own."""

    at = START
    what = property(lambda self: self.__class__.__name__)


@pytest.mark.parametrize("fast", [True, False])
def test_fields_are_found_whatever_kind_of_object_has_them(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(series, "COMPILED", fast and series.COMPILED)
    state = Bed(lambda: TimeSeriesState(Boxed, time="at"), MemoryStores()).on("k")
    sources = [Plain(START, "dict"), Slotted(START, "slot"), Shadowing(START), Answering(START, "hidden"), Numbered()]
    for _ in range(2):
        for source in sources:
            state.add_from(source)
        state.add_from(Boxed(START, "struct"))
    found = [element.what for element in state.get()]
    assert found == 2 * ["dict", "slot", "shadowed", "answered", "Numbered", "struct"]
    unset = Slotted.__new__(Slotted)
    unset.at = START
    with pytest.raises(AttributeError, match="what"):
        state.add_from(unset)


@pytest.mark.parametrize("fast", [True, False])
def test_the_span_may_change_while_running(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(series, "COMPILED", fast and series.COMPILED)
    state = Bed(
        lambda: TimeSeriesState(HistoryEntry, time="timestamp", keep_for=timedelta(milliseconds=10)), MemoryStores()
    ).on("k")
    assert state.keep_ms == 10
    for at, span, kept in ((0, 10, [0]), (9, 10, [0, 9]), (10, 10, [9, 10]), (20, 100, [9, 10, 20]), (22, 5, [20, 22])):
        state.keep_ms = span
        state.add(entry(START + at))
        assert [element.timestamp - START for element in state.get()] == kept
        assert state.keep_ms == span
