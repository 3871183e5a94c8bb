"""The batch lane: batches of a source in, an operator, outputs + changelog + marker out.

Per source partition, independent of the others:

    batch -> operator (synchronous) -> collect, until the commit interval is over or enough is collected -> cut -> write

Time passes without records, too: a lane whose operator has timers looks at the clock every ``tick``.  When many timers are due, they fire
in slices; each slice is cut before the next one starts, with a marker before the record that is held meanwhile.

``next_offset`` is what memory contains, ``durable`` what the log does.  Memory may be trusted across a hand-over only where nothing is
unwritten; after any failed write the process must end, because memory is ahead of the log and cannot go back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from datetime import timedelta

from agents.async_io import AsyncCalls, AsyncTask
from agents.lane.context import LaneContext, LaneOptions
from agents.lane.partition import LanePartition
from agents.operator.async_function import AsyncFunction
from agents.operator.driver import Broadcasts, OperatorTask
from agents.operator.metrics import OperatorMetrics
from agents.operator.process import KeyedBroadcastProcessFunction
from agents.operator.spec import OperatorSpec
from agents.transport import Batch, PartSink
from models.errors import StateError
from models.time import NO_TIME, Millis, millis
from tables.log import Record, TopicPartition
from tables.store import StateStore


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
        """See :class:`LaneContext`.  ``current_epoch()``: batches of another one are dropped."""
        self.context = LaneContext(spec, options, sink, fatal=fatal, waiting=waiting)
        self.spec = spec
        self.options = options
        self.totals = self.context.totals
        self.listeners = self.context.listeners
        self.changelog = self.context.changelog
        self.partitions: dict[int, LanePartition] = {}
        self.broadcasts: Broadcasts | None = None
        self._current_epoch = current_epoch
        self._draining = False
        self._ticker: asyncio.Task[None] | None = None
        self._numbers = {source.topic: number for number, source in enumerate(spec.sources)}
        self._calls: AsyncCalls | None = None
        function = spec.function()
        broadcast = isinstance(function, KeyedBroadcastProcessFunction)
        if broadcast != (spec.broadcast is not None):
            raise StateError(
                f"operator {spec.uid!r}: "
                + (
                    f"{type(function).__name__} reads a broadcast topic: name it with broadcast="
                    if broadcast
                    else f"broadcast={spec.broadcast!r} needs a function that is a KeyedBroadcastProcessFunction"
                )
            )
        if isinstance(function, AsyncFunction):
            if spec.source2 is not None:
                raise StateError(f"operator {spec.uid!r}: an AsyncFunction has one input: leave source2= out")
            self._calls = AsyncCalls(function)
        elif isinstance(function, KeyedBroadcastProcessFunction):
            self.broadcasts = Broadcasts(function, spec.broadcast_decode)

    @property
    def sink(self) -> PartSink:
        return self.context.sink

    # -- partitions come and go

    async def fence(self, partition: int) -> None:
        """Take the partition over from whoever had it; its changelog cannot grow behind our back from here on."""
        source = TopicPartition(self.spec.source.topic, partition)
        await self.sink.open(self.spec.uid, source, TopicPartition(self.context.changelog, partition))

    async def give_back(self, partition: int) -> None:
        """Let go of a partition that was taken over and not opened."""
        await self.sink.close(self.spec.uid, TopicPartition(self.spec.source.topic, partition))

    def open(self, partition: int, store: StateStore) -> None:
        """Start processing a partition from its restored state."""
        task = self._task(partition, store)
        self.partitions[partition] = LanePartition(
            self.context, TopicPartition(self.spec.source.topic, partition), task
        )
        if self._ticker is None and self.options.tick is not None and (task.timed or task.expiring):
            ticking = self._keep_ticking(self.options.tick)
            self._ticker = asyncio.get_running_loop().create_task(ticking, name=f"lane-{self.spec.uid}-ticks")

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

    async def close(self, *partitions: int) -> None:
        """Stop partitions, side by side; what is not durable is forgotten together with their state."""
        closed = [self.partitions.pop(number) for number in partitions if number in self.partitions]
        if not closed:
            return
        await asyncio.gather(*(one.close() for one in closed))
        if not self.partitions:
            await self._stop()
        # Where the broker is silent, each takes until nobody waits any longer.
        await asyncio.gather(*(self.sink.close(self.spec.uid, one.tp) for one in closed))

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
                # Batches that wait already come without a pause: a query would wait for those of all partitions.
                await asyncio.sleep(0)
        except Exception as exc:
            self.context.fatal(exc, f"operator {self.spec.uid}")
            raise

    async def process(self, batch: Batch) -> None:
        """Take one batch.  Batches fetched before the last seek, or of a partition that is gone, are dropped."""
        opened = self.partitions.get(batch.tp.partition)
        if opened is None or not self._current(opened, batch):
            return
        if opened.part.records and opened.part.records + len(batch.records) > self.options.max_part_records:
            await opened.cut_while(lambda: bool(opened.part.records))
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
            opened.offer(now=self._draining)

    def _current(self, opened: LanePartition, batch: Batch) -> bool:
        return not opened.closed and batch.epoch == self._current_epoch()

    async def _slices(self, opened: LanePartition, task: OperatorTask, more: bool, topic: str) -> bool:
        """Collect what a run did, and with it the rest of a run that was sliced.  ``False``: the partition is gone."""
        opened.part.take(task, topic)
        while more:
            opened.unwritten = True
            await opened.cut_while(lambda: opened.unwritten)  # this slice is a part of its own
            if opened.closed:
                return False
            more = task.resume()
            opened.part.take(task, topic)
        return True

    async def _submit(self, opened: LanePartition, task: AsyncTask, records: Sequence[Record], batch: Batch) -> None:
        async def room() -> bool:
            if opened.part.records >= self.options.max_part_records:
                await opened.cut_while(lambda: bool(opened.part.records))
            return self._current(opened, batch)

        before = task.next_offset
        await task.submit(records, batch.next_offset, self.options.clock.now_ms(), room)
        if not opened.closed and task.next_offset != before:
            opened.unwritten = True
            opened.offer(now=self._draining)

    def _answered(self, partition: int) -> None:
        """Calls have been answered: results wait in the task."""
        opened = self.partitions.get(partition)
        if opened is not None:
            opened.part.records += 1
            self.totals.processed += 1
            opened.part.take(opened.task, opened.tp.topic)
            opened.unwritten = True
            opened.offer(now=self._draining)

    # -- time

    async def _keep_ticking(self, every: timedelta) -> None:
        try:
            while True:
                await asyncio.sleep(every.total_seconds())
                await self.tick()
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self.context.fatal(exc, f"timers of operator {self.spec.uid}")

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
                    opened.offer(now=self._draining)

    def _quiet(self, opened: LanePartition, number: int, now: float) -> list[Millis]:
        """For how long nothing has been waiting, per source."""
        quiet = []
        for index, feed in enumerate(opened.task.inputs):
            if self.context.waiting(TopicPartition(feed.source.topic, number), feed.next_offset):
                opened.active[index] = now
            quiet.append(int((now - opened.active[index]) * 1000))
        return quiet

    def _furthest(self, *, but: LanePartition) -> Millis:
        return max(
            (other.task.context.watermark_ms for other in self.partitions.values() if other is not but), default=NO_TIME
        )

    # -- what the outside may ask

    def function_metrics(self) -> Iterator[OperatorMetrics]:
        """Metrics of the function: those of each partition and of the broadcast side, and of an async function its own."""
        for opened in self.partitions.values():
            yield opened.task.metrics
        if self.broadcasts is not None:
            yield self.broadcasts.metrics
        if self._calls is not None:
            yield self._calls.function.metrics

    def watermarks(self) -> dict[int, Millis]:
        return {number: opened.task.context.watermark_ms for number, opened in self.partitions.items()}
