"""What a worker keeps of operator state on its own disk: snapshots of state in memory, or RocksDB.

Nothing here is needed to be right: the changelog is the state.  It is there so that a restart reads the changelog's tail only.

    DATA_DIR/APP_ID/snapshots/CHANGELOG/PARTITION.snapshot
    DATA_DIR/APP_ID/rocksdb/CHANGELOG/PARTITION/
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from app.settings import Settings
from models.time import Clock, SystemClock
from tables.rocksdb import RocksStore
from tables.snapshot import SnapshottingStore, SnapshotWriter, load_snapshot, too_old
from tables.store import StateStore

log = logging.getLogger(__name__)


class LocalState:
    """Opens the stores of a worker's partitions and, at a stop, leaves behind what the next start can use."""

    #: time between two snapshots of a partition
    snapshot_interval = timedelta(minutes=5)
    #: What a stop may take for them: whoever stops workers kills those that take long (the parent of several after 15 s).
    save_timeout = timedelta(seconds=9)

    def __init__(self, settings: Settings, clock: Clock = SystemClock()) -> None:  # noqa: B008  (frozen)
        self._root = settings.data_dir / settings.app_id
        self._on_disk = settings.store == "rocksdb://"
        self._clock = clock
        self._publishing: set[asyncio.Future[None]] = set()

    def open(self, changelog: str, partition: int) -> StateStore:
        """The partition's store with what is on the disk of it.  Blocks for the time of reading the file."""
        if self._on_disk:
            return RocksStore(self._folder("rocksdb", changelog) / str(partition), clock=self._clock)
        path = self._folder("snapshots", changelog) / f"{partition}.snapshot"
        return SnapshottingStore(
            load_snapshot(path, changelog=changelog, partition=partition),
            path,
            changelog=changelog,
            partition=partition,
            interval=self.snapshot_interval,
            clock=self._clock,
            elsewhere=self._elsewhere,
        )

    def usable(self, store: StateStore, start: int, end: int) -> str | None:
        """Why what is on the disk cannot be used with a changelog of these offsets; ``None``: it can."""
        if store.next_offset > end:
            return f"it is at offset {store.next_offset}, ahead of the changelog's end {end}; was the topic made anew?"
        if store.resume_offset < start:
            return f"it is at offset {store.resume_offset}, and the changelog begins at {start} only"
        if store.next_offset < end and too_old(store.saved_ms, self._clock.now_ms()):
            return "it is so old that the changelog may have forgotten deletions since"
        return None

    async def save(self, stores: Iterable[StateStore]) -> None:
        """At a stop, with everything durable: write snapshots, a few milliseconds at a time, as many as there is time for."""
        deadline = asyncio.get_running_loop().time() + self.save_timeout.total_seconds()
        for store in stores:
            if isinstance(store, SnapshottingStore):
                writer = store.begin_last()
                if writer is not None:
                    await self._write(writer, deadline)
        if self._publishing:
            await asyncio.gather(*self._publishing)

    async def _write(self, writer: SnapshotWriter, deadline: float) -> None:
        try:
            while not writer.step():
                await asyncio.sleep(0)
                if asyncio.get_running_loop().time() > deadline:
                    log.warning("%s was not written in time, the next start reads more of the changelog", writer.path)
                    writer.abort()
                    return
            await asyncio.get_running_loop().run_in_executor(None, writer.publish)
        except OSError as exc:
            log.warning("%s was not written, the next start reads more of the changelog: %s", writer.path, exc)
            writer.abort()

    def _elsewhere(self, publish: Callable[[], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(None, publish)
        self._publishing.add(future)
        future.add_done_callback(self._publishing.discard)

    def _folder(self, kind: str, changelog: str) -> Path:
        return self._root / kind / changelog
