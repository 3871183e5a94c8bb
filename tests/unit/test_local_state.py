"""What a stop leaves on the disk."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from agents.testing import HarnessRecord
from app.local_state import LocalState
from app.settings import Settings
from tables.changelog import part_suffix, row_prefix
from tables.store import StateStore

CHANGELOG = "famulus-op-changelog"
KEYS = 5_000


def local(folder: Path) -> LocalState:
    return LocalState(Settings(broker=f"embedded://{folder}/log", data_dir=folder / "data"))


def filled(state: LocalState) -> StateStore:
    store = state.open(CHANGELOG, 0)
    rows = (row_prefix("value") + b"user%d" % number + part_suffix(b"") for number in range(KEYS))
    store.apply([HarnessRecord(offset, 0, key, b"\x01") for offset, key in enumerate(rows)], KEYS)
    return store


def unfinished(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


def found(state: LocalState) -> int:
    """Rows that the next start finds."""
    store = state.open(CHANGELOG, 0)
    try:
        return sum(1 for _ in store.dump())
    finally:
        store.close()


async def test_a_stop_leaves_a_snapshot(tmp_path: Path) -> None:
    state = local(tmp_path)
    store = filled(state)
    await state.save([store])
    store.close()
    assert found(state) == KEYS


async def test_a_stop_that_takes_too_long_leaves_the_snapshot_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = local(tmp_path)
    store = filled(state)
    await state.save([store])
    state.save_timeout = timedelta(0)
    store.apply([HarnessRecord(KEYS, 0, row_prefix("value") + b"new" + part_suffix(b""), b"\x01")], KEYS + 1)
    with caplog.at_level(logging.WARNING):
        await state.save([store])
    assert "not written in time" in caplog.text
    store.close()
    assert found(state) == KEYS
    assert not unfinished(tmp_path)
