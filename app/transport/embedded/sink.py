"""Sealed parts of a lane, each one SQLite transaction: outputs, changelog rows and the source offset."""

from __future__ import annotations

import asyncio

from agents.transport import SealedPart
from app.transport.embedded.engine import Engine
from app.transport.embedded.location import Location
from app.transport.embedded.lock import WorkerLock
from app.transport.embedded.log import Transaction
from app.transport.embedded.records import Record
from models.errors import LogUnavailable
from tables.log import TopicPartition


class EmbeddedPartSink:
    """A :class:`agents.transport.PartSink`.  Exactly-once costs nothing here, so there is no weaker mode."""

    def __init__(self, location: Location, lock: WorkerLock) -> None:
        self._location = location
        self._lock = lock
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._opened: set[tuple[str, TopicPartition]] = set()

    async def open(self, uid: str, source: TopicPartition, changelog: TopicPartition) -> None:
        """Waits until this process is the active worker of the application."""
        self._opened.add((uid, source))
        async with self._opening:
            if self._engine is None:
                self._engine = await Engine.open(self._location)
        await self._lock.acquire(self._engine)

    async def close(self, uid: str, source: TopicPartition) -> None:
        self._opened.discard((uid, source))
        if not self._opened and self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.close()

    async def write(self, part: SealedPart) -> int:
        """Raises :class:`models.errors.Fenced` or another :class:`models.errors.LogError`; nothing is stored then."""
        if self._engine is None:
            raise LogUnavailable(f"operator {part.uid!r}: the sink of {part.source} is not open")
        app_id, generation, now_ms = self._lock.app_id, self._lock.generation, part.timestamp_ms
        outputs = {
            tp: [Record(0, now_ms, key, value, list(headers) if headers else None) for key, value, headers in produced]
            for tp, produced in part.outputs.items()
        }
        rows = [Record(0, now_ms, key, value) for key, value in part.rows]

        def store(transaction: Transaction) -> int:
            transaction.require_generation(app_id, generation)
            for tp, records in outputs.items():
                transaction.append(tp, records)
            transaction.commit_positions(app_id, [(part.source, part.next_offset), *part.further])
            return transaction.append(part.changelog, rows)

        return await self._engine.write(store)

    def partitions(self, topic: str) -> int:
        """Raises :class:`models.errors.UnknownTopic`."""
        if self._engine is None:
            raise LogUnavailable(f"topic {topic!r}: open a partition of the sink before asking")
        return len(self._engine.topic(topic).partitions)
