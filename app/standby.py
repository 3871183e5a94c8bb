"""Hot standbys: a worker follows the changelogs of partitions that others own, so that taking one over means reading its last part.

With ``n`` replicas each partition has ``n`` standbys among the other workers, chosen by a hash that all of them agree on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from mode import Service

from agents.lane import Lane
from app.local_state import LocalState
from app.members import Members
from models.errors import FamulusError
from models.time import SystemClock
from tables.log import LogReader, TopicPartition
from tables.store import StateStore

log = logging.getLogger(__name__)


class Standbys(Service):
    """Keeps the stores of this worker's standby partitions up to date, and hands them over."""

    def __init__(
        self,
        lanes: Iterable[Lane],
        members: Members,
        local: LocalState,
        reader: Callable[[], LogReader],
        partitions: Callable[[str], int],
        *,
        replicas: int,
        **options: Any,
    ) -> None:
        self._lanes = lanes
        self._members = members
        self._local = local
        self._reader_of = reader
        self._partitions = partitions
        self._replicas = replicas
        self._clock = SystemClock()
        self._stores: dict[TopicPartition, StateStore] = {}
        #: where the changelogs ended when following began, of those not yet read so far
        self._behind: dict[TopicPartition, int] = {}
        super().__init__(**options)

    def take(self, tp: TopicPartition) -> StateStore | None:
        """The store of a partition that is this worker's own from now on, ``None`` if it was no standby of it."""
        return self._stores.pop(tp, None)

    @property
    def partitions(self) -> list[TopicPartition]:
        """Changelog partitions that are followed now."""
        return sorted(self._stores)

    async def on_stop(self) -> None:
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    @Service.task
    async def _follow(self) -> None:
        if not self._replicas:
            return
        while not self.should_stop:
            reader = self._reader_of()
            try:
                await reader.start()
                await self._read(reader)
            except FamulusError as exc:
                log.warning("standby state is not followed for a moment: %s", exc)
                await self.sleep(1.0)
            finally:
                await reader.stop()

    async def _read(self, reader: LogReader) -> None:
        following: set[TopicPartition] | None = None
        while not self.should_stop:
            wanted = self._wanted()
            if following != wanted or following != self._stores.keys():
                await self._choose(reader, wanted)
                following = wanted
            for part in await reader.poll(0.5):
                store = self._stores.get(part.tp)
                if store is not None and part.next_offset > store.next_offset:
                    store.apply(
                        [record for record in part.records if record.offset >= store.next_offset], part.next_offset
                    )
            self._report()
            now_ms = self._clock.now_ms()
            for store in self._stores.values():
                store.saved_ms = now_ms

    def _report(self) -> None:
        """Say once that what was there when following began has been read."""
        if self._behind:
            stores = self._stores
            self._behind = {
                tp: end for tp, end in self._behind.items() if tp in stores and stores[tp].next_offset < end
            }
            if not self._behind:
                log.info("standby: up to date")

    async def _choose(self, reader: LogReader, wanted: set[TopicPartition]) -> None:
        """Open what is new, close what is no longer ours to follow, and read them all on from where they are."""
        for tp in self._stores.keys() - wanted:
            self._stores.pop(tp).close()
        for tp in sorted(wanted - self._stores.keys()):
            store = self._local.open(*tp)
            store.reset()  # what an earlier life left on the disk is not worth its checks: there is time to read
            self._stores[tp] = store
        log.info("standby: following %d changelog partitions", len(self._stores))
        starts = await reader.start_offsets(self._stores)
        self._behind = {tp: end for tp, end in (await reader.end_offsets(self._stores)).items() if end > starts[tp]}
        # A partition may have been taken over during that wait.
        reader.assign({tp: max(starts[tp], store.next_offset) for tp, store in self._stores.items() if tp in starts})

    def _wanted(self) -> set[TopicPartition]:
        return {
            TopicPartition(lane.changelog, number)
            for lane in self._lanes
            for number in range(self._partitions(lane.spec.uid))
            if number not in lane.partitions and self._members.is_standby(lane.spec.uid, number, self._replicas)
        }
