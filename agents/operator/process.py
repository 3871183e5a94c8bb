"""What a user writes: a process function, called once per record with the record's key current."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

import msgspec

from agents.operator.metrics import OperatorMetrics
from agents.operator.timers import NoTimers, TimeDomain, Timers
from models.alerts import Source
from models.errors import StateError
from models.time import Millis
from tables.log import Record
from tables.state import KeyContext

I = TypeVar("I")  # noqa: E741  (inputs, output, broadcast element: the letters of Flink's signatures)
I2 = TypeVar("I2")
O = TypeVar("O")  # noqa: E741
B = TypeVar("B")

encode_json = msgspec.json.Encoder().encode


class OutputTag(Generic[O]):
    """Names a side output: ``STEPS = OutputTag[Step]("steps")``, then ``ctx.output(STEPS, step)``.

    The operator's ``side_outputs`` gives each name its topic; a worker that finds none raises :class:`models.errors.StateError`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"OutputTag({self.name!r})"


#: Tag of records that came too late.
LATE: Final = "late"


class LateRecord(msgspec.Struct):
    """A record that came after its time was closed, as ``late-events`` holds it.  All times in ms."""

    operator: str
    record: Any
    timestamp: Millis
    watermark: Millis


class Context(KeyContext):
    """What a function may ask while a record or a timer is in hand.  Valid during the call only: do not keep it.

    ``key``: the record's key.  ``timestamp_ms``: its event time, or the time of the timer.  ``watermark_ms``: no earlier record is
    expected any more (-1 before the first); an event-time timer sees its own time.  ``processing_time_ms``: wall clock, the same for a
    whole batch.  All times are ms since 1970.  ``timers``: those of the current key (:class:`agents.operator.timers.Timers`).
    ``time_domain``: which clock the timer in hand follows.  ``metrics``: ``counter``, ``gauge``, ``histogram`` and ``meter`` by name.
    """

    __slots__ = (
        "_encode",
        "_late",
        "_record",
        "_sides",
        "_topic",
        "event_type",
        "metrics",
        "operator",
        "partition",
        "time_domain",
        "timers",
    )

    def __init__(
        self,
        topic: str = "",
        partition: int = 0,
        operator: str = "",
        encode: Callable[[Any], Any] = encode_json,
    ) -> None:
        super().__init__()
        self.metrics = OperatorMetrics(self)
        self.operator = operator
        self.partition = partition
        self.timers: Timers = NoTimers(operator)
        self.time_domain = TimeDomain.EVENT
        #: type of the (first) input's events where the source's decoder says it, else ``None``
        self.event_type: Any = None
        self._topic = topic
        self._record: Record | None = None
        # Emitted values are encoded while they lie in the processor's cache, and one that cannot be costs its record only.
        self._encode = encode
        self._sides: list[tuple[str, str, Any]] = []
        self._late = self.metrics.counter(LATE)

    @property
    def current_key(self) -> str:
        """The key, by Flink's name."""
        return self.key

    @property
    def record(self) -> Record:
        """The record in hand.  Raises ``LookupError`` where there is none: in ``open`` and ``on_timer``."""
        if self._record is None:
            raise LookupError(f"{self.operator}: no record is in hand")
        return self._record

    @property
    def source(self) -> Source:
        """Where the record in hand lies in the log (offset -1 outside a log)."""
        record = self._record
        return Source(self._topic, self.partition, -1 if record is None else record.offset)

    def output(self, tag: OutputTag[Any] | str, value: Any) -> None:
        """Emit to a side output, under the current key."""
        self._sides.append((tag.name if isinstance(tag, OutputTag) else tag, self.key, self._encode(value)))

    def late(self, event: Any) -> None:
        """Give up on the record in hand because its time is closed: count it and send it to ``late-events``."""
        self._late.inc()
        record = self._record
        raw = None if record is None else record.value
        if isinstance(raw, bytes):  # as it came, with the fields that the event's type does not know
            event = raw.decode(errors="replace") if event is record else msgspec.Raw(raw)
        late = LateRecord(self.operator, event, self.timestamp_ms, self.watermark_ms)
        self._sides.append((LATE, self.key, self._encode(late)))


