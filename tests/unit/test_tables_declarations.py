"""What a declaration of state refuses, and what the debug mode of state reports."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from models.errors import StateError
from tables import (
    AggregateFunction,
    AggregatingState,
    BroadcastState,
    ListState,
    MapState,
    TimeSeriesState,
    Ttl,
    ValueState,
)
from tables.changelog import NO_PART, Row, part_suffix, row_prefix, split_row_key
from tables.state import KeyContext, declared_states
from tables.store import PartitionStore
from tables.ttl import UNSTAMPED, stamp_of, stamped


class Profile(msgspec.Struct):
    visits: list[int] = []


class Visit(msgspec.Struct):
    page: str = ""


def bound(state: Any, store: PartitionStore) -> tuple[Any, KeyContext]:
    context = KeyContext()
    state.name = "s"
    return state.bind(context, store), context


def test_two_states_of_one_name_are_refused() -> None:
    class Twice:
        a = ValueState(int, name="x")
        b = ListState(int, name="x")

    with pytest.raises(StateError, match="both named 'x'"):
        declared_states(Twice())


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "ü"])
def test_a_name_that_rows_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(StateError, match="state name"):
        ValueState(int, name=name)


def test_a_declaration_cannot_be_used_as_a_handle() -> None:
    class Function:
        count = ValueState(int)

    with pytest.raises(StateError, match="before its operator is open"):
        Function.count.update(1)


def test_lists_and_series_refuse_bounds_that_cannot_hold() -> None:
    with pytest.raises(StateError, match="at least one element"):
        ListState(int, keep_last=0)
    with pytest.raises(StateError, match="time= without keep_for="):
        ListState(int, time=lambda n: n)
    with pytest.raises(StateError, match="needs time="):
        ListState(int, keep_for=timedelta(1), ttl=Ttl(timedelta(1)))
    with pytest.raises(StateError, match="a millisecond"):
        ListState(int, keep_for=timedelta(0), time=lambda n: n)
    with pytest.raises(StateError, match="two elements"):
        TimeSeriesState(int, time=lambda n: n, keep_last=1)
    with pytest.raises(StateError, match="a millisecond"):
        TimeSeriesState(int, time=lambda n: n, keep_for=timedelta(0))


def test_a_type_that_cannot_be_stored_is_refused_when_it_is_declared() -> None:
    ambiguous: Any = Profile | Visit
    with pytest.raises(StateError, match="use a msgspec"):
        ValueState(ambiguous)


def test_an_accumulator_without_a_type_is_refused() -> None:
    class Untyped(AggregateFunction[Any, Any, Any]):
        def create_accumulator(self) -> Any:
            return []

        def add(self, value: Any, accumulator: Any) -> Any:
            return accumulator

        def get_result(self, accumulator: Any) -> Any:
            return accumulator

        def merge(self, a: Any, b: Any) -> Any:
            return a

    with pytest.raises(StateError, match="annotate it, or declare accumulator="):
        AggregatingState(Untyped())
    assert AggregatingState(Untyped(), accumulator=list[int]).of == list[int]


@pytest.mark.parametrize("state", [ValueState(int), MapState(str, int), ListState(int)], ids=lambda s: s.kind)
def test_a_value_that_cannot_be_written_names_state_and_key(state: Any) -> None:
    handle, context = bound(state, PartitionStore())
    context.key = "user1"
    if state.kind == "map":
        handle.put("a", 1 << 70)
    elif state.kind == "list":
        handle.add(1 << 70)
    else:
        handle.update(1 << 70)
    with pytest.raises(StateError, match=r"state 's' of key 'user1' cannot be encoded"):
        handle.freeze([])


def test_a_row_of_another_type_names_state_and_key() -> None:
    store = PartitionStore()
    store.rows("s").apply(b"user1", b"", msgspec.msgpack.encode("text"))
    handle, context = bound(ValueState(int), store)
    context.key = "user1"
    with pytest.raises(StateError, match=r"state 's' of key 'user1' does not fit"):
        handle.value()


def test_a_value_of_none_is_no_value() -> None:
    handle, context = bound(ValueState(int, default=lambda: 7), PartitionStore())
    context.key = "k"
    handle.update(None)
    assert handle.value() == 7
    assert list(handle.stored_keys()) == []
    rows: list[Row] = []
    handle.freeze(rows)
    assert [value for _, value in rows] == [None]


def test_broadcast_state_is_written_on_the_broadcast_side_only() -> None:
    shared = BroadcastState(str, int, name="rules").share()
    reader = shared.reader()
    shared.put("a", 1)
    assert reader.get("a") == 1
    with pytest.raises(StateError, match="read-only here"):
        reader.put("a", 2)
    with pytest.raises(StateError, match="read-only here"):
        reader.remove("a")


def test_broadcast_state_derives_once_per_change_for_all_readers() -> None:
    calls = []

    def derive(entries: Any, changed: set[str], previous: Any) -> int:
        calls.append(set(changed))
        return sum(entries.values())

    shared = BroadcastState(str, int, derive=derive, name="rules").share()
    readers = [shared.reader() for _ in range(3)]
    shared.put("a", 1)
    shared.put("b", 2)
    assert [reader.derived() for reader in readers] == [3, 3, 3]
    shared.remove("a")
    assert [reader.derived() for reader in readers] == [2, 2, 2]
    assert calls == [{"a", "b"}, {"a"}]


# --- rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "a", "a\0", "\0\0", "a\0b\0", "ü", "x\0\x01"])
@pytest.mark.parametrize(
    "part", [b"", b"\0", b"\0\0", b"a\0\x02", b"\xff\xff", b"x" * 65_534, b"x" * 65_535, b"x" * 70_000]
)
def test_a_row_key_comes_apart_as_it_was_put_together(key: str, part: bytes) -> None:
    raw = key.encode()
    row = row_prefix("state") + raw + (part_suffix(part) if part else NO_PART)
    assert split_row_key(row) == (b"state", raw, part)


@pytest.mark.parametrize("stamp", [0, 1, -1, 1_700_000_000_000, (1 << 47) - 1])
def test_a_stamp_is_told_from_every_encoded_value(stamp: int) -> None:
    assert stamp_of(stamped(stamp, b"\x01")) == stamp
    for value in (
        None,
        0,
        -1,
        1 << 40,
        1.5,
        "",
        "text" * 100,
        b"raw",
        [],
        [1],
        {},
        {"a": 1},
        msgspec.msgpack.Ext(1, b"8 bytes!"),
    ):
        assert stamp_of(msgspec.msgpack.encode(value)) == UNSTAMPED


# --- values mutated in place -------------------------------------------------------------------------------------------------


def test_a_value_changed_in_place_is_reported_with_its_key() -> None:
    handle, context = bound(ValueState(Profile), PartitionStore(check_mutations=True))
    context.key = "user1"
    handle.update(Profile())
    handle.freeze([])
    profile = handle.value()
    profile.visits.append(1)
    with pytest.raises(StateError, match=r"state 's' of key 'user1' was changed in place"):
        handle.freeze([])


def test_a_value_changed_and_updated_is_not_reported() -> None:
    store = PartitionStore(check_mutations=True)
    handle, context = bound(ValueState(Profile), store)
    context.key = "user1"
    for _ in range(3):
        profile = handle.value() or Profile()
        profile.visits.append(1)
        handle.update(profile)
        handle.freeze([])
    assert handle.look("user1").visits == [1, 1, 1]


def test_a_list_written_past_its_state_is_reported() -> None:
    handle, context = bound(ListState(int), PartitionStore(check_mutations=True))
    context.key = "user1"
    handle.add(1)
    handle.freeze([])
    handle.get().append(2)
    with pytest.raises(StateError, match="changed in place"):
        handle.freeze([])
