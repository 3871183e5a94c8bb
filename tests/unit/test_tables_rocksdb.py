"""RocksDB below the handles: what it holds when, which options it runs with, and what happens to a damaged one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from models.errors import StateError, StateUnavailable
from tables import ListState, MapState, ValueState
from tables.changelog import Marker, Row, marker_row
from tables.rocksdb import RocksStore, assert_options
from tables.state import KeyContext
from tests.contract.state_kit import LogRecord


def bound(store: RocksStore, state: Any, name: str = "s") -> tuple[Any, KeyContext]:
    context = KeyContext()
    state.name = name
    return state.bind(context, store), context


def frozen(store: RocksStore, state: Any) -> list[Row]:
    rows: list[Row] = []
    state.freeze(rows)
    store.seal(rows)
    return rows


def test_only_committed_parts_survive(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", cached_keys=0)
    state, context = bound(store, ValueState(int))
    context.key = "k"
    state.update(1)
    first = frozen(store, state)
    state.update(2)
    frozen(store, state)
    assert state.value() == 2
    store.committed([*first, marker_row("source", Marker(5, 77))], 10)
    assert state.value() == 2
    store.close()
    store = RocksStore(tmp_path / "db")
    state, context = bound(store, ValueState(int))
    context.key = "k"
    assert state.value() == 1
    assert (store.next_offset, store.resume_offset) == (10, 0)
    assert store.markers == {"source": Marker(5, 77)}
    store.close()


def test_what_waits_to_be_committed_is_read_instead_of_what_is_stored(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", cached_keys=0)
    value, context = bound(store, ValueState(int), "v")
    items, list_context = bound(store, ListState(int), "l")
    entries, map_context = bound(store, MapState(str, int), "m")
    context.key = list_context.key = map_context.key = "k"
    value.update(1)
    items.add(1)
    entries.put("a", 1)
    entries.put("b", 1)
    parts = [[*frozen(store, value), *frozen(store, items), *frozen(store, entries)]]
    value.clear()
    items.clear()
    entries.remove("a")
    parts.append([*frozen(store, value), *frozen(store, items), *frozen(store, entries)])
    for part in ([], *parts):
        store.committed(part, store.next_offset + 1)
        assert value.value() is None
        assert list(items.get()) == []
        assert dict(entries.entries()) == {"b": 1}
        assert list(value.stored_keys()) == list(items.stored_keys()) == []
        assert list(entries.stored_keys()) == ["k"]
    store.close()


def test_a_deletion_between_two_values_is_committed_in_its_turn(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", cached_keys=0)
    state, context = bound(store, ValueState(int))
    context.key = "k"
    parts = []
    for change in (state.clear, lambda: state.update(1), state.clear, lambda: state.update(2), state.clear):
        change()
        parts.append(frozen(store, state))
    for part in parts:
        store.committed(part, store.next_offset + 1)
        assert state.value() is None
    store.close()


def test_the_cache_is_bounded_once_a_part_is_sealed(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", cached_keys=10)
    state, context = bound(store, ValueState(int))
    for number in range(500):
        context.key = f"k{number}"
        state.update(number)
    rows = frozen(store, state)
    assert len(state._rows) == 10
    store.committed(rows, 1)
    for number in range(500):
        context.key = f"k{number}"
        assert state.value() == number
    frozen(store, state)
    assert len(state._rows) == 10
    store.close()


def test_keys_of_each_length_and_byte_are_listed_once(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db", cached_keys=0)
    state, context = bound(store, MapState(str, int))
    keys = {"", "\0", "a", "a\0", "ÿ" * 3, *(f"k{number}" for number in range(2500))}
    for key in keys:
        context.key = key
        state.put("x", 1)
        state.put("\0", 1)
    rows = frozen(store, state)
    assert sorted(state.stored_keys()) == sorted(keys)
    store.committed(rows, 1)
    assert sorted(state.stored_keys()) == sorted(keys)
    assert dict(store.dump()) == dict(rows)
    store.close()


def test_options_hold_when_a_database_is_opened_again(tmp_path: Path) -> None:
    for _ in range(3):
        store = RocksStore(tmp_path / "db")
        assert_options(tmp_path / "db")
        store.close()


def test_a_database_with_other_options_is_refused(tmp_path: Path) -> None:
    options = Options(raw_mode=True)
    Rdict(str(tmp_path / "db"), options).close()
    with pytest.raises(StateError, match=r"wal_recovery_mode|filter_policy|compression"):
        assert_options(tmp_path / "db")


def test_a_folder_that_is_open_elsewhere_is_not_taken_for_damaged(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "db")
    with pytest.raises(StateUnavailable, match="another process"):
        RocksStore(tmp_path / "db")
    store.close()


def filled(folder: Path) -> list[LogRecord]:
    store = RocksStore(folder)
    records = [LogRecord(n, 0, b"s\0k%d\0\0" % n, bytes([0xCD, n >> 8, n & 255])) for n in range(20_000)]
    store.apply(records, len(records))
    store.flush()
    store.close()
    return records


def test_a_damaged_block_is_noticed_and_the_next_start_is_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path / "db")
    for table in (tmp_path / "db").glob("*.sst"):
        raw = bytearray(table.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        table.write_bytes(bytes(raw))
    store = RocksStore(tmp_path / "db")
    with pytest.raises(StateError, match="rebuilds it from the changelog"):
        list(store.dump())
    store.close()
    with caplog.at_level(logging.WARNING):
        store = RocksStore(tmp_path / "db")
    assert store.next_offset == 0
    assert list(store.dump()) == []
    assert "is rebuilt from the changelog" in caplog.text
    store.close()


@pytest.mark.parametrize("victim", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_lost_file_is_noticed_at_the_start(victim: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = filled(tmp_path / "db")
    for path in (tmp_path / "db").glob(victim):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        store = RocksStore(tmp_path / "db")
    assert store.next_offset == 0
    store.apply(records, len(records))
    assert len(list(store.dump())) == len(records)
    store.close()


def test_reset_forgets_everything(tmp_path: Path) -> None:
    filled(tmp_path / "db")
    store = RocksStore(tmp_path / "db")
    assert store.next_offset == 20_000
    store.reset()
    assert (store.next_offset, store.markers, list(store.dump())) == (0, {}, [])
    store.close()
