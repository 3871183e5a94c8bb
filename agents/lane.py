"""The batch lane: batches of a source in, an operator, outputs + changelog + marker out.

Per source partition, independent of the others:

    batch -> operator (synchronous) -> collect, until the commit interval is over or enough is collected -> cut -> write

The next part is collected in memory while the previous one is being written, so nothing waits for a commit but the commits of the same
partition.  The cut encodes all dirty state at once: between it and the last record processed nothing can change, so the rows say
exactly what the marker says.

``next_offset`` is what memory contains, ``durable`` what the log does.  Memory may be trusted across a hand-over only where both
are equal; after any failed write the process must end, because memory is ahead of the log and cannot go back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from agents.operator.driver import Broadcasts, OperatorTask
from agents.operator.process import KeyedBroadcastProcessFunction
from agents.operator.spec import OperatorSpec
from agents.transport import Batch, Output, PartSink, SealedPart
from models.deadletter import attempt_of, dead_letter_headers
from models.partitioning import partition_of
from models.time import Clock, Millis, SystemClock, millis
from models.topics import dlq_topic
from tables.log import Record, TopicPartition
from tables.store import PartitionStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """What an application decides for all its lanes."""

    app_id: str
    app_version: str
    commit_interval: timedelta
    max_drift: timedelta
    clock: Clock = field(default_factory=SystemClock)
    #: records collected in one part before the source has to wait
    max_part_records: int = 32_768


@dataclass
class Totals:
    """Counted since the worker started, over all partitions that it ever had."""

    processed: int = 0
    emitted: int = 0
    dead_letters: int = 0


class Collecting:
    """What was emitted since the last cut."""

    __slots__ = ("outputs", "records")

    def __init__(self) -> None:
        self.outputs: dict[TopicPartition, list[Output]] = {}
        self.records = 0


class LanePartition:
    """One source partition: its operator task, what it has collected, and the task that writes it."""

    def __init__(self, tp: TopicPartition, task: OperatorTask) -> None:
        self.tp = tp
        self.task = task
        self.part = Collecting()
        self.next_offset = task.next_offset
        self.durable = task.next_offset
        self.cut_due = asyncio.Event()
        self.room = asyncio.Event()
        self.next_cut = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.writer: asyncio.Task[None] | None = None


class Lane:
    """One operator of the topology on this worker."""

    def __init__(
        self,
        spec: OperatorSpec,
        options: LaneOptions,
        sink: Callable[[], PartSink],
        *,
        fatal: Callable[[BaseException, str], None],
        current_epoch: Callable[[], int],
    ) -> None:
        self.spec = spec
        self.options = options
        self.partitions: dict[int, LanePartition] = {}
        self.totals = Totals()
        self.broadcasts: Broadcasts | None = None
        #: called with each part once it is durable
        self.listeners: list[Callable[[SealedPart], None]] = []
        self.changelog = f"{options.app_id}-{spec.uid}-changelog"
        self._sink_of = sink
        self._fatal = fatal
        self._current_epoch = current_epoch
        self._interval = options.commit_interval.total_seconds()
        self._draining = False
        self._side_topics = dict(spec.side_outputs)
        function = spec.function()
        if isinstance(function, KeyedBroadcastProcessFunction):
            self.broadcasts = Broadcasts(function)

    @property
    def sink(self) -> PartSink:
        return self._sink_of()

    # -- partitions come and go

    async def fence(self, partition: int) -> None:
        """Take the partition over from whoever had it; its changelog cannot grow behind our back from here on."""
        await self.sink.open(self.spec.uid, TopicPartition(self.spec.source.topic, partition))

    def open(self, partition: int, store: PartitionStore) -> None:
        """Start processing a partition from its restored state."""
        tp = TopicPartition(self.spec.source.topic, partition)
        task = OperatorTask(
            self.spec.function(),
            self.spec.source,
            store,
            partition=partition,
            broadcasts=self.broadcasts,
            max_drift_ms=millis(self.options.max_drift),
        )
        opened = self.partitions[partition] = LanePartition(tp, task)
        # Phases: partitions do not all commit at the same moment.
        opened.next_cut = time.monotonic() + self._interval * (partition % 4) / 4
        opened.writer = asyncio.get_running_loop().create_task(
            self._write_parts(opened), name=f"lane-{self.spec.uid}-{partition}"
        )

    async def close(self, partition: int) -> None:
        """Stop a partition; what is not durable is forgotten together with its state."""
        closed = self.partitions.pop(partition, None)
        if closed is None:
            return
        if closed.timer is not None:
            closed.timer.cancel()
        if closed.writer is not None:
            closed.writer.cancel()
            await asyncio.gather(closed.writer, return_exceptions=True)
        closed.task.close()
        await self.sink.close(self.spec.uid, closed.tp)

    def offsets(self) -> dict[TopicPartition, int]:
        """Next source offset that each open partition wants."""
        return {opened.tp: opened.next_offset for opened in self.partitions.values()}

    async def drain(self, timeout: timedelta) -> bool:
        """Make everything processed so far durable.  ``False``: time ran out."""
        self._draining = True
        deadline = time.monotonic() + timeout.total_seconds()
        try:
            while any(opened.durable != opened.next_offset for opened in self.partitions.values()):
                if time.monotonic() > deadline:
                    return False
                for opened in self.partitions.values():
                    opened.cut_due.set()
                await asyncio.sleep(0.002)
        finally:
            self._draining = False
        return True

    # -- records

    async def consume(self, batches: AsyncIterable[Batch]) -> None:
        """Body of the Faust agent: batches in until the stream ends."""
        try:
            async for batch in batches:
                await self.process(batch)
        except Exception as exc:
            self._fatal(exc, f"operator {self.spec.uid}")
            raise

    async def process(self, batch: Batch) -> None:
        """Take one batch.  Batches fetched before the last seek, or of a partition that is gone, are dropped."""
        opened = self.partitions.get(batch.tp.partition)
        if opened is None or batch.epoch != self._current_epoch():
            return
        if opened.part.records and opened.part.records + len(batch.records) > self.options.max_part_records:
            while opened.part.records:
                opened.room.clear()
                opened.cut_due.set()
                await opened.room.wait()
            if self.partitions.get(batch.tp.partition) is not opened or batch.epoch != self._current_epoch():
                return
        records = batch.records
        if records and records[0].offset < opened.next_offset:  # a repeat: it is in the state already
            records = [record for record in records if record.offset >= opened.next_offset]
        if records:
            opened.task.run(records, self.options.clock.now_ms())
            self._collect(opened)
            opened.part.records += len(records)
            self.totals.processed += len(records)
        opened.next_offset = max(opened.next_offset, batch.next_offset)
        self._offer(opened)

    def _collect(self, opened: LanePartition) -> None:
        task, outputs = opened.task, opened.part.outputs
        partition = opened.tp.partition
        if task.outputs and self.spec.output is not None:
            self._add(outputs, self.spec.output, partition, [(key, value, None) for key, value in task.outputs])
            self.totals.emitted += len(task.outputs)
            task.outputs.clear()
        if task.sides:
            for tag, key, value in task.sides:
                self._add(outputs, self._side_topics[tag], partition, [(key.encode(), task._encode(value), None)])
            task.sides.clear()
        if task.refused:
            for record, reason in task.refused:
                self._dead_letter(opened, record, reason)
            task.refused.clear()

    def _add(
        self, outputs: dict[TopicPartition, list[Output]], topic: str, source_partition: int, records: list[Output]
    ) -> None:
        count = self.sink.partitions(topic)
        if count == self.sink.partitions(self.spec.source.topic):
            # The key is the source's key, so its partition is the source's partition.
            outputs.setdefault(TopicPartition(topic, source_partition), []).extend(records)
            return
        for output in records:
            target = TopicPartition(topic, partition_of(output[0] or b"", count))
            outputs.setdefault(target, []).append(output)

    def _dead_letter(self, opened: LanePartition, record: Record, reason: BaseException) -> None:
        topic, partition = opened.tp
        headers = dead_letter_headers(
            topic,
            partition,
            record.offset,
            reason,
            app=self.options.app_id,
            version=self.options.app_version,
            attempt=attempt_of(record.headers) + 1,
        )
        target = TopicPartition(dlq_topic(topic), partition)
        opened.part.outputs.setdefault(target, []).append((record.key, record.value, headers))
        self.totals.dead_letters += 1
        log.warning("%s[%d]@%d goes to %s: %s", topic, partition, record.offset, target.topic, str(reason)[:300])

    # -- parts

    def _offer(self, opened: LanePartition) -> None:
        if (
            self._draining
            or opened.part.records >= self.options.max_part_records
            or time.monotonic() >= opened.next_cut
        ):
            opened.cut_due.set()
        elif opened.timer is None:
            loop = asyncio.get_running_loop()
            opened.timer = loop.call_later(opened.next_cut - time.monotonic(), self._interval_over, opened)

    @staticmethod
    def _interval_over(opened: LanePartition) -> None:
        opened.timer = None
        opened.cut_due.set()

    async def _write_parts(self, opened: LanePartition) -> None:
        """One part after the other, for the life of the partition."""
        try:
            while True:
                await opened.cut_due.wait()
                opened.cut_due.clear()
                if opened.timer is not None:
                    opened.timer.cancel()
                    opened.timer = None
                if opened.next_offset == opened.durable:
                    opened.room.set()
                    continue
                part = self._cut(opened)
                next_offset = opened.next_offset
                opened.next_cut = time.monotonic() + self._interval
                opened.room.set()
                await self.sink.write(part)
                opened.durable = next_offset
                for listener in self.listeners:
                    listener(part)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            # ``durable`` stays behind, so this partition never looks drained.
            self._fatal(exc, f"writing {self.spec.uid} partition {opened.tp.partition}")

    def _cut(self, opened: LanePartition) -> SealedPart:
        """Seal what is collected.  No ``await`` from here to the end: rows and marker must say the same."""
        task = opened.task
        rows = task.freeze()
        rows.append(task.marker(opened.next_offset))
        part = SealedPart(
            uid=self.spec.uid,
            source=opened.tp,
            next_offset=opened.next_offset,
            changelog=TopicPartition(self.changelog, opened.tp.partition),
            rows=rows,
            outputs=opened.part.outputs,
            timestamp_ms=self.options.clock.now_ms(),
        )
        opened.part = Collecting()
        return part

    # -- what the outside may ask

    def watermarks(self) -> dict[int, Millis]:
        return {number: opened.task.context.watermark_ms for number, opened in self.partitions.items()}
