"""Watches that work goes on: a worker that has records to process and processes none is worse than one that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from mode import Service

from agents.lane import Lane
from models.errors import Stalled
from tables.log import TopicPartition


class Watchdog(Service):
    """Looks at every open partition once in a while.

    A partition that has records waiting, or processed ones that are not durable, and has not moved for ``stalled_after``, makes the worker
    not ready; after twice that time the process ends, and whoever supervises it starts it anew.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        highwater: Callable[[TopicPartition], int | None],
        blocked: Callable[[], str | None],
        fatal: Callable[[BaseException, str], None],
        *,
        stalled_after: timedelta,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self._lanes = lanes
        self._highwater = highwater
        self._blocked = blocked
        self._fatal = fatal
        self._clock = clock
        self._stalled_after = stalled_after.total_seconds()
        #: partition to what it last stood at, and since when
        self._seen: dict[tuple[str, int], tuple[tuple[int, int], float]] = {}
        super().__init__(**options)

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            await self.sleep(min(5.0, self._stalled_after / 4))
            self.look()

    def look(self) -> None:
        """Take note of where every partition stands; ends the process if one has stood still for too long."""
        if self._blocked() is not None:  # the broker is away, say: waiting for it is right, however long it takes
            self._seen = {}
            return
        now = self._clock()
        seen: dict[tuple[str, int], tuple[tuple[int, int], float]] = {}
        for lane in self._lanes:
            for number, opened in lane.partitions.items():
                place = lane.spec.uid, number
                standing = opened.next_offset, opened.durable
                busy = opened.durable != opened.next_offset or (self._highwater(opened.tp) or 0) > opened.next_offset
                before = self._seen.get(place)
                since = before[1] if busy and before is not None and before[0] == standing else now
                seen[place] = standing, since
        self._seen = seen
        stalled = self.stalled(2 * self._stalled_after)
        if stalled is not None:
            self._fatal(Stalled(stalled), "watching the lanes")

    def stalled(self, seconds: float | None = None) -> str | None:
        """Why the worker is not ready: the partition that has stood still longest, ``None`` if all move or wait for records."""
        limit = self._stalled_after if seconds is None else seconds
        now = self._clock()
        if not self._seen:
            return None
        (uid, number), (_, since) = min(self._seen.items(), key=lambda item: item[1][1])
        if now - since < limit:
            return None
        return f"{uid} partition {number} has records and has not moved for {now - since:.0f} s"
