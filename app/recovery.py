"""Recovery: operator state is read back from its changelog before the sources go on.

Faust's own recovery stays in charge of plain tables and of the order of things; this adds one step before it resumes the sources.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from faust.tables.recovery import Recovery

from agents.lane import Lane
from agents.operator import ReplayedProcessFunction
from app.collector import no_collections
from app.local_state import LocalState
from models.errors import LogError
from tables.log import LogReader, TopicPartition
from tables.store import StateStore
from tables.table import StateTableManager

log = logging.getLogger(__name__)

#: no record for so long, though the log says there are some: give up loudly
STALL_SECONDS = 60.0
#: no record for so long: ask whether the broker is still there
ASK_SECONDS = 5.0


@dataclass
class Progress:
    """How far the restore in progress is: changelog positions and ends, per partition."""

    started: float = 0.0
    first: dict[TopicPartition, int] = field(default_factory=dict)
    position: dict[TopicPartition, int] = field(default_factory=dict)
    end: dict[TopicPartition, int] = field(default_factory=dict)

    @property
    def remaining(self) -> int:
        return sum(max(0, end - self.position[tp]) for tp, end in self.end.items())

    @property
    def read(self) -> int:
        return sum(self.position[tp] - self.first[tp] for tp in self.end)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; ``None`` before the first record."""
        if not self.remaining:
            return 0.0
        rate = self.read / max(time.monotonic() - self.started, 0.001)
        return self.remaining / rate if rate else None

    def text(self) -> str | None:
        """One sentence while there is something left to read, else ``None``."""
        if not self.remaining:
            return None
        done, left = self.read, self.seconds_left
        total = done + self.remaining
        eta = "" if left is None else f", about {left:.0f} s left"
        return f"reading state back: {done} of {total} changelog records ({100 * done // max(total, 1)} %){eta}"


class StateRestorer:
    """Reads changelog partitions back into stores."""

    stall_timeout = timedelta(seconds=STALL_SECONDS)

    def __init__(
        self,
        reader: Callable[[], LogReader],
        local: LocalState,
        standby: Callable[[TopicPartition], StateStore | None] = lambda tp: None,
    ) -> None:
        self._reader_of = reader
        self._local = local
        self._standby = standby
        self.progress = Progress()
        #: seconds that the last restore took
        self.last_seconds = 0.0

    async def restore(self, wanted: Mapping[str, Iterable[int]]) -> dict[TopicPartition, StateStore]:
        """Stores of the wanted partitions (by changelog) as of the end of their changelogs now, read side by side.

        They begin with what this worker followed as a standby, or with what this machine's disk has of them, so that only the rest is read,
        unless it is not of this changelog.  The owners before us must have been fenced, so that the end cannot move.  Raises
        :class:`models.errors.LogUnreachable` if no broker answers and :class:`models.errors.LogError` if one does and gives no records.
        """
        reader = self._reader_of()
        await reader.start()
        started = time.monotonic()
        stores: dict[TopicPartition, StateStore] = {}
        taken = 0
        try:
            with no_collections():  # which would double the time
                for changelog, partitions in wanted.items():
                    for partition in partitions:
                        tp = TopicPartition(changelog, partition)
                        standby = self._standby(tp)
                        taken += standby is not None
                        stores[tp] = standby or self._local.open(changelog, partition)
                await self._catch_up(reader, stores)
        except BaseException:
            for store in stores.values():
                store.close()
            raise
        finally:
            await reader.stop()
            self.last_seconds = time.monotonic() - started
        if taken:
            log.info("state: standby state of %d partitions taken", taken)
        log.info("state: %d changelog records read back in %.1f s", self.progress.read, self.last_seconds)
        return stores

    async def _catch_up(self, reader: LogReader, stores: dict[TopicPartition, StateStore]) -> None:
        ends = await reader.end_offsets(stores)
        starts = await reader.start_offsets(stores)
        origins: dict[TopicPartition, str] = {}
        for tp, store in stores.items():
            reason = self._local.usable(store, starts[tp], ends[tp]) if store.next_offset else None
            if reason is not None:
                _discard(tp, store, reason)
            origins[tp], store.origin = store.origin, ""
        begins = {tp: max(starts[tp], store.resume_offset) for tp, store in stores.items()}
        await self._read(reader, stores, begins, ends)
        strangers = {tp: store for tp, store in stores.items() if origins[tp] and store.origin != origins[tp]}
        for tp, store in strangers.items():
            _discard(tp, store, "it comes from another changelog of this name")
        if strangers:
            await self._read(reader, strangers, starts, ends)

    async def _read(
        self,
        reader: LogReader,
        stores: dict[TopicPartition, StateStore],
        starts: dict[TopicPartition, int],
        ends: dict[TopicPartition, int],
    ) -> None:
        starts, ends = {tp: starts[tp] for tp in stores}, {tp: ends[tp] for tp in stores}
        progress = self.progress = Progress(time.monotonic(), dict(starts), dict(starts), dict(ends))
        left = {tp for tp in ends if starts[tp] < ends[tp]}
        if text := progress.text():
            log.info(text)
        reader.assign({tp: starts[tp] for tp in left})
        reported = time.monotonic()
        patience = Patience(reader, left, self.stall_timeout.total_seconds())
        while left:
            for part in await reader.poll(1.0):
                if part.tp not in left:
                    continue
                records, end = part.records, ends[part.tp]
                if records and records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                stores[part.tp].apply(records, part.next_offset)
                progress.position[part.tp] = part.next_offset
                patience.moved()
                if part.next_offset >= end:
                    left.discard(part.tp)
            await patience.check()
            now = time.monotonic()
            if now - reported > 5 and (text := progress.text()):
                reported = now
                log.info(text)


