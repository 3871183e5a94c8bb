"""What we use of aiokafka's inside, checked at import, and the largest gain of it: whole fetch results in one go.

Without an object of aiokafka per record a record costs 1.3 us of CPU less, a fifth of the whole path.  aiokafka is pinned in setup.cfg;
where it is another one or a name is missing, ``UNSUPPORTED`` says so and everything goes through the public interface.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import aiokafka
from aiokafka.consumer import fetcher as fetching
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.producer.sender import AddPartitionsToTxnHandler, Sender, SendProduceReqHandler
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.record.memory_records import MemoryRecords

from tables.log import Record

#: The compiled making and reading of record batches, ``None`` where there was no compiler.
batches: Any
try:
    import app.transport.kafka._batches as batches
except ImportError:
    batches = None

VERSION = "0.14.0"

#: What is used, by the class it belongs to: methods, and attributes that its constructor sets.
_METHODS: dict[type, tuple[str, ...]] = {
    Fetcher: ("_create_fetch_waiter", "_notify", "_get_actions_per_node"),
    FetchResult: ("check_assignment", "has_more", "_update_position"),
    PartitionRecords: ("_consume_aborted_up_to", "_contains_abort_marker"),
    GroupCoordinator: ("_do_heartbeat", "_on_join_complete", "check_errors"),
    SendProduceReqHandler: ("_can_retry", "do"),
    Sender: ("_send_produce_req", "_do_add_partitions_to_txn", "_do_add_offsets_to_txn", "_find_coordinator"),
    AddPartitionsToTxnHandler: ("handle_response", "do"),
    MessageAccumulator: ("add_batch",),
    TransactionManager: ("maybe_add_partition_to_txn", "is_in_transaction"),
    BatchBuilder: ("record_count", "size", "close", "closed", "_set_producer_state", "_build"),
}
_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    Fetcher: ("_records", "_wait_consume_future", "_subscriptions", "_closed", "_fetch_max_wait_ms", "_fetch_task"),
    FetchResult: ("_topic_partition", "_partition_records"),
    PartitionRecords: (
        "_records",
        "_check_crcs",
        "_isolation_level",
        "_aborted_producers",
        "_records_iterator",
        "next_fetch_offset",
    ),
    GroupCoordinator: (
        "_pending_exception",
        "_rejoin_needed_fut",
        "_coordination_task",
        "_session_timeout_ms",
        "_group_instance_id",
        "generation",
    ),
    Sender: ("_txn_manager", "_in_flight", "_muted_partitions"),
    aiokafka.AIOKafkaConsumer: ("_fetcher", "_coordinator", "_client", "_closed"),
    aiokafka.AIOKafkaProducer: ("_sender", "_message_accumulator", "_txn_manager", "_request_timeout_ms"),
    MessageAccumulator: ("_batches",),
    MessageBatch: ("_drain_waiter",),
}


def _unsupported() -> str | None:
    if aiokafka.__version__ != VERSION:
        return f"aiokafka is {aiokafka.__version__}, not {VERSION}"
    for owner, names in _METHODS.items():
        for name in names:
            if not callable(getattr(owner, name, None)):
                return f"aiokafka has no {owner.__name__}.{name}"
    for owner, names in _ATTRIBUTES.items():
        for name in names:
            if name not in owner.__init__.__code__.co_names:  # type: ignore[misc]
                return f"aiokafka has no {owner.__name__}.{name}"
    if getattr(fetching, "MemoryRecords", None) is not MemoryRecords:
        return "aiokafka's fetcher makes other records"
    return None


#: Why the inside of aiokafka is left alone, ``None`` if it is what we know.
UNSUPPORTED = _unsupported()


class FetchedBytes(MemoryRecords):  # type: ignore[misc]
    """What was fetched of a partition: aiokafka's reader of it, and the bytes themselves."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


if UNSUPPORTED is None and batches is not None:
    fetching.MemoryRecords = FetchedBytes


class Taken(NamedTuple):
    """Records of one partition, about their size in bytes, and where the partition goes on (control records and aborted ones counted)."""

    records: list[Record]
    next_offset: int
    size: int


def take(fetcher: Fetcher, partitions: Collection[Any]) -> dict[Any, Taken]:
    """Take what has been fetched for ``partitions`` and let the fetcher go on.

    A partition whose fetch failed raises its error, once there is nothing else to return.  Partitions without a new position are
    left out.
    """
    out: dict[Any, Taken] = {}
    for tp in list(fetcher._records):
        if tp not in partitions:
            continue
        result = fetcher._records[tp]
        failed = type(result) is not FetchResult
        if failed and out:
            continue
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
        if failed:
            result.check_raise()
        taken = _unpack(result)
        if taken is not None:
            out[tp] = taken
    return out


def _unpack(result: FetchResult) -> Taken | None:
    """As ``PartitionRecords._unpack_records``, by the batch instead of by the record."""
    tp = result._topic_partition
    if not result.check_assignment(tp) or not result.has_more():
        return None
    source = result._partition_records
    records = source._records
    size = records.size_in_bytes()
    raw = records.raw if isinstance(records, FetchedBytes) else None
    end = 0
    taken: list[Record] = []
    while records.has_next():
        batch = records.next_batch()
        whole: bool | None = None
        if raw is not None:
            begin, end = end, batches.batch_end(raw, end)
            whole = batches.is_whole(raw, begin, end) if source._check_crcs else None
        if source._check_crcs and not (batch.validate_crc() if whole is None else whole):
            raise CorruptRecordException(f"{tp.topic}[{tp.partition}]: a fetched batch has a wrong checksum")
        if source._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            source._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and source._contains_abort_marker(batch):
                source._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in source._aborted_producers:
                source.next_fetch_offset = batch.next_offset
                continue
        if not batch.is_control_batch and (
            raw is None or not batches.unpack(raw, begin, end, source.next_fetch_offset, taken)
        ):
            part = list(batch)
            if part and part[0].offset < source.next_fetch_offset:
                part = [record for record in part if record.offset >= source.next_fetch_offset]
            taken += part
        source.next_fetch_offset = batch.next_offset
    result._update_position()
    result._partition_records = None
    # A generator that holds its owner, which holds the megabyte that was fetched: a cycle, which only the collector would free.
    source._records_iterator = None
    return Taken(taken, source.next_fetch_offset, size)
