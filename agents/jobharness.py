"""JobHarness: a whole job from topic to topic, on its real lanes, with a log that is a few lists.

Records are encoded and decoded, parts are sealed with their markers, state goes through its changelog; only the broker is missing, and time
is virtual.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from agents.async_io import AsyncTask
from agents.lane import Lane, LaneOptions
from agents.operator.spec import OperatorSpec, check_uids
from agents.operator.timers import FAR
from agents.transport import Batch, Headers, SealedPart
from agents.virtual_time import VirtualLoop
from models.errors import StateError
from models.partitioning import partition_of
from models.time import ManualClock, Millis, length
from models.topics import DEFAULT_PARTITIONS, dlq_topic, spec_of
from tables.log import TopicPartition
from tables.store import PartitionStore

_BATCH = 1000


class HarnessRecord(NamedTuple):
    """A record that never was in a broker's log."""

    offset: int
    timestamp: Millis
    key: bytes | None
    value: Any
    headers: Sequence[tuple[str, bytes]] | None = None


class JobRecord(NamedTuple):
    """A record of a topic, with its key as text and its value decoded from JSON (as text where it is none)."""

    partition: int
    offset: int
    key: str | None
    value: Any
    headers: dict[str, bytes]


class _Died(Exception):
    """The worker dies before this part is committed."""


class _Log:
    """Topics as lists, and the sink that writes to them."""

    def __init__(self, partitions: dict[str, int]) -> None:
        self.records: dict[TopicPartition, list[HarnessRecord]] = {}
        self.clock = ManualClock()
        #: parts until the worker dies, ``None``: never
        self.crash_in: int | None = None
        self._partitions = partitions

    def partitions(self, topic: str) -> int:
        known = spec_of(topic)
        return self._partitions.get(topic) or (known.partitions if known else DEFAULT_PARTITIONS)

    def append(self, tp: TopicPartition, key: bytes | None, value: bytes | None, headers: Headers = None) -> None:
        records = self.records.setdefault(tp, [])
        records.append(HarnessRecord(len(records), self.clock.now_ms(), key, value, list(headers) if headers else None))

    async def open(self, uid: str, source: TopicPartition, changelog: TopicPartition) -> None:
        """Nobody else is there."""

    async def close(self, uid: str, source: TopicPartition) -> None:
        """Nothing is open."""

    async def write(self, part: SealedPart) -> int:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise _Died
        for tp, outputs in part.outputs.items():
            for key, value, headers in outputs:
                self.append(tp, key, value, headers)
        for row, content in part.rows:
            self.append(part.changelog, row, content)
        return len(self.records[part.changelog])


