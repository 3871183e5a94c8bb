"""What a user writes: a process function, called once per record with the record's key current."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from agents.operator.metrics import OperatorMetrics
from models.alerts import Source
from tables.log import Record
from tables.state import KeyContext

I = TypeVar("I")  # noqa: E741  (input, output, broadcast element: the letters of Flink's signatures)
O = TypeVar("O")  # noqa: E741
B = TypeVar("B")


class OutputTag(Generic[O]):
    """Names a side output."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"OutputTag({self.name!r})"


class Context(KeyContext):
    """What a function may ask while a record is in hand.  Valid during the call only: do not keep it.

    ``key``: the record's key.  ``timestamp_ms``: its event time.  ``watermark_ms``: no earlier record is expected any more (-1
    before the first).  ``processing_time_ms``: wall clock, the same for a whole batch.
    """

    __slots__ = ("_record", "_sides", "_topic", "metrics", "partition")

    def __init__(self, metrics: OperatorMetrics, topic: str = "", partition: int = 0) -> None:
        super().__init__()
        self.metrics = metrics
        self.partition = partition
        self._topic = topic
        self._record: Record | None = None
        self._sides: list[tuple[str, str, Any]] = []

    @property
    def source(self) -> Source:
        """Where the record in hand lies in the log (offset -1 outside a log)."""
        record = self._record
        return Source(self._topic, self.partition, -1 if record is None else record.offset)

    def output(self, tag: OutputTag[Any] | str, value: Any) -> None:
        """Emit to a side output."""
        self._sides.append((tag.name if isinstance(tag, OutputTag) else tag, self.key, value))


class ProcessFunction:
    """Life cycle shared by all functions.  Each partition has an instance of its own."""

    def open(self, ctx: Context) -> None:
        """Called once, with state handles bound and no key current."""

    def close(self) -> None:
        """Called once, after the last record."""


class KeyedProcessFunction(ProcessFunction, Generic[I, O]):
    """One input, keyed.  Synchronous, no I/O: what it does must follow from the record, the state and the context alone."""

    def process_element(self, event: I, ctx: Context) -> Iterable[O] | None:
        """Handle one record: change state, and return or yield outputs.

        An exception sends the record to the dead letter topic with its text; records around it are not affected.
        """
        raise NotImplementedError


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
        """Handle one record of the broadcast input; ``ctx.key`` is its key.  Broadcast state is writable here only."""
        raise NotImplementedError