class Patience:
    """Tells a log that has gone away from one that is there and gives nothing."""

    def __init__(self, reader: LogReader, wanted: Set[TopicPartition], seconds: float) -> None:
        self._reader = reader
        self._wanted = wanted
        self._seconds = seconds
        self._moved = self._asked = time.monotonic()

    def moved(self) -> None:
        """A record has come."""
        self._moved = self._asked = time.monotonic()

    async def check(self) -> None:
        """Raises :class:`models.errors.LogUnreachable` or :class:`models.errors.LogError` where waiting on is of no use."""
        now = time.monotonic()
        if now - self._asked < min(ASK_SECONDS, self._seconds) or not self._wanted:
            return
        await self._reader.end_offsets(self._wanted)
        self._asked = time.monotonic()
        if now - self._moved > self._seconds:
            where = ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(self._wanted))
            raise LogError(
                f"no record of {where} for {self._seconds:.0f} s though the log has more; check the broker, then start the worker again"
            )


def _discard(tp: TopicPartition, store: StateStore, reason: str) -> None:
    log.warning("the local state of %s[%d] is discarded, its changelog is read from the start: %s", *tp, reason)
    store.reset()


class LaneRecovery(Recovery):
    """Faust's recovery, with operator state restored before the sources are resumed."""

    app: Any

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        await self._wait(self.app.lane_assignment.open())
        await super().on_recovery_completed(generation_id)

    async def _resume_streams(self, generation_id: int = 0) -> None:
        await self._wait(self.app.lane_assignment.open())
        await super()._resume_streams(generation_id)


class LaneTableManager(StateTableManager):
    """Table manager that restores through :class:`LaneRecovery`."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = LaneRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


async def replay_source(lane: Lane, partition: int, reader: LogReader) -> None:
    """Give a function that is a fold over its input the records that it processed in earlier lives."""
    task = lane.partitions[partition].task
    if not isinstance(task.function, ReplayedProcessFunction) or not task.next_offset:
        return
    tp, wanted = TopicPartition(lane.spec.source.topic, partition), task.next_offset
    where = f"{tp.topic}[{tp.partition}]"
    await reader.start()
    try:
        position = (await reader.start_offsets([tp]))[tp]
        end = (await reader.end_offsets([tp]))[tp]
        if end < wanted:
            raise LogError(
                f"{where} ends at {end}, but operator {lane.spec.uid!r} has read it up to {wanted}: the topic was made anew; start under a "
                "new FAMULUS_APP_ID"
            )
        if position:
            log.warning("%s begins at %d only: what the deleted records said is not known any more", where, position)
        reader.assign({tp: position})
        patience = Patience(reader, {tp}, STALL_SECONDS)
        while position < wanted:
            for part in await reader.poll(1.0):
                for record in part.records:
                    if record.offset < wanted:
                        task.function.replay(record)
                position = part.next_offset
                patience.moved()
            await patience.check()
    finally:
        await reader.stop()
