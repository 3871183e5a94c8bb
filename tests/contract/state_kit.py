"""A state on a table top: one handle, its context, a changelog that survives, and restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from models.time import Millis
from tables.changelog import Marker, Row, marker_row
from tables.state import KeyContext, KeyedState
from tables.store import PartitionStore, StateStore

START: Millis = 1_700_000_000_000


class LogRecord(NamedTuple):
    """A changelog record."""

    offset: int
    timestamp: Millis
    key: bytes | None
    value: bytes | None
    headers: None = None


class MemoryStores:
    """Stores that forget everything: a restart reads the whole changelog."""

    def open(self) -> StateStore:
        return PartitionStore()

    def another(self) -> MemoryStores:
        """Stores of another partition."""
        return MemoryStores()


class Bed:
    """One declared state.  ``cut`` makes what changed durable; ``restart`` loses what is not; ``compact`` is what a broker may do."""

    def __init__(
        self, declare: Callable[[], KeyedState], stores: Any, *, log: list[LogRecord] | None = None, now: Millis = START
    ) -> None:
        self.declare = declare
        self.stores = stores
        self.log: list[LogRecord] = log if log is not None else []
        self.end = self.log[-1].offset + 1 if self.log else 0
        self.now = now
        self.watermark = now
        self.context = KeyContext()
        self.store: StateStore = stores.open()
        tail = [record for record in self.log if record.offset >= self.store.next_offset]
        self.store.apply(tail, self.end)
        self.at(now)
        declared = declare()
        declared.name = declared.name or "state"
        self.state: Any = declared.bind(self.context, self.store)

    def at(self, now: Millis) -> Bed:
        """Set both clocks."""
        self.now = self.watermark = now
        self.context.processing_time_ms = self.context.timestamp_ms = self.context.watermark_ms = now
        return self

    def on(self, key: str) -> Any:
        """The handle with a key current."""
        self.context.key = key
        return self.state

    def cut(self) -> list[Row]:
        """Freeze, write, commit."""
        rows: list[Row] = []
        self.state.freeze(rows)
        self.store.seal(rows)
        part = [*rows, *self.store.identity(), marker_row("source", Marker(self.end, self.now))]
        for key, value in part:
            self.log.append(LogRecord(self.end, self.now, key, value))
            self.end += 1
        self.store.committed(part, self.end)
        return rows

    def restart(self, declare: Callable[[], KeyedState] | None = None) -> Bed:
        """A fresh handle that knows only what was durable."""
        self.store.close()
        bed = Bed(declare or self.declare, self.stores, log=self.log, now=self.now)
        bed.context.watermark_ms = self.context.watermark_ms
        return bed

    def compact(self, *, keep_tombstones: bool = False) -> None:
        """Keep the newest record of each key, and drop tombstones below the last record (unless they are young)."""
        newest = {record.key: record.offset for record in self.log}
        self.log[:] = [
            record
            for record in self.log
            if newest[record.key] == record.offset
            and (record.value is not None or keep_tombstones or record is self.log[-1])
        ]

    def living_rows(self) -> dict[bytes, bytes]:
        """State rows of the changelog after compaction."""
        rows: dict[bytes, bytes] = {}
        for record in self.log:
            if record.key is None or record.key.startswith(b"\0"):
                continue
            if record.value is None:
                rows.pop(record.key, None)
            else:
                rows[record.key] = record.value
        return rows


def rows_of(bed: Bed) -> Sequence[Row]:
    """Every row of the state as it is now."""
    return list(bed.state.stored_rows())
