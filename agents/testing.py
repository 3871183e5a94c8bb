"""Test kit: run an operator, or a whole job, with no broker, no waiting and no clock but the test's.

``OperatorHarness`` drives one function on one partition with objects in and objects out.  ``JobHarness`` (agents/jobharness.py) drives the
real lanes of a job from topic to topic, with real serialization.

What neither can show: how the log orders records of several partitions, how long anything takes, and what a broker refuses.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple

from agents.async_io import AsyncCalls, AsyncTask
from agents.jobharness import HarnessRecord, JobHarness
from agents.operator.async_function import AsyncFunction
from agents.operator.driver import Broadcasts, OperatorTask
from agents.operator.process import (
    LATE,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    LateRecord,
    OutputTag,
)
from agents.operator.spec import Source
from agents.operator.timers import FAR, TimeDomain
from agents.virtual_time import VirtualLoop
from models.errors import StateError
from models.time import ManualClock, Millis, length, millis
from tables.changelog import Row
from tables.state import KeyedState
from tables.store import PartitionStore

__all__ = [
    "Advance",
    "Broadcast",
    "Crash",
    "HarnessRecord",
    "JobHarness",
    "OperatorHarness",
    "Second",
    "Snapshot",
    "Watermark",
]


class Snapshot(NamedTuple):
    """State of an operator between two records: changelog rows, markers included, in the order they were written."""

    rows: tuple[Row, ...]
    broadcasts: tuple[tuple[str, Any], ...] = ()
    clock_ms: Millis = 0
    #: name of the events' type, by which a harness of the same process reads back what no declaration says the type of
    event_type: str = ""


@dataclass(frozen=True)
class Watermark:
    """In a script: as :meth:`OperatorHarness.watermark`."""

    timestamp_ms: Millis


@dataclass(frozen=True)
class Advance:
    """In a script: as :meth:`OperatorHarness.advance_processing_time`."""

    by: timedelta


@dataclass(frozen=True)
class Second:
    """In a script: an event of the second input."""

    event: Any


@dataclass(frozen=True)
class Broadcast:
    """In a script: as :meth:`OperatorHarness.broadcast`."""

    key: str
    element: Any


@dataclass(frozen=True)
class Crash:
    """In a script: the worker dies here and another one takes over.

    The state goes back to the last :meth:`OperatorHarness.snapshot` (``run`` takes one at its start and every ``commit_every`` steps), and
    so do the outputs, as those of an open transaction; then everything since is given again.
    """


class _Events:
    """Events as a source decodes them: as they are given.  ``type`` is that of the newest one."""

    #: types of all events that were given in this process
    known: ClassVar[dict[str, type]] = {}

    def __init__(self, name: str = "") -> None:
        self.type = self.known.get(name)

    @property
    def name(self) -> str:
        return "" if self.type is None else f"{self.type.__module__}.{self.type.__qualname__}"

    def decode(self, event: Any) -> Any:
        if type(event) is not self.type:
            self.type = type(event)
            self.known[self.name] = self.type
        return event


class OperatorHarness:
    """One function on one partition.

    ``key`` and ``timestamp`` read an event's key and event time (``key2``, ``timestamp2`` those of a second input, if they differ).
    Without ``out_of_orderness`` the watermark moves only by :meth:`watermark`.  Events are given as objects; outputs come back as objects, as
    they were when they were emitted.
    Processing time starts at 1_700_000_000_000 ms and moves only by :meth:`advance_processing_time`.  An exception of the function is raised
    where a worker would write a dead letter.

    ``check_mutations``: raise :class:`models.errors.StateError` right after the call that changed a value of state in place without giving
    it back (``update``, ``put``, ``add``), or changed one that it had kept from an earlier call: the change would be lost at the next
    restart.  Each call then encodes the whole state, so use it with few keys.
    """

    def __init__(
        self,
        function: KeyedProcessFunction[Any, Any] | AsyncFunction[Any, Any],
        *,
        key: Callable[[Any], str],
        timestamp: Callable[[Any], Millis],
        key2: Callable[[Any], str] | None = None,
        timestamp2: Callable[[Any], Millis] | None = None,
        out_of_orderness: timedelta | None = None,
        allowed_lateness: timedelta | None = None,
        idle_after: timedelta | None = None,
        max_drift: timedelta | None = None,
        check_mutations: bool = False,
        snapshot: Snapshot | None = None,
    ) -> None:
        self._events = _Events(snapshot.event_type if snapshot else "")
        options: dict[str, Any] = {
            "decode": self._events.decode,
            "out_of_orderness": out_of_orderness,
            "allowed_lateness": allowed_lateness,
            "idle_after": idle_after,
        }
        self._sources = [Source(topic="harness", key=key, timestamp=timestamp, **options)]
        if isinstance(function, KeyedCoProcessFunction):
            self._sources.append(
                Source(topic="harness2", key=key2 or key, timestamp=timestamp2 or timestamp, **options)
            )
        self._pristine = function
        self._max_drift = max_drift
        self._check_mutations = check_mutations
        self._broadcast_log: list[tuple[str, Any]] = []
        self._rows: list[Row] = []
        #: frozen, and in no snapshot yet
        self._pending: list[Row] = []
        self._sides: dict[str, list[Any]] = {}
        self._loop: VirtualLoop | None = None
        self._submits: asyncio.Task[None] | None = None
        #: per input, the events given so far by offset: what a log would give again
        self._given: list[dict[int, Any]] = [{} for _ in self._sources]
        #: values emitted so far, in order
        self.outputs: list[Any] = []
        self._start(function, snapshot)

    def _start(
        self, function: KeyedProcessFunction[Any, Any] | AsyncFunction[Any, Any], snapshot: Snapshot | None
    ) -> None:
        self._pristine = copy.deepcopy(function)
        self._clock = ManualClock(snapshot.clock_ms if snapshot else 1_700_000_000_000)
        self._rows = list(snapshot.rows) if snapshot else []
        self._pending = []
        self._broadcast_log = []
        self._broadcasts: Broadcasts | None = None
        store = PartitionStore(check_mutations=self._check_mutations)
        store.apply(
            [HarnessRecord(offset, 0, row, value) for offset, (row, value) in enumerate(self._rows)], len(self._rows)
        )
        drift = 1 << 62 if self._max_drift is None else millis(self._max_drift)
        if isinstance(function, AsyncFunction):
            self._task: OperatorTask | AsyncTask = self._async_task(function, store, drift)
        else:
            if isinstance(function, KeyedBroadcastProcessFunction):
                # The broadcast side is an instance of its own in a worker, too: partitions see its state read-only.
                self._broadcasts = Broadcasts(copy.deepcopy(function))
                for name, element in snapshot.broadcasts if snapshot else ():
                    self.broadcast(name, element)
            self._task = OperatorTask(
                function,
                self._sources[0],
                store,
                source2=self._sources[1] if len(self._sources) > 1 else None,
                broadcasts=self._broadcasts,
                max_drift_ms=drift,
                encode=_as_emitted,
            )
        self._active_ms = [self._clock.now_ms() for _ in self._sources]
        self._task.context.processing_time_ms = self._clock.now_ms()
        self._next = [feed.next_offset for feed in self._task.inputs]

    def _async_task(self, function: AsyncFunction[Any, Any], store: PartitionStore, drift: Millis) -> AsyncTask:
        self._loop = VirtualLoop()

        async def start() -> AsyncTask:
            return AsyncTask(
                AsyncCalls(function),
                self._sources[0],
                store,
                max_drift_ms=drift,
                encode=_as_emitted,
                emitted=self._collect,
            )

        return self._loop.complete(start())

    @classmethod
    def restore(
        cls, function: KeyedProcessFunction[Any, Any] | AsyncFunction[Any, Any], snapshot: Snapshot, **options: Any
    ) -> OperatorHarness:
        """A harness that goes on from a snapshot, with the same or a changed function."""
        return cls(function, snapshot=snapshot, **options)

    # -- in

    def process(self, event: Any) -> None:
        """Process one event."""
        self._process([event], 0)

    def process1(self, event: Any) -> None:
        """Process one event of the first input."""
        self._process([event], 0)

    def process2(self, event: Any) -> None:
        """Process one event of the second input."""
        if len(self._sources) < 2:
            raise StateError("this function has one input: derive it from KeyedCoProcessFunction")
        self._process([event], 1)

    def process_batch(self, events: Sequence[Any]) -> None:
        """Process events as one batch of the log."""
        self._process(events, 0)

    def _process(self, events: Sequence[Any], number: int) -> None:
        source = self._task.inputs[number].source
        records = []
        for event in events:
            records.append(
                HarnessRecord(self._next[number], source.timestamp(event), source.key(event).encode(), event)
            )
            if isinstance(self._task, AsyncTask):
                self._given[number][self._next[number]] = event
            self._next[number] += 1
        self._active_ms[number] = self._clock.now_ms()
        task = self._task
        if isinstance(task, AsyncTask):
            loop = self._virtual
            self._submits = submits = loop.create_task(self._submit(task, records, self._submits))
            loop.settle()
            if submits.done():
                submits.result()
        else:
            task.run(records, self._clock.now_ms(), number)
        self._collect()
        self._raise()

    async def _submit(
        self, task: AsyncTask, records: Sequence[HarnessRecord], before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await before
        await task.submit(records, records[-1].offset + 1, self._clock.now_ms(), _always)

    def broadcast(self, key: str, element: Any) -> None:
        """Give one element to the broadcast side."""
        if self._broadcasts is None:
            raise StateError("this function has no broadcast input: derive it from KeyedBroadcastProcessFunction")
        self._broadcasts.process(key, element)
        self._broadcast_log.append((key, element))

    def watermark(self, timestamp_ms: Millis) -> None:
        """Say that no event before ``timestamp_ms`` is expected any more, in any input.  A watermark never goes back."""
        if type(timestamp_ms) is not int:
            raise StateError(f"watermark({timestamp_ms!r}): a watermark is a whole number of milliseconds since 1970")
        if isinstance(self._task, AsyncTask):
            return
        self._task.advance_watermark(timestamp_ms)
        self._collect()
        self._raise()

    def advance_processing_time(self, by: timedelta) -> None:
        """Let the wall clock go on; timers fire at their time on the way."""
        task, clock = self._task, self._clock
        end = clock.now_ms() + length(by, "advance_processing_time")
        if isinstance(task, AsyncTask):
            clock.advance(by)
            self._virtual.run_to(self._virtual.now + by.total_seconds())
        else:
            while task.timers is not None and task.timers.processing.due < end:
                due = max(task.timers.processing.due, clock.now_ms())
                clock.advance(timedelta(milliseconds=due - clock.now_ms()))
                task.tick(due)
            clock.advance(timedelta(milliseconds=end - clock.now_ms()))
            task.tick(end, [end - since for since in self._active_ms])
        self._collect()
        self._raise()

    def end_input(self) -> None:
        """Nothing comes any more: all event-time timers fire, all windows close, all calls are waited for."""
        if isinstance(self._task, AsyncTask):
            self._virtual.complete(self._answers(self._task))
            self._collect()
            self._raise()
        else:
            self.watermark(FAR - 1)

    async def _answers(self, task: AsyncTask) -> None:
        if self._submits is not None:
            await self._submits
        await task.answered()

    def run(self, script: Iterable[Any], *, commit_every: int = 1 << 62) -> None:
        """Play a script: events, and among them :class:`Second`, :class:`Broadcast`, :class:`Watermark`, :class:`Advance`, :class:`Crash`.

        A snapshot is taken at the start and after every ``commit_every`` steps, and a crash goes back to the last one.
        """
        since: list[Any] = []
        committed = self._commit()
        for step in script:
            if isinstance(step, Crash):
                self._go_back(*committed)
                for again in since:
                    self._play(again)
                continue
            self._play(step)
            since.append(step)
            if len(since) >= commit_every:
                committed = self._commit()
                since = []

    def _commit(self) -> tuple[Snapshot, list[int], int, dict[str, int]]:
        sides = {tag: len(values) for tag, values in self._sides.items()}
        return self.snapshot(), list(self._next), len(self.outputs), sides

    def _go_back(self, snapshot: Snapshot, committed: list[int], outputs: int, sides: dict[str, int]) -> None:
        del self.outputs[outputs:]
        for tag, values in self._sides.items():
            del values[sides.get(tag, 0) :]
        if isinstance(self._task, AsyncTask):
            self._task.close()
            self._virtual.discard()
            self._submits = None
        given = [list(events.items()) for events in self._given]
        self._start(self._pristine, snapshot)
        for number, events in enumerate(given):  # in hand at the commit, but not done
            for offset, event in events:
                if self._task.inputs[number].next_offset <= offset < committed[number]:
                    self._next[number] = offset
                    self._process([event], number)

    def _play(self, step: Any) -> None:
        match step:
            case Second():
                self.process2(step.event)
            case Broadcast():
                self.broadcast(step.key, step.element)
            case Watermark():
                self.watermark(step.timestamp_ms)
            case Advance():
                self.advance_processing_time(step.by)
            case _:
                self.process(step)

    # -- out

    def side_outputs(self, tag: OutputTag[Any] | str) -> list[Any]:
        """Values emitted to a side output so far, in order; of ``late`` the records themselves."""
        return self._sides.get(tag.name if isinstance(tag, OutputTag) else tag, [])

    @property
    def late(self) -> list[Any]:
        """Records that came too late, in order."""
        return self.side_outputs(LATE)

    def state(self, name: str, key: str) -> Any:
        """Current value of a named state for a key, ``None`` if absent or expired; of a broadcast state that of an entry."""
        if self._broadcasts is not None and name in self._broadcasts.states:
            return self._broadcasts.states[name].get(key)
        return self._named(name).look(key)

    def keys(self, name: str) -> Iterator[str]:
        """Keys that have a value in the named state; of a broadcast state those of its entries."""
        if self._broadcasts is not None and name in self._broadcasts.states:
            return iter(self._broadcasts.states[name].keys())
        return self._named(name).stored_keys()

    def _named(self, name: str) -> KeyedState:
        known = self._task.states
        if name not in known:
            raise StateError(f"no state {name!r}; there are {', '.join(known) or 'none'}")
        return known[name]

    def timers(self, key: str) -> list[tuple[TimeDomain, Millis]]:
        """Pending timers of a key as (domain, timestamp_ms), in the order of time."""
        task = self._task
        if isinstance(task, AsyncTask) or task.timers is None:
            return []
        found = [
            (queue.domain, time) for queue in (task.timers.event, task.timers.processing) for time in queue.of(key)
        ]
        return sorted(found, key=lambda timer: (timer[1], timer[0]))

    def counters(self) -> Mapping[tuple[str, str], int]:
        """Counters that the function and the runtime kept, by (name, label)."""
        return {
            name: counter.value
            for each in {self._task.metrics, self.metrics}
            for name, counter in each.counters.items()
        }

    @property
    def metrics(self) -> Any:
        """The function's metrics (counters, gauges, histograms, meters)."""
        return self._task.function.metrics if isinstance(self._task, AsyncTask) else self._task.metrics

    @property
    def watermark_ms(self) -> Millis:
        """The operator's watermark."""
        return self._task.context.watermark_ms

    @property
    def processing_time_ms(self) -> Millis:
        """The wall clock."""
        return self._clock.now_ms()

    @property
    def in_flight(self) -> int:
        """Calls of an ``AsyncFunction`` that have not answered yet."""
        return self._task.in_flight if isinstance(self._task, AsyncTask) else 0

    @property
    def next_offset(self) -> int:
        """Number of events of the first input that the state contains."""
        return self._task.next_offset

    # -- crash and go on

    def snapshot(self) -> Snapshot:
        """What a restart would find now: the state as it was logged, change by change."""
        self._rows.extend([*self._pending, *self._task.freeze(), *self._task.markers()])
        self._pending = []
        return self._last_snapshot()

    def _last_snapshot(self) -> Snapshot:
        return Snapshot(tuple(self._rows), tuple(self._broadcast_log), self._clock.now_ms(), self._events.name)

    def crash(self, function: KeyedProcessFunction[Any, Any] | None = None) -> OperatorHarness:
        """Lose everything since the last :meth:`snapshot` and start again, with a fresh or a changed instance of the function."""
        first = self._sources[0]
        second = self._sources[-1]
        return OperatorHarness(
            copy.deepcopy(self._pristine) if function is None else function,
            key=first.key,
            timestamp=first.timestamp,
            key2=second.key,
            timestamp2=second.timestamp,
            out_of_orderness=first.out_of_orderness,
            allowed_lateness=first.allowed_lateness,
            idle_after=first.idle_after,
            max_drift=self._max_drift,
            check_mutations=self._check_mutations,
            snapshot=self._last_snapshot(),
        )

    # -- within

    @property
    def _virtual(self) -> VirtualLoop:
        if self._loop is None:
            raise StateError("this function makes no calls: derive it from AsyncFunction")
        return self._loop

    def _collect(self) -> None:
        task = self._task
        self.outputs.extend(value for _, value in task.outputs)
        task.outputs.clear()
        for tag, _, value in task.sides:
            self._sides.setdefault(tag, []).append(value.record if isinstance(value, LateRecord) else value)
        task.sides.clear()
        if self._check_mutations:
            self._pending.extend(task.freeze())

    def _raise(self) -> None:
        task = self._task
        if task.refused:
            exc = task.refused[0][1]
            task.refused.clear()
            raise exc
        if isinstance(task, OperatorTask) and task.timer_errors:
            error = task.timer_errors[0].error
            task.timer_errors.clear()
            raise error


def _as_emitted(value: Any) -> Any:
    # A worker encodes a value when it is emitted; what the function makes of it afterwards does not show.  Late records are shown as themselves.
    return value if isinstance(value, LateRecord) else copy.deepcopy(value)


async def _always() -> bool:
    return True
