"""One source partition number of a lane: what its operator did since the last cut, and the task that makes it durable.

The next part is collected in memory while the previous one is being written, so nothing waits for a commit but the commits of the same
partition.  The cut encodes all dirty state at once: between it and the last record processed nothing can change, so the rows say
exactly what the marker says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agents.async_io import AsyncTask
from agents.lane.context import LaneContext
from agents.lane.emitted import Emitted
from agents.operator.driver import OperatorTask
from agents.transport import SealedPart
from tables.log import TopicPartition

#: A partition with so many records waiting is behind: what a worker does in a tenth of a second or more, so that waiting for a commit is
#: the lesser part of its lateness.
BACKLOG_RECORDS = 8192
#: Part of the commit interval by which a cut may come too early, if a batch has just arrived: the next one would come too late.
EARLY = 1 / 8


class LanePartition:
    """An operator task, what it has emitted, and its writer.

    ``durable``: the source offset that the log's marker says.  ``unwritten``: something may have happened that no part holds yet.
    ``writing``: a part is on its way; it stays set when one failed, so that such a partition never looks drained.
    """

    def __init__(self, lane: LaneContext, tp: TopicPartition, task: OperatorTask | AsyncTask) -> None:
        loop = asyncio.get_running_loop()
        self.tp = tp
        self.task = task
        self.durable = task.next_offset
        self.unwritten = False
        self.writing = False
        self.closed = False
        #: held while records or timers are being processed: slices give way in between
        self.busy = asyncio.Lock()
        self.cut_due = asyncio.Event()
        #: set by each cut
        self.room = asyncio.Event()
        #: when each source last had something waiting
        self.active = [loop.time() for _ in task.inputs]
        self._lane = lane
        self._interval = lane.options.commit_interval.total_seconds()
        # Longer: keys that change again cost no row, and a transaction its overhead once.
        self._backlog_interval = lane.options.backlog_interval.total_seconds()
        # Phases: partitions do not all commit at the same moment.
        self._next_cut = self._soonest_cut = loop.time() + self._interval * (tp.partition % 4) / 4
        self._far_behind = False
        #: when something last happened
        self._offered = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._sealed = self.offsets()
        self.part = Emitted(lane, tp)
        self._writer = loop.create_task(self._write_parts(), name=f"lane-{lane.spec.uid}-{tp.partition}")

    @property
    def next_offset(self) -> int:
        """Offset of the first record of the (first) source that is not in memory's state."""
        return self.task.next_offset

    def offsets(self) -> list[int]:
        return [feed.next_offset for feed in self.task.inputs]

    async def close(self) -> None:
        """Stop; what is not durable is forgotten together with its state."""
        self.closed = True
        self.room.set()
        self._stop_timer()
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        self.task.close()
        if isinstance(self.task, AsyncTask):
            await self.task.closed()
        self.task.store.close()

    # -- when to cut

    def offer(self, *, now: bool = False) -> None:
        """Something has happened that a part should hold: soon, or at once where the lane drains or enough is collected."""
        loop = asyncio.get_running_loop()
        self._offered = loop.time()
        early = self._interval * EARLY
        if self._far_behind and not self._is_far_behind():
            # What it still holds need not wait for as long as was thought.
            self._far_behind = False
            self._next_cut = min(self._next_cut, self._soonest_cut)
            self._stop_timer()
        if now or self.part.records >= self._lane.options.max_part_records or self._offered >= self._next_cut - early:
            self.cut_due.set()
        elif self._timer is None:
            self._timer = loop.call_at(self._next_cut, self._interval_over)

    def _is_far_behind(self) -> bool:
        return self._lane.waiting(self.tp, self.next_offset + BACKLOG_RECORDS)

    def _after_this_one(self, interval: float) -> float:
        """When the next cut is due: an interval after the last of what was just cut *arrived*.

        Under load batches come at the pace of the fetcher, whose windows divide the interval.  So cuts fall into step with them, each right
        behind a batch; counted from the cut, a batch could wait nearly an interval again and again.
        """
        return max(self._offered + interval, asyncio.get_running_loop().time() + interval / 2)

    def _interval_over(self) -> None:
        self._timer = None
        self.cut_due.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def cut_while(self, wanted: Callable[[], bool]) -> None:
        """Have cuts made, one after the other, until it is not wanted any more or the partition is gone."""
        while wanted() and not self.closed:
            self.room.clear()
            self.cut_due.set()
            await self.room.wait()

    # -- parts

    async def _write_parts(self) -> None:
        """One part after the other, for the life of the partition."""
        lane = self._lane
        try:
            while True:
                await self.cut_due.wait()
                self.cut_due.clear()
                self._stop_timer()
                part = self.cut() if self.unwritten else None
                self.room.set()
                if part is None:
                    continue
                self._far_behind = self._is_far_behind()
                self._soonest_cut = self._after_this_one(self._interval)
                self._next_cut = self._after_this_one(self._backlog_interval) if self._far_behind else self._soonest_cut
                self.task.store.committed(part.rows, await lane.sink.write(part))
                self.durable = part.next_offset
                self.writing = False
                for listener in lane.listeners:
                    listener(part)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self.closed = True  # it takes nothing any more
            self.room.set()
            lane.fatal(exc, f"writing {lane.spec.uid} partition {self.tp.partition}")

    def cut(self) -> SealedPart | None:
        """Seal what is collected, ``None`` if nothing is.  No ``await`` from here to the end: rows and markers must say the same."""
        lane, task = self._lane, self.task
        self.unwritten = False
        rows = task.freeze()
        offsets = self.offsets()
        emitted, self.part = self.part, Emitted(lane, self.tp)
        if not rows and not emitted.outputs and offsets == self._sealed:
            return None
        self._sealed = offsets
        self.writing = True
        rows = [*task.store.identity(), *rows, *task.markers()]
        task.store.seal(rows)
        return SealedPart(
            uid=lane.spec.uid,
            source=self.tp,
            next_offset=self.next_offset,
            changelog=TopicPartition(lane.changelog, self.tp.partition),
            rows=rows,
            outputs=emitted.outputs,
            timestamp_ms=lane.options.clock.now_ms(),
            further=[
                (TopicPartition(feed.source.topic, self.tp.partition), feed.next_offset) for feed in task.inputs[1:]
            ],
        )
