"""The log as the layers above the transport see it: records, slices of a partition, and a group-less reader.

Kafka and the embedded log implement ``LogReader``; recovery, broadcast state, dead letters and the command line read
through it, so what they see is the same everywhere: committed records only, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from models.time import Millis


class TopicPartition(NamedTuple):
    """A partition of a topic.  Equal and hash-equal to Faust's ``TP``, which is also a plain pair."""

    topic: str
    partition: int


class Record(Protocol):
    """One record as a transport hands it out.  ``headers`` is ``None`` or a sequence of (name, value) pairs."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> Millis: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]] | None: ...


class Slice(NamedTuple):
    """Consecutive records of one partition.

    ``next_offset`` is where reading goes on; it counts what a reader never sees (control records, aborted and
    compacted ones), so it reaches the end offset even when ``records`` is empty.
    """

    tp: TopicPartition
    records: Sequence[Record]
    next_offset: int


class LogReader(Protocol):
    """Reads partitions without a consumer group.  Not safe for use by two tasks at once."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def partitions(self, topic: str) -> int:
        """Number of partitions; raises :class:`models.errors.UnknownTopic`."""

    async def start_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """First offset that is still there, per partition."""

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset after the last *committed* record (Kafka: the last stable offset), asked of the log itself."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets on, and no others.  An offset that is gone means the first one."""

    async def poll(self, timeout: float) -> list[Slice]:
        """Slices read within ``timeout`` seconds; returns as soon as there is one; may be empty."""
