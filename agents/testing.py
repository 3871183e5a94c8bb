"""Test kit: run an operator's function with no loop, no broker and no clock.

What it cannot show: how the log orders records of several partitions, how long anything takes, and what a broker refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from agents.operator.driver import Broadcasts, OperatorTask
from agents.operator.process import KeyedBroadcastProcessFunction, KeyedProcessFunction
from agents.operator.spec import Source
from models.errors import StateError
from models.time import ManualClock, Millis
from tables.changelog import Row
from tables.store import PartitionStore


class HarnessRecord(NamedTuple):
    """A record that never was in a log."""

    offset: int
    timestamp: Millis
    key: bytes | None
    value: Any
    headers: Sequence[tuple[str, bytes]] | None = None


class Snapshot(NamedTuple):
    """State of an operator between two records: changelog rows, marker included, in the order they were written."""

    rows: tuple[Row, ...]
    broadcasts: tuple[tuple[str, Any], ...] = ()
    clock_ms: Millis = 0


class OperatorHarness:
    """One function on one partition.

    ``key`` and ``timestamp`` read an event's key and event time.  Without ``out_of_orderness`` the watermark moves only by
    :meth:`watermark`.  Events are given as objects; outputs come back as objects.
    """

    def __init__(
        self,
        function: KeyedProcessFunction[Any, Any],
        *,
        key: Callable[[Any], str],
        timestamp: Callable[[Any], Millis],
        out_of_orderness: timedelta | None = None,
        max_drift: timedelta | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        self._source = Source(
            topic="harness",
            decode=lambda value: value,
            key=key,
            timestamp=timestamp,
            out_of_orderness=out_of_orderness if out_of_orderness is not None else timedelta(days=365 * 10_000),
        )
        self._clock = ManualClock(snapshot.clock_ms if snapshot else 1_700_000_000_000)
        self._offset = 0
        self._rows: list[Row] = []
        self._broadcast_log: list[tuple[str, Any]] = []
        self._manual = out_of_orderness is None
        store = PartitionStore()
        if snapshot:
            store.apply(_records(snapshot.rows), len(snapshot.rows))
            self._rows.extend(snapshot.rows)
        self._broadcasts: Broadcasts | None = None
        if isinstance(function, KeyedBroadcastProcessFunction):
            # The broadcast side is an instance of its own in a worker, too: partitions see its state read-only.
            self._broadcasts = Broadcasts(copy.copy(function))
            for name, element in snapshot.broadcasts if snapshot else ():
                self.broadcast(name, element)
        self._drift_ms = 1 << 62 if max_drift is None else max_drift // timedelta(milliseconds=1)
        self._task = OperatorTask(
            function,
            self._source,
            store,
            broadcasts=self._broadcasts,
            max_drift_ms=self._drift_ms,
            encode=lambda value: value,
        )
        self._offset = self._task.next_offset
        self._sides: dict[str, list[Any]] = {}
        self.outputs: list[Any] = []

    @classmethod
    def restore(cls, function: KeyedProcessFunction[Any, Any], snapshot: Snapshot, **options: Any) -> OperatorHarness:
        """A harness that goes on from a snapshot, with the same or a changed function."""
        return cls(function, snapshot=snapshot, **options)

    def process(self, event: Any) -> None:
        """Process one event.  An exception of the function is raised here instead of becoming a dead letter."""
        self.process_batch([event])

    def process_batch(self, events: Sequence[Any]) -> None:
        """Process events as one batch of the log."""
        key, timestamp = self._source.key, self._source.timestamp
        records = []
        for event in events:
            records.append(HarnessRecord(self._offset, timestamp(event), key(event).encode(), event))
            self._offset += 1
        watermark = self._task.context.watermark_ms
        self._task.run(records, self._clock.now_ms())
        if self._manual:
            self._task.context.watermark_ms = watermark
        self._collect()

    def broadcast(self, key: str, element: Any) -> None:
        """Give one element to the broadcast side."""
        if self._broadcasts is None:
            raise StateError("this function has no broadcast input: derive it from KeyedBroadcastProcessFunction")
        self._broadcasts.process(key, element)
        self._broadcast_log.append((key, element))

    def watermark(self, timestamp_ms: Millis) -> None:
        """Say that no event before ``timestamp_ms`` is expected any more.  A watermark never goes back."""
        context = self._task.context
        context.watermark_ms = max(context.watermark_ms, timestamp_ms)

    def advance_processing_time(self, by: timedelta) -> None:
        """Move the wall clock."""
        self._clock.advance(by)

    def side_outputs(self, tag: str) -> list[Any]:
        """Values emitted to a side output so far, in order."""
        return self._sides.get(tag, [])

    def state(self, name: str, key: str) -> Any:
        """Current value of a named state for a key, ``None`` if absent."""
        if name not in self._task.states:
            raise StateError(f"no state {name!r}; there are {', '.join(self._task.states) or 'none'}")
        return self._task.states[name].look(key)

    def keys(self, name: str) -> Iterator[str]:
        """Keys that have a value in the named state."""
        return self._task.states[name].stored_keys()

    def counters(self) -> Mapping[tuple[str, str], int]:
        """Counters that the function kept, by (name, label)."""
        return {name: counter.value for name, counter in self._task.metrics.counters.items()}

    def snapshot(self) -> Snapshot:
        """What a restart would find now: the state as it was logged, change by change."""
        self._rows.extend(self._task.freeze())
        self._rows.append(self._task.marker(self._offset))
        return Snapshot(tuple(self._rows), tuple(self._broadcast_log), self._clock.now_ms())

    def crash(self, function: KeyedProcessFunction[Any, Any]) -> OperatorHarness:
        """Lose everything since the last :meth:`snapshot` and start again with a fresh instance of the function."""
        lost = Snapshot(tuple(self._rows), tuple(self._broadcast_log), self._clock.now_ms())
        return OperatorHarness(
            function,
            key=self._source.key,
            timestamp=self._source.timestamp,
            out_of_orderness=None if self._manual else self._source.out_of_orderness,
            max_drift=timedelta(milliseconds=self._drift_ms) if self._drift_ms < 1 << 62 else None,
            snapshot=lost,
        )

    @property
    def next_offset(self) -> int:
        """Number of events that the state contains."""
        return self._offset

    def _collect(self) -> None:
        task = self._task
        self.outputs.extend(value for _, value in task.outputs)
        task.outputs.clear()
        for tag, _, value in task.sides:
            self._sides.setdefault(tag, []).append(value)
        task.sides.clear()
        if task.refused:
            _, exc = task.refused.pop(0)
            task.refused.clear()
            raise exc


def _records(rows: Sequence[Row]) -> list[HarnessRecord]:
    return [HarnessRecord(offset, 0, key, value) for offset, (key, value) in enumerate(rows)]