class _KeylessTimers(NoTimers):
    """Those of the broadcast side."""

    __slots__ = ()

    def _refuse(self, timestamp_ms: Millis) -> None:
        raise StateError(
            f"{self._name} sets a timer on its broadcast side, where no key is current: set it in process_element"
        )


class BroadcastContext(Context):
    """What ``process_broadcast_element`` gets: it neither emits nor has a key of its own."""

    __slots__ = ()

    def __init__(self, operator: str) -> None:
        super().__init__(operator=operator)
        self.timers = _KeylessTimers(operator)

    def output(self, tag: OutputTag[Any] | str, value: Any) -> None:
        raise StateError(
            f"{self.operator} emits to a side output on its broadcast side, which every worker runs: emit in process_element"
        )


class ProcessFunction:
    """Life cycle shared by all functions.  Each partition has an instance of its own."""

    def open(self, ctx: Context) -> None:
        """Called once, with state handles bound and no key current, so that neither state nor timers can be used yet."""

    def close(self) -> None:
        """Called once, after the last record."""


class KeyedProcessFunction(ProcessFunction, Generic[I, O]):
    """One input, keyed.  Synchronous, no I/O: what it does must follow from the record, the state and the context alone."""

    def process_element(self, event: I, ctx: Context) -> Iterable[O] | None:
        """Handle one record: change state, and return or yield outputs.

        An exception sends the record to the dead letter topic with its text; records around it are not affected.
        """
        raise NotImplementedError

    def on_timer(self, timestamp_ms: Millis, ctx: Context) -> Iterable[O] | None:
        """A timer is due; ``ctx.key`` is the key that set it.

        Event-time timers fire in the order of time, before the record that moves the watermark to or past them; a timer set for a time
        that has passed fires right after the call that set it (in processing time, after the batch).  Timers of one time fire in no order.
        However far the watermark moves at once, ``ctx.watermark_ms`` and states with a life in event time stand at the timer's time.  An
        exception sends the timer to the dead letter topic of the (first) source and is counted (``timer_errors``); the timer is spent.
        """
        raise NotImplementedError


class KeyedCoProcessFunction(KeyedProcessFunction[I, O], Generic[I, I2, O]):
    """Two keyed inputs that share state and timers.  Both topics need the same number of partitions."""

    def process_element1(self, event: I, ctx: Context) -> Iterable[O] | None:
        """Handle one record of the first input."""
        raise NotImplementedError

    def process_element2(self, event: I2, ctx: Context) -> Iterable[O] | None:
        """Handle one record of the second input."""
        raise NotImplementedError

    def process_element(self, event: I, ctx: Context) -> Iterable[O] | None:
        return self.process_element1(event, ctx)


class ReplayedProcessFunction(KeyedProcessFunction[I, O]):
    """A function whose memory is a fold over its whole input, kept in plain attributes instead of keyed state.

    Before a partition goes on, its records from the first one up to the marker are given to ``replay`` again.  For small topics that
    keep everything, such as rules.
    """

    def replay(self, event: I) -> None:
        """Take a record that was processed in an earlier life; emits nothing."""
        raise NotImplementedError


class KeyedBroadcastProcessFunction(KeyedProcessFunction[I, O], Generic[I, B, O]):
    """A keyed input and a broadcast input that every worker sees whole."""

    def process_broadcast_element(self, element: B, ctx: Context) -> None:
        """Handle one record of the broadcast input; ``ctx.key`` is its key, ``element`` ``None`` where it has no value.

        Broadcast state is writable here only.  Every worker sees all records, each partition's in order, so what this does must follow
        from them alone.  An exception is logged and counted (``broadcast_refused``), and the next record follows.
        """
        raise NotImplementedError
