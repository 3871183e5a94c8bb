"""Group-less reading of the embedded log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic

from app.transport.embedded.engine import Engine
from app.transport.embedded.hub import Bell
from app.transport.embedded.location import Location
from app.transport.embedded.log import Bounds, Fetched, Log
from models.errors import LogUnavailable
from tables.log import Slice, TopicPartition

#: Bounds of one slice and of all slices of one poll (a row of the log larger than them is still handed out, alone).
SLICE_RECORDS = 8192
SLICE_BYTES = 4 << 20
POLL_BYTES = 16 << 20


class EmbeddedReader:
    """A :class:`tables.log.LogReader` on the embedded log."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._engine: Engine | None = None
        self._bell: Bell | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._assignment = 0
        #: False when nothing can have come since the last look
        self._look = True

    async def start(self) -> None:
        if self._engine is None:
            self._engine = await Engine.open(self._location)
            self._bell = Bell()
            self._engine.hub.add(self._bell)

    async def stop(self) -> None:
        engine, bell, self._engine, self._bell = self._engine, self._bell, None, None
        if engine is not None and bell is not None:
            engine.hub.discard(bell)
            await engine.close()

    async def partitions(self, topic: str) -> int:
        return len(self._started()[0].topic(topic).partitions)

    async def start_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: bounds.start for tp, bounds in (await self._bounds(tps)).items()}

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: bounds.end for tp, bounds in (await self._bounds(tps)).items()}

    async def _bounds(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Bounds]:
        engine, _ = self._started()
        ids = {TopicPartition(*tp): engine.row_id(TopicPartition(*tp)) for tp in tps}
        bounds = await engine.read(Log.bounds)
        return {tp: bounds[row_id] for tp, row_id in ids.items()}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Raises :class:`models.errors.UnknownTopic`."""
        engine, bell = self._started()
        self._positions = {TopicPartition(*tp): offset for tp, offset in positions.items()}
        self._assignment += 1
        bell.partitions = frozenset(engine.row_id(tp) for tp in self._positions)
        self._look = True
        bell.ring()

    async def poll(self, timeout: float) -> list[Slice]:
        engine, bell = self._started()
        deadline = monotonic() + timeout
        while True:
            if self._look:
                bell.silence()
                assignment = self._assignment
                wanted = [(tp, engine.row_id(tp), offset) for tp, offset in self._positions.items()]
                fetched = await engine.read(lambda log, wanted=wanted: fetch(log, wanted))  # type: ignore[misc]
                if assignment != self._assignment:
                    continue
                self._look = bool(fetched)
                if fetched:
                    for tp, part in fetched.items():
                        # Taken out and put back at the end: the next poll begins with another partition.
                        del self._positions[tp]
                        self._positions[tp] = part.next_offset
                    return [Slice(tp, part.records, part.next_offset) for tp, part in fetched.items()]
            if not await bell.wait(max(0.0, deadline - monotonic())):
                return []
            self._look = True

    def _started(self) -> tuple[Engine, Bell]:
        if self._engine is None or self._bell is None:
            raise LogUnavailable(f"the reader of {self._location.directory} is not started; await start() first")
        return self._engine, self._bell


def fetch(log: Log, wanted: Iterable[tuple[TopicPartition, int, int]]) -> dict[TopicPartition, Fetched]:
    """What there is at these positions (partition, its row id, offset), within the bounds of one poll."""
    out: dict[TopicPartition, Fetched] = {}
    left = POLL_BYTES
    for tp, row_id, offset in wanted:
        if left <= 0:
            break
        part = log.fetch(row_id, offset, max_records=SLICE_RECORDS, max_bytes=min(left, SLICE_BYTES))
        if part.next_offset != offset:
            out[tp] = part
            left -= part.size
    return out
