"""Broadcast topics: every worker reads each of them whole, to its end before the first record is judged, and on from there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from mode import Service

from agents.lane import Lane
from app.outages import outlast
from models.errors import FamulusError
from tables.log import LogReader, TopicPartition

log = logging.getLogger(__name__)


class BroadcastReader(Service):
    """Feeds one broadcast topic to the lanes that listen to it."""

    def __init__(
        self,
        topic: str,
        lanes: Sequence[Lane],
        reader: Callable[[], LogReader],
        fatal: Callable[[BaseException, str], None],
        **options: Any,
    ) -> None:
        self.topic = topic
        self.lanes = lanes
        #: set once everything that was there at start has been read
        self.ready = asyncio.Event()
        self.refused = 0
        self.position: dict[TopicPartition, int] = {}
        self._reader_of = reader
        self._fatal = fatal
        super().__init__(**options)

    @Service.task
    async def _read(self) -> None:
        try:
            await outlast(f"reading {self.topic}", self._follow, lambda: self.should_stop)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self._fatal(exc, f"reading {self.topic}")

    async def _follow(self) -> None:
        reader = self._reader_of()
        await reader.start()
        try:
            tps = [TopicPartition(self.topic, number) for number in range(await reader.partitions(self.topic))]
            ends = await reader.end_offsets(tps)
            starts = await reader.start_offsets(tps)
            self.position = {tp: self.position.get(tp, start) for tp, start in starts.items()}
            reader.assign(self.position)
            while not self.should_stop:
                if not self.ready.is_set() and all(self.position[tp] >= ends[tp] for tp in tps):
                    self.ready.set()
                for part in await reader.poll(0.5):
                    for count, record in enumerate(part.records, 1):
                        self._give(record)
                        if not count % 500:
                            await asyncio.sleep(0)  # a long history must not hold the loop
                    self.position[part.tp] = part.next_offset
        finally:
            await reader.stop()

    def _give(self, record: Any) -> None:
        for lane in self.lanes:
            if lane.broadcasts is None:
                continue
            reason = lane.broadcasts.take(record, self.topic)
            if reason is None:
                continue
            self.refused += 1
            # A dead letter is for the operator that owns the topic to write: here all workers would write one.
            if isinstance(reason, FamulusError):
                log.info("%s@%d is refused: %s", self.topic, record.offset, str(reason).partition("\n")[0])
            else:
                log.error("%s@%d: operator %s failed", self.topic, record.offset, lane.spec.uid, exc_info=reason)
