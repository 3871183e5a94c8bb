"""Local snapshots: whenever one is taken and whatever happens while it is, snapshot and changelog tail are the state."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from models.errors import StateError
from tables import MapState, ValueState
from tables.snapshot import SnapshotWriter, is_clean, load_snapshot
from tables.store import PartitionStore
from tests.contract.state_kit import START, Bed
from tests.contract.test_state_kinds import KEYS, KINDS, Model, seen, shown

LOG = "app-op-changelog"


class SnapshotStores:
    """Stores in memory that begin with the snapshot file, if there is one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> PartitionStore:
        store = load_snapshot(self.path, changelog=LOG, partition=3)
        # The restart reads from the resume offset: the last part is applied once more.
        store.next_offset = store.resume_offset
        return store


def writer(bed: Bed, path: Path) -> SnapshotWriter:
    store: Any = bed.store
    return SnapshotWriter(store, path, changelog=LOG, partition=3, now_ms=bed.now)


def taken(bed: Bed, path: Path) -> None:
    snapshot = writer(bed, path)
    while not snapshot.step(2):
        pass
    snapshot.publish()


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_taken_while_the_state_changes_and_the_tail_are_the_state(kind: str, tmp_path: Path) -> None:
    declare, step = KINDS[kind]
    rng = random.Random(kind + "snapshots")
    path = tmp_path / "3.snapshot"
    bed = Bed(declare, SnapshotStores(path))
    model: Model = {}
    snapshot: SnapshotWriter | None = None
    published = 0
    now = START
    for _ in range(300):
        for _ in range(rng.randrange(1, 6)):
            now += rng.randrange(200)
            bed.at(now)
            key = rng.choice(KEYS)
            step(rng, bed.on(key), model, key, now)
        bed.cut()
        if rng.random() < 0.1:
            bed.compact(keep_tombstones=True)  # as a broker does for a day; older snapshots are not used
        if snapshot is None and rng.random() < 0.3:
            snapshot = writer(bed, path)
        if snapshot is not None and snapshot.step(1) and snapshot.ready():
            snapshot.publish()
            published += 1
            snapshot = None
        if rng.random() < 0.15:
            if snapshot is not None:
                snapshot.abort()
                snapshot = None
            bed = bed.restart()
            assert seen(bed) == shown(model)
    if snapshot is not None:
        snapshot.abort()
    assert published > 3


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_snapshot_at_a_stop_only_the_last_part_is_read(kind: str, tmp_path: Path) -> None:
    declare, step = KINDS[kind]
    rng = random.Random(kind)
    path = tmp_path / "3.snapshot"
    bed = Bed(declare, SnapshotStores(path))
    model: Model = {}
    for number in range(60):
        bed.at(START + 100 * number)
        key = rng.choice(KEYS)
        step(rng, bed.on(key), model, key, bed.now)
        bed.cut()
    taken(bed, path)
    store = load_snapshot(path, changelog=LOG, partition=3)
    assert store.next_offset == bed.end
    assert bed.end - store.resume_offset < 20 < bed.end
    assert store.markers == bed.store.markers
    assert store.origin == bed.store.origin
    bed.log[: store.resume_offset] = []
    assert seen(bed.restart()) == shown(model)


def test_nothing_is_published_before_all_that_it_holds_is_durable(tmp_path: Path) -> None:
    path = tmp_path / "3.snapshot"
    bed = Bed(lambda: ValueState(int), SnapshotStores(path))
    bed.on("a").update(1)
    bed.cut()
    bed.on("a").update(2)
    rows: list[Any] = []
    bed.state.freeze(rows)
    bed.store.seal(rows)
    snapshot = writer(bed, path)
    assert snapshot.step()
    assert not snapshot.ready()
    with pytest.raises(StateError, match="not durable"):
        snapshot.publish()
    assert not path.exists()
    bed.store.committed(rows, bed.end + 1)
    assert snapshot.ready()
    snapshot.publish()
    assert path.exists()


def _bit_flipped(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]


DAMAGES = {
    "bit flip": _bit_flipped,
    "cut within a block": lambda raw: raw[:-5],
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "other format": lambda raw: b"FAMSNAP9" + raw[8:],
    "something behind": lambda raw: raw + b"x",
    "not a snapshot": lambda raw: b"hello",
    "zeros": lambda raw: bytes(len(raw)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_discarded_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "3.snapshot"
    bed = Bed(lambda: MapState(str, int), SnapshotStores(path))
    for key in KEYS:
        bed.on(key).put("e", 1)
    bed.cut()
    taken(bed, path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))  # type: ignore[no-untyped-call]
    with caplog.at_level(logging.WARNING):
        store = load_snapshot(path, changelog=LOG, partition=3)
    assert (store.next_offset, store.states, store.markers, store.origin) == (0, {}, {}, "")
    assert "discarded" in caplog.text
    assert not path.exists()
    assert len(seen(bed.restart())) == len(KEYS)


def test_a_file_cut_anywhere_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "3.snapshot"
    bed = Bed(lambda: ValueState(int), SnapshotStores(path))
    bed.on("a").update(1)
    bed.cut()
    taken(bed, path)
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        assert load_snapshot(path, changelog=LOG, partition=3).next_offset == 0


def test_a_snapshot_of_another_partition_or_changelog_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "3.snapshot"
    bed = Bed(lambda: ValueState(int), SnapshotStores(path))
    bed.on("a").update(1)
    bed.cut()
    for changelog, partition in ((LOG, 2), ("other", 3)):
        taken(bed, path)
        assert load_snapshot(path, changelog=changelog, partition=partition).next_offset == 0


def test_state_that_nobody_gives_out_stops_a_snapshot_instead_of_being_missed(tmp_path: Path) -> None:
    bed = Bed(lambda: ValueState(int), SnapshotStores(tmp_path / "3.snapshot"))
    bed.store.rows("timers").take(b"k")
    with pytest.raises(StateError, match="timers"):
        writer(bed, tmp_path / "3.snapshot")


def test_state_of_a_removed_declaration_is_in_the_snapshot_untouched(tmp_path: Path) -> None:
    path = tmp_path / "3.snapshot"
    bed = Bed(lambda: ValueState(int, name="old"), SnapshotStores(path))
    bed.on("a").update(1)
    bed.cut()
    bed = bed.restart(lambda: ValueState(int, name="new"))
    taken(bed, path)
    assert seen(bed.restart(lambda: ValueState(int, name="old"))) == {"a": 1}


def test_a_store_is_clean_once_everything_is_frozen(tmp_path: Path) -> None:
    bed = Bed(lambda: ValueState(int), SnapshotStores(tmp_path / "3.snapshot"))
    store: Any = bed.store
    assert is_clean(store)
    bed.on("a").update(1)
    assert not is_clean(store)
    bed.cut()
    assert is_clean(store)
