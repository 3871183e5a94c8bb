"""What a batch lane asks of the transport below it: batches in, sealed parts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from models.time import Millis
from tables.log import Record, TopicPartition

Headers = Sequence[tuple[str, bytes]] | None
#: key, value, headers
Output = tuple[bytes | None, bytes | None, Headers]
#: changelog key, value (``None`` deletes)
Row = tuple[bytes, bytes | None]


class Batch:
    """All records fetched for one source partition in one go, in order.  ``epoch`` is the seek epoch of the fetch."""

    __slots__ = ("epoch", "next_offset", "records", "tp")

    def __init__(self, tp: TopicPartition, records: Sequence[Record], next_offset: int, epoch: int) -> None:
        self.tp = tp
        self.records = records
        self.next_offset = next_offset
        self.epoch = epoch


@dataclass
class SealedPart:
    """What a run of batches of one source partition did; durable all at once or not at all.

    ``next_offset`` is the source offset that the state now contains everything before; ``rows`` hold the dirty state and, as
    their last element, the marker row that says the same.
    """

    uid: str
    source: TopicPartition
    next_offset: int
    changelog: TopicPartition
    rows: list[Row]
    outputs: dict[TopicPartition, list[Output]] = field(default_factory=dict)
    timestamp_ms: Millis = 0
    #: next offset of the operator's second source, if it has one; to be committed with the first one's
    further: list[tuple[TopicPartition, int]] = field(default_factory=list)


class PartSink(Protocol):
    """Makes sealed parts durable.  One per worker; partitions are independent of each other.

    ``open`` before the state of the partition is read back: it fences whoever owned the partition before, so the changelog
    cannot grow behind the reader.  After any exception from ``write`` the process must end: memory is ahead of the log.
    """

    async def open(self, uid: str, source: TopicPartition, changelog: TopicPartition) -> None: ...

    async def write(self, part: SealedPart) -> int:
        """Write outputs, rows and the source offset; return the changelog's next offset once all is committed."""

    async def close(self, uid: str, source: TopicPartition) -> None: ...

    def partitions(self, topic: str) -> int:
        """Number of partitions of an output topic (declared before the lane starts)."""
