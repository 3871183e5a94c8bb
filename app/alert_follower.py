"""Keeps the recent alerts of a worker whole: those of earlier runs, and those that other workers raise now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from mode import Service

from app.alerts import AlertFeed
from models.errors import FamulusError, UnknownTopic
from tables.log import LogReader, TopicPartition

log = logging.getLogger(__name__)

#: between two tries while the topic cannot be read
RETRY_S = 5.0


class AlertFollower(Service):
    """Reads from the alerts topic what the lanes of this worker do not feed themselves.

    Nothing is read while this worker owns all partitions; its own alerts reach the feed when they are durable, without a detour.
    """

    def __init__(
        self,
        topic: str,
        feed: AlertFeed,
        reader: Callable[[], LogReader],
        owned: Callable[[], set[int]],
        **options: Any,
    ) -> None:
        self._topic = topic
        self._feed = feed
        self._reader_of = reader
        self._owned = owned
        self._assigned = asyncio.Event()
        self._filled = False
        #: where reading of the partitions of others goes on
        self._next: dict[TopicPartition, int] = {}
        super().__init__(**options)

    def partitions_changed(self) -> None:
        """Other partitions are this worker's from now on."""
        self._assigned.set()

    @Service.task
    async def _follow(self) -> None:
        self._assigned.set()
        while not self.should_stop:
            await self._assigned.wait()
            self._assigned.clear()
            try:
                await self._read()
            except UnknownTopic:
                # Nobody has raised an alert yet; a worker without the jobs that do may wait for that for ever.
                await self._again_later()
            except FamulusError as exc:
                log.warning("alerts of other workers and earlier runs are not shown for a moment: %s", exc)
                await self._again_later()

    async def _again_later(self) -> None:
        await self.sleep(RETRY_S)
        self._assigned.set()

    async def _read(self) -> None:
        reader = self._reader_of()
        await reader.start()
        try:
            tps = [TopicPartition(self._topic, number) for number in range(await reader.partitions(self._topic))]
            ends = await reader.end_offsets(tps)
            if self._filled:
                await self._catch_up(reader, ends)
            else:
                await self._feed.fill(reader, self._topic)
                self._filled = True
            owned = self._owned()
            self._next = {tp: end for tp, end in ends.items() if tp.partition not in owned}
            if not self._next:
                return  # all alerts come from this worker's lanes
            reader.assign(self._next)
            while not (self.should_stop or self._assigned.is_set()):
                for part in await reader.poll(0.5):
                    values = [record.value for record in part.records if record.value is not None]
                    self._feed.feed_missing(values)  # this worker's own alerts may be among them
                    self._next[part.tp] = part.next_offset
        finally:
            await reader.stop()

    async def _catch_up(self, reader: LogReader, ends: dict[TopicPartition, int]) -> None:
        """What was followed so far, to its end as it is now: a predecessor's last alerts; ours may be among them already."""
        left = {tp: offset for tp, offset in self._next.items() if offset < ends[tp]}
        reader.assign(left)
        while left and not self.should_stop:
            for part in await reader.poll(0.5):
                self._feed.feed_missing([record.value for record in part.records if record.value is not None])
                if part.next_offset >= ends[part.tp]:
                    left.pop(part.tp, None)
