"""Records on their way from Faust to the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from faust.exceptions import ProducerSendError
from faust.types import TP, RecordMetadata

from app.transport.embedded.log import Transaction
from app.transport.embedded.records import Record
from tables.log import TopicPartition

Done = Callable[[RecordMetadata | None, Exception | None], None]


class Sending(NamedTuple):
    """A record on its way, and whom to tell."""

    tp: TP
    record: Record
    done: Done

    def settle(self, error: Exception | None) -> None:
        if error is not None:
            self.done(None, ProducerSendError(str(error)))
        else:
            record = self.record
            self.done(
                RecordMetadata(self.tp.topic, self.tp.partition, self.tp, record.offset, record.timestamp / 1000.0, 0),
                None,
            )


class Staged(NamedTuple):
    """A record of a transaction that is not committed yet.  ``source`` is ``None`` for one that no event caused."""

    source: TP | None
    offset: int
    sending: Sending


class Staging:
    """What transactions hold back until the events that caused it are committed."""

    def __init__(self) -> None:
        self._staged: list[Staged] = []
        self._per_partition: Counter[TP] = Counter()

    def __len__(self) -> int:
        return len(self._staged)

    def add(self, staged: Staged) -> None:
        self._staged.append(staged)
        self._per_partition[staged.sending.tp] += 1

    def holds(self, tp: TP) -> bool:
        """Whether something for this partition is held back."""
        return self._per_partition[tp] > 0

    def take(self, offsets: Mapping[TP, int], committed: Mapping[TP, int | None]) -> list[Sending]:
        """Remove what may be written with these offsets: caused by events below them, or below what is committed already.

        A record that no event caused goes along unless it would overtake one of its partition.
        """
        due: list[Sending] = []
        kept: list[Staged] = []
        kept_in: Counter[TP] = Counter()
        for staged in self._staged:
            source, tp = staged.source, staged.sending.tp
            if source is None:
                ready = not kept_in[tp]
            else:
                ready = staged.offset < max(offsets.get(source) or 0, committed.get(source) or 0)
            if ready:
                due.append(staged.sending)
            else:
                kept.append(staged)
                kept_in[tp] += 1
        self._staged, self._per_partition = kept, kept_in
        return due


class Result:
    """A finished future, as far as Faust's ``Topic._on_published`` looks at it."""

    __slots__ = ("_error", "_metadata")

    def __init__(self, metadata: RecordMetadata | None, error: Exception | None) -> None:
        self._metadata = metadata
        self._error = error

    def result(self) -> RecordMetadata | None:
        if self._error is not None:
            raise self._error
        return self._metadata


def append(transaction: Transaction, sending: Iterable[Sending]) -> None:
    """Append records, partition by partition, each partition's in order."""
    by_partition: dict[TP, list[Record]] = {}
    for item in sending:
        by_partition.setdefault(item.tp, []).append(item.record)
    for tp, records in by_partition.items():
        transaction.append(TopicPartition(*tp), records)
