"""The batch lane: batches of a source in, an operator, outputs + changelog + marker out.

Per source partition, independent of the others:

    batch -> operator (synchronous) -> collect, until the commit interval is over or enough is collected -> cut -> write

The next part is collected in memory while the previous one is being written, so nothing waits for a commit but the commits of the same
partition.  The cut encodes all dirty state at once: between it and the last record processed nothing can change, so the rows say
exactly what the marker says.

Time passes without records, too: a lane whose operator has timers looks at the clock every ``tick``.  When many timers are due, they fire
in slices; each slice is cut before the next one starts, with a marker before the record that is held meanwhile.

``next_offset`` is what memory contains, ``durable`` what the log does.  Memory may be trusted across a hand-over only where nothing is
unwritten; after any failed write the process must end, because memory is ahead of the log and cannot go back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from agents.async_io import AsyncCalls, AsyncTask
from agents.operator.async_function import AsyncFunction
from agents.operator.driver import Broadcasts, OperatorTask, TimerError
from agents.operator.metrics import OperatorMetrics
from agents.operator.process import KeyedBroadcastProcessFunction
from agents.operator.spec import OperatorSpec
from agents.transport import Batch, Output, PartSink, SealedPart
from models.deadletter import NO_OFFSET, TIMER_DOMAIN, TIMER_TIME, attempt_of, dead_letter_headers
from models.errors import StateError
from models.partitioning import partition_of
from models.time import NO_TIME, Clock, Millis, SystemClock, millis
from models.topics import dlq_topic
from tables.log import Record, TopicPartition
from tables.store import StateStore

log = logging.getLogger(__name__)

#: A partition with so many records waiting is behind: what a worker does in a tenth of a second or more, so that waiting for a commit is
#: the lesser part of its lateness.
BACKLOG_RECORDS = 8192
#: Commit intervals that are made one where a partition is behind: keys that change again cost no row, and a transaction its overhead once.
BACKLOG_INTERVALS = 4


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
    #: how often time is looked at without records, for operators with timers; ``None``: only when ``Lane.tick`` is called
    tick: timedelta | None = timedelta(milliseconds=100)
    #: how long timers may fire before the event loop gets its turn
    timer_slice: timedelta = timedelta(milliseconds=20)


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
    """One source partition number: its operator task, what it has collected, and the task that writes it."""

    def __init__(self, tp: TopicPartition, task: OperatorTask | AsyncTask, now: float) -> None:
        self.tp = tp
        self.task = task
        self.part = Collecting()
        self.durable = task.next_offset
        #: whether something may have happened that no part holds yet
        self.unwritten = False
        self.writing = False
        self.closed = False
        #: held while records or timers are being processed: slices give way in between
        self.busy = asyncio.Lock()
        self.cut_due = asyncio.Event()
        self.room = asyncio.Event()
        self.next_cut = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.writer: asyncio.Task[None] | None = None
        #: when each source last had something waiting
        self.active = [now for _ in task.inputs]
        self.sealed = self.offsets()

    @property
    def next_offset(self) -> int:
        """Offset of the first record of the (first) source that is not in memory's state."""
        return self.task.next_offset

    def offsets(self) -> list[int]:
        return [feed.next_offset for feed in self.task.inputs]


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
        waiting: Callable[[TopicPartition, int], bool] = lambda tp, next_offset: False,
    ) -> None:
        """``waiting(tp, next_offset)``: whether the log is known to have records from this offset on."""
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
        self._waiting = waiting
        self._ticker: asyncio.Task[None] | None = None
        self._numbers = {source.topic: number for number, source in enumerate(spec.sources)}
        self._calls: AsyncCalls | None = None
        function = spec.function()
        if isinstance(function, AsyncFunction):
            self._calls = AsyncCalls(function)
        elif isinstance(function, KeyedBroadcastProcessFunction):
            self.broadcasts = Broadcasts(function, spec.broadcast_decode)

    @property
    def sink(self) -> PartSink:
        return self._sink_of()

    # -- partitions come and go

    async def fence(self, partition: int) -> None:
        """Take the partition over from whoever had it; its changelog cannot grow behind our back from here on."""
        await self.sink.open(self.spec.uid, TopicPartition(self.spec.source.topic, partition))

    async def give_back(self, partition: int) -> None:
        """Let go of a partition that was taken over and not opened."""
        await self.sink.close(self.spec.uid, TopicPartition(self.spec.source.topic, partition))

    def open(self, partition: int, store: StateStore) -> None:
        """Start processing a partition from its restored state."""
        loop = asyncio.get_running_loop()
        tp = TopicPartition(self.spec.source.topic, partition)
        task = self._task(partition, store)
        opened = self.partitions[partition] = LanePartition(tp, task, loop.time())
        # Phases: partitions do not all commit at the same moment.
        opened.next_cut = loop.time() + self._interval * (partition % 4) / 4
        opened.writer = loop.create_task(self._write_parts(opened), name=f"lane-{self.spec.uid}-{partition}")
        if self._ticker is None and self.options.tick is not None and (task.timed or task.expiring):
            self._ticker = loop.create_task(self._keep_ticking(self.options.tick), name=f"lane-{self.spec.uid}-ticks")

    def _task(self, partition: int, store: StateStore) -> OperatorTask | AsyncTask:
        spec, drift = self.spec, millis(self.options.max_drift)
        if self._calls is not None:
            return AsyncTask(
                self._calls,
                spec.source,
                store,
                partition=partition,
                uid=spec.uid,
                max_drift_ms=drift,
                emitted=lambda: self._answered(partition),
            )
        function = spec.function()
        if isinstance(function, AsyncFunction):
            raise StateError(
                f"operator {spec.uid!r}: its function is an AsyncFunction only sometimes; make it always one"
            )
        return OperatorTask(
            function,
            spec.source,
            store,
            source2=spec.source2,
            partition=partition,
            uid=spec.uid,
            broadcasts=self.broadcasts,
            max_drift_ms=drift,
            stopwatch=time.perf_counter,
            slice_seconds=self.options.timer_slice.total_seconds(),
        )

    async def close(self, partition: int) -> None:
        """Stop a partition; what is not durable is forgotten together with its state."""
        closed = self.partitions.pop(partition, None)
        if closed is None:
            return
        closed.closed = True
        closed.room.set()
        if closed.timer is not None:
            closed.timer.cancel()
        if closed.writer is not None:
            closed.writer.cancel()
            await asyncio.gather(closed.writer, return_exceptions=True)
        closed.task.close()
        if isinstance(closed.task, AsyncTask):
            await closed.task.closed()
        closed.task.store.close()
        if not self.partitions:
            await self._stop()
        await self.sink.close(self.spec.uid, closed.tp)

    async def _stop(self) -> None:
        """The last partition is gone."""
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
        if self._calls is not None:
            await self._calls.close()

    def offsets(self) -> dict[TopicPartition, int]:
        """Next source offset that each open partition wants."""
        return {
            TopicPartition(feed.source.topic, number): feed.next_offset
            for number, opened in self.partitions.items()
            for feed in opened.task.inputs
        }

    async def drain(self, timeout: timedelta) -> bool:
        """Make everything processed so far durable; calls in flight are not waited for.  ``False``: time ran out."""
        self._draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        try:
            while any(opened.unwritten or opened.writing for opened in self.partitions.values()):
                if loop.time() > deadline:
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
        if opened is None or not self._current(opened, batch):
            return
        if opened.part.records and opened.part.records + len(batch.records) > self.options.max_part_records:
            await self._cut_first(opened)
        async with opened.busy:
            if not self._current(opened, batch):
                return
            number = self._numbers[batch.tp.topic]
            task, feed = opened.task, opened.task.inputs[number]
            first = task.fetched if isinstance(task, AsyncTask) else feed.next_offset
            records = batch.records
            if records and records[0].offset < first:  # a repeat: it is in the state already
                records = [record for record in records if record.offset >= first]
            opened.active[number] = asyncio.get_running_loop().time()
            if isinstance(task, AsyncTask):
                await self._submit(opened, task, records, batch)
                return
            if records:
                more = task.run(records, self.options.clock.now_ms(), number)
                if not await self._slices(opened, task, more, batch.tp.topic):
                    return
                opened.part.records += len(records)
                self.totals.processed += len(records)
            if batch.next_offset > feed.next_offset or records:
                feed.next_offset = max(feed.next_offset, batch.next_offset)
                opened.unwritten = True
            self._offer(opened)

    def _current(self, opened: LanePartition, batch: Batch) -> bool:
        return not opened.closed and batch.epoch == self._current_epoch()

    async def _cut_first(self, opened: LanePartition) -> None:
        """Wait until what is collected has been cut."""
        while opened.part.records and not opened.closed:
            opened.room.clear()
            opened.cut_due.set()
            await opened.room.wait()

    async def _slices(self, opened: LanePartition, task: OperatorTask, more: bool, topic: str) -> bool:
        """Collect what a run did, and with it the rest of a run that was sliced.  ``False``: the partition is gone."""
        self._collect(opened, topic)
        while more:
            opened.unwritten = True
            while opened.unwritten:  # this slice is a part of its own
                opened.room.clear()
                opened.cut_due.set()
                await opened.room.wait()
                if opened.closed:
                    return False
            more = task.resume()
            self._collect(opened, topic)
        return True

    async def _submit(self, opened: LanePartition, task: AsyncTask, records: Sequence[Record], batch: Batch) -> None:
        async def room() -> bool:
            if opened.part.records >= self.options.max_part_records:
                await self._cut_first(opened)
            return self._current(opened, batch)

        before = task.next_offset
        await task.submit(records, batch.next_offset, self.options.clock.now_ms(), room)
        if not opened.closed and task.next_offset != before:
            opened.unwritten = True
            self._offer(opened)

    def _answered(self, partition: int) -> None:
        """Calls have been answered: results wait in the task."""
        opened = self.partitions.get(partition)
        if opened is not None:
            opened.part.records += 1
            self.totals.processed += 1
            self._collect(opened, opened.tp.topic)
            opened.unwritten = True
            self._offer(opened)

    # -- time

    async def _keep_ticking(self, every: timedelta) -> None:
        try:
            while True:
                await asyncio.sleep(every.total_seconds())
                await self.tick()
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self._fatal(exc, f"timers of operator {self.spec.uid}")

    async def tick(self) -> None:
        """Let time pass without records: timers, idle inputs, expired state."""
        now = asyncio.get_running_loop().time()
        for number, opened in list(self.partitions.items()):
            task = opened.task
            if isinstance(task, AsyncTask) or opened.busy.locked():
                continue
            async with opened.busy:
                if opened.closed:
                    continue
                before = task.fired
                more = task.tick(
                    self.options.clock.now_ms(), self._quiet(opened, number, now), self._furthest(but=opened)
                )
                if task.fired != before or task.expiring:
                    opened.unwritten = True
                if await self._slices(opened, task, more, opened.tp.topic) and opened.unwritten:
                    self._offer(opened)

    def _quiet(self, opened: LanePartition, number: int, now: float) -> list[Millis]:
        """For how long nothing has been waiting, per source."""
        quiet = []
        for index, feed in enumerate(opened.task.inputs):
            if self._waiting(TopicPartition(feed.source.topic, number), feed.next_offset):
                opened.active[index] = now
            quiet.append(int((now - opened.active[index]) * 1000))
        return quiet

    def _furthest(self, *, but: LanePartition) -> Millis:
        return max(
            (other.task.context.watermark_ms for other in self.partitions.values() if other is not but), default=NO_TIME
        )

    def _collect(self, opened: LanePartition, topic: str) -> None:
        """Take over what the task emitted; records that it refused are of ``topic``."""
        task, outputs = opened.task, opened.part.outputs
        partition = opened.tp.partition
        if task.outputs:
            if self.spec.output is not None:
                self._add(outputs, self.spec.output, partition, [(key, value, None) for key, value in task.outputs])
                self.totals.emitted += len(task.outputs)
            task.outputs.clear()
        if task.sides:
            for tag, key, value in task.sides:
                side = self._side_topics.get(tag)
                if side is None:
                    raise StateError(
                        f"operator {self.spec.uid!r} emits to the side output {tag!r}, which has no topic: "
                        f"add it to the operator's side_outputs"
                    )
                self._add(outputs, side, partition, [(key.encode(), task._encode(value), None)])
            task.sides.clear()
        if task.refused:
            for record, reason in task.refused:
                self._dead_letter(opened, TopicPartition(topic, partition), record, reason)
            task.refused.clear()
        if isinstance(task, OperatorTask) and task.timer_errors:
            self._dead_timers(opened, task.timer_errors)
            task.timer_errors.clear()

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

    def _dead_letter(self, opened: LanePartition, tp: TopicPartition, record: Record, reason: BaseException) -> None:
        topic, partition = tp
        headers = dead_letter_headers(
            topic,
            partition,
            record.offset,
            reason,
            app=self.options.app_id,
            version=self.options.app_version,
            attempt=attempt_of(record.headers) + 1,
        )
        target = self._bury(opened, tp, (record.key, record.value, headers))
        log.warning("%s[%d]@%d goes to %s: %s", topic, partition, record.offset, target, str(reason)[:300])

    def _dead_timers(self, opened: LanePartition, timers: Sequence[TimerError]) -> None:
        """A timer has no record: its dead letter has its key, no value, and says which timer it was."""
        topic, partition = opened.tp
        for timer in timers:
            headers = dead_letter_headers(
                topic,
                partition,
                NO_OFFSET,
                timer.error,
                app=self.options.app_id,
                version=self.options.app_version,
                attempt=1,
            )
            headers += [(TIMER_DOMAIN, timer.domain.encode()), (TIMER_TIME, b"%d" % timer.timestamp_ms)]
            self._bury(opened, opened.tp, (timer.key.encode(), None, headers))
        first = timers[0]  # of a million that fail alike, one traceback
        log.error(
            "%d timers of operator %s go to %s; the first, %s time %d of key %r: %s",
            len(timers),
            self.spec.uid,
            dlq_topic(topic),
            first.domain,
            first.timestamp_ms,
            first.key[:100],
            str(first.error)[:300],
            exc_info=first.error,
        )

    def _bury(self, opened: LanePartition, tp: TopicPartition, letter: Output) -> str:
        """Count a dead letter and add it to the part in hand; its topic."""
        topic = dlq_topic(tp.topic)
        target = TopicPartition(topic, tp.partition % self.sink.partitions(topic))
        opened.part.outputs.setdefault(target, []).append(letter)
        self.totals.dead_letters += 1
        return topic

    # -- parts

    def _offer(self, opened: LanePartition) -> None:
        if (
            self._draining
            or opened.part.records >= self.options.max_part_records
            or (now := asyncio.get_running_loop().time()) >= opened.next_cut
        ):
            opened.cut_due.set()
        elif opened.timer is None:
            loop = asyncio.get_running_loop()
            opened.timer = loop.call_later(opened.next_cut - now, self._interval_over, opened)

    @staticmethod
    def _interval_over(opened: LanePartition) -> None:
        opened.timer = None
        opened.cut_due.set()

    async def _write_parts(self, opened: LanePartition) -> None:
        """One part after the other, for the life of the partition."""
        task = opened.task
        try:
            while True:
                await opened.cut_due.wait()
                opened.cut_due.clear()
                if opened.timer is not None:
                    opened.timer.cancel()
                    opened.timer = None
                part = self._cut(opened) if opened.unwritten else None
                opened.room.set()
                if part is None:
                    continue
                behind = self._waiting(opened.tp, opened.next_offset + BACKLOG_RECORDS)
                intervals = BACKLOG_INTERVALS if behind else 1
                opened.next_cut = asyncio.get_running_loop().time() + self._interval * intervals
                task.store.committed(part.rows, await self.sink.write(part))
                opened.durable = part.next_offset
                opened.writing = False
                for listener in self.listeners:
                    listener(part)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            # ``writing`` stays set, so this partition never looks drained; and it takes nothing any more.
            opened.closed = True
            opened.room.set()
            self._fatal(exc, f"writing {self.spec.uid} partition {opened.tp.partition}")

    def _cut(self, opened: LanePartition) -> SealedPart | None:
        """Seal what is collected, ``None`` if nothing is.  No ``await`` from here to the end: rows and markers must say the same."""
        task = opened.task
        opened.unwritten = False
        rows = task.freeze()
        offsets = opened.offsets()
        collected, opened.part = opened.part, Collecting()
        if not rows and not collected.outputs and offsets == opened.sealed:
            return None
        opened.sealed = offsets
        opened.writing = True
        rows = [*task.store.identity(), *rows, *task.markers()]
        task.store.seal(rows)
        return SealedPart(
            uid=self.spec.uid,
            source=opened.tp,
            next_offset=opened.next_offset,
            changelog=TopicPartition(self.changelog, opened.tp.partition),
            rows=rows,
            outputs=collected.outputs,
            timestamp_ms=self.options.clock.now_ms(),
            further=[
                (TopicPartition(feed.source.topic, opened.tp.partition), feed.next_offset) for feed in task.inputs[1:]
            ],
        )

    # -- what the outside may ask

    def function_metrics(self) -> Iterator[OperatorMetrics]:
        """Metrics of the function: those of each partition and of the broadcast side, and of an async function those that it keeps."""
        for opened in self.partitions.values():
            yield opened.task.metrics
        if self.broadcasts is not None:
            yield self.broadcasts.metrics
        own = getattr(self._calls.function, "metrics", None) if self._calls is not None else None
        if isinstance(own, OperatorMetrics):
            yield own

    def watermarks(self) -> dict[int, Millis]:
        return {number: opened.task.context.watermark_ms for number, opened in self.partitions.items()}