class JobHarness:
    """One job of the topology, by its name or given as its operators: ``JobHarness("fraud")``, ``JobHarness([MY_OPERATOR])``.

    ``send`` appends a record, ``read`` lets the job run until nothing is left to do and gives the values of a topic.  The wall clock
    starts at ``clock_ms`` and moves only by :meth:`advance_processing_time`.  Without ``max_drift`` no event time is too far ahead.
    """

    def __init__(
        self,
        specs: str | OperatorSpec | Iterable[OperatorSpec],
        *,
        clock_ms: Millis = 1_700_000_000_000,
        max_drift: timedelta = timedelta(days=365 * 1000),
        partitions: dict[str, int] | None = None,
    ) -> None:
        if isinstance(specs, str):
            specs = _job(specs)
        self._specs = [specs] if isinstance(specs, OperatorSpec) else list(specs)
        if not all(isinstance(spec, OperatorSpec) for spec in self._specs):
            raise StateError("JobHarness takes the operators of one job, for instance app.topology.JOBS['fraud']")
        check_uids(self._specs)
        self._read_by_the_job = {source.topic for spec in self._specs for source in spec.sources}
        self._read_by_the_job.update(spec.broadcast for spec in self._specs if spec.broadcast)
        self._known = self._read_by_the_job | {
            dlq_topic(source.topic) for spec in self._specs for source in spec.sources
        }
        for spec in self._specs:
            self._known.update(spec.side_outputs.values(), [spec.output] if spec.output else ())
        self._max_drift = max_drift
        self._log = _Log(dict(partitions or {}))
        self._log.clock = ManualClock(clock_ms)
        self._loop = VirtualLoop()
        self._lanes: list[Lane] = []
        self._positions: dict[tuple[str, TopicPartition], int] = {}
        self._failure: BaseException | None = None
        #: workers so far
        self._lives = 0
        self._loop.complete(self._start())

    # -- in

    def send(self, topic: str, key: str | bytes | None, value: Any) -> None:
        """Append a record; ``value`` is encoded as JSON unless it is bytes or ``None``.  The key decides the partition.

        Raises :class:`models.errors.StateError` for a topic that no operator of the job reads.
        """
        if topic not in self._read_by_the_job:
            raise StateError(f"no operator reads {topic!r}; they read {', '.join(sorted(self._read_by_the_job))}")
        raw_key = key.encode() if isinstance(key, str) else key
        raw = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
        partition = partition_of(raw_key or b"", self._log.partitions(topic))
        self._log.append(TopicPartition(topic, partition), raw_key, raw)

    def advance_processing_time(self, by: timedelta) -> None:
        """Let the wall clock go on: timers fire at their time, idle partitions move on."""
        self.run()
        clock = self._log.clock
        end = clock.now_ms() + length(by, "advance_processing_time")
        while (due := self._next_due()) < end:
            self._move(max(due, clock.now_ms()))
        self._move(end)

    def _move(self, to_ms: Millis) -> None:
        clock = self._log.clock
        by = timedelta(milliseconds=to_ms - clock.now_ms())
        clock.advance(by)
        self._loop.run_to(self._loop.now + by.total_seconds())
        self._loop.complete(self._tick())
        self.run()

    def _next_due(self) -> Millis:
        return min(
            (
                opened.task.timers.processing.due
                for lane in self._lanes
                for opened in lane.partitions.values()
                if not isinstance(opened.task, AsyncTask) and opened.task.timers is not None
            ),
            default=FAR,
        )

    async def _tick(self) -> None:
        for lane in self._lanes:
            await lane.tick()

    def end_input(self) -> None:
        """Nothing comes any more: all event-time timers fire, all windows close, operator by operator."""
        for number, _ in enumerate(self._specs):
            self.run()
            lives = -1
            while lives != self._lives:  # a worker that dies of it has not heard of it
                lives = self._lives
                self._loop.complete(self._end(self._lanes[number]))
                self.run()

    async def _end(self, lane: Lane) -> None:
        for opened in lane.partitions.values():
            if not isinstance(opened.task, AsyncTask):
                opened.task.advance_watermark(FAR - 1)
                opened.unwritten = True
        await lane.tick()

    def crash(self) -> None:
        """The worker dies now, with what is in flight, and another one takes over from the log."""
        self._loop.complete(self._restart())

    def crash_before_commit(self, number: int = 1) -> None:
        """The worker will die just before the commit of the ``number``-th part from now; another one takes over."""
        self._log.crash_in = number - 1

    # -- out

    def read(self, topic: str) -> list[Any]:
        """All values of a topic, decoded, by partition and offset, after the job has done what there is to do."""
        return [record.value for record in self.records(topic)]

    def records(self, topic: str) -> list[JobRecord]:
        """All records of a topic.

        Raises :class:`models.errors.StateError` for a topic that the job neither reads nor writes.
        """
        if topic not in self._known:
            raise StateError(f"the job has no topic {topic!r}; it has {', '.join(sorted(self._known))}")
        self.run()
        found = []
        for partition in range(self._log.partitions(topic)):
            for record in self._log.records.get(TopicPartition(topic, partition), ()):
                key = None if record.key is None else record.key.decode(errors="replace")
                found.append(
                    JobRecord(partition, record.offset, key, _decoded(record.value), dict(record.headers or ()))
                )
        return found

    def state(self, operator: str, state: str, key: str) -> Any:
        """Current value of an operator's state for a key, ``None`` if absent; of a broadcast state that of an entry."""
        self.run()
        lane = self._lane(operator)
        if lane.broadcasts is not None and state in lane.broadcasts.states:
            return lane.broadcasts.states[state].get(key)
        opened = lane.partitions[partition_of(key.encode(), self._log.partitions(lane.spec.source.topic))]
        if state not in opened.task.states:
            raise StateError(f"no state {state!r}; there are {', '.join(opened.task.states) or 'none'}")
        return opened.task.states[state].look(key)

    def counters(self, operator: str) -> dict[tuple[str, str], int]:
        """Counters of an operator, by (name, label), over all partitions."""
        self.run()
        totals: dict[tuple[str, str], int] = {}
        for metrics in self._lane(operator).function_metrics():
            for name, counter in metrics.counters.items():
                totals[name] = totals.get(name, 0) + counter.value
        return totals

    def _lane(self, operator: str) -> Lane:
        for lane in self._lanes:
            if lane.spec.uid == operator:
                return lane
        raise StateError(f"no operator {operator!r}; there are {', '.join(spec.uid for spec in self._specs)}")

    def run(self) -> None:
        """Let the job do everything there is to do."""
        self._loop.complete(self._pump())

    def close(self) -> None:
        """Stop the job."""
        if not self._loop.is_closed():
            self._loop.complete(self._stop())
            self._loop.discard()

    def __enter__(self) -> JobHarness:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the worker

    async def _start(self) -> None:
        self._lives += 1
        self._failure = None
        self._positions = {}
        options = LaneOptions(
            app_id="harness",
            app_version="0",
            commit_interval=timedelta(milliseconds=50),
            max_drift=self._max_drift,
            clock=self._log.clock,
            tick=None,
        )
        self._lanes = [
            Lane(spec, options, lambda: self._log, fatal=self._fatal, current_epoch=lambda: 0) for spec in self._specs
        ]
        self._broadcast()
        for lane in self._lanes:
            for partition in range(self._log.partitions(lane.spec.source.topic)):
                store = PartitionStore()
                rows = self._log.records.get(TopicPartition(lane.changelog, partition), [])
                store.apply(rows, len(rows))
                lane.open(partition, store)
            for tp, offset in lane.offsets().items():
                self._positions[lane.spec.uid, tp] = offset

    def _fatal(self, error: BaseException, where: str) -> None:
        self._failure = self._failure or error

    async def _stop(self) -> None:
        for lane in self._lanes:
            for partition in list(lane.partitions):
                await lane.close(partition)

    async def _restart(self) -> None:
        await self._stop()
        await self._start()

    def _broadcast(self) -> bool:
        moved = False
        for lane in self._lanes:
            if lane.broadcasts is None or lane.spec.broadcast is None:
                continue
            topic = lane.spec.broadcast
            for partition in range(self._log.partitions(topic)):
                tp = TopicPartition(topic, partition)
                position = self._positions.get((lane.spec.uid, tp), 0)
                for record in self._log.records.get(tp, [])[position:]:
                    moved = True
                    lane.broadcasts.take(record, topic)  # what is refused is counted
                    self._positions[lane.spec.uid, tp] = record.offset + 1
        return moved

    async def _pump(self) -> None:
        busy = True
        while busy:
            busy = self._broadcast()
            for lane in self._lanes:
                busy |= await self._feed(lane)
            for lane in self._lanes:
                await self._answers(lane)
                await lane.drain(timedelta(seconds=5))
            if self._failure is not None:
                if not isinstance(self._failure, _Died):
                    raise self._failure
                self._log.crash_in = None
                await self._restart()
                await self._tick()  # the clock went on; so it does in a worker
                busy = True

    async def _feed(self, lane: Lane) -> bool:
        moved = False
        for source in lane.spec.sources:
            for partition in range(self._log.partitions(source.topic)):
                tp = TopicPartition(source.topic, partition)
                place = (lane.spec.uid, tp)
                records = self._log.records.get(tp, [])
                while (position := self._positions.get(place, 0)) < len(records) and self._failure is None:
                    batch = records[position : position + _BATCH]
                    self._positions[place] = position + len(batch)
                    await lane.process(Batch(tp, batch, position + len(batch), 0))
                    moved = True
        return moved

    async def _answers(self, lane: Lane) -> None:
        for opened in lane.partitions.values():
            if isinstance(opened.task, AsyncTask):
                await opened.task.answered()


def _job(name: str) -> Iterable[OperatorSpec]:
    """The operators of a job of the application, which is looked up by name as ``faust -A app`` does it."""
    jobs: Mapping[str, Iterable[OperatorSpec]] = importlib.import_module("app.topology").JOBS
    if name not in jobs:
        raise StateError(f"no job {name!r}; there are {', '.join(jobs)}")
    return jobs[name]


def _decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except ValueError:
        return value.decode(errors="replace")
