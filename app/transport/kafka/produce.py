"""Whole batches of records to Kafka: 0.1 us of CPU a record, 0.5 where nothing is compiled, against 10 for a call of ``send`` each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiokafka
from aiokafka.client import CoordinationType
from aiokafka.errors import InvalidTxnState, KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.sender import AddPartitionsToTxnHandler, Sender, SendProduceReqHandler
from aiokafka.producer.transaction_manager import TransactionManager

from agents.transport import Output
from app.transport.kafka import internals
from app.transport.kafka.connection import Connection
from models.errors import RecordTooLarge
from models.time import Millis
from tables.changelog import Row
from tables.log import TopicPartition

log = logging.getLogger(__name__)

#: Size of a record batch: below 1,048,588 bytes, which brokers take by default.  A larger single record makes a batch of its own.
BATCH_BYTES = 1_000_000
#: aiokafka's wait before it tries again; most of what is tried again is a transaction whose predecessor needs a millisecond more.
RETRY_BACKOFF_MS = 20
ADD_PARTITIONS_BACKOFF_SECONDS = 0.004
#: A broker may be away so long before it gives a transaction up.
TRANSACTION_TIMEOUT_MS = 300_000

#: key, value, headers, timestamp in ms
NewEntry = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]] | None, int]
#: key, value, and headers if there can be any
Packed = Row | Output
#: How long a producer that stops waits for the broker to take what is queued.
STOP_SECONDS = 3.0


def producer(connection: Connection, role: str, *, transactional_id: str | None = None) -> aiokafka.AIOKafkaProducer:
    """A producer that writes each batch exactly once, and in transactions if it has an id for them."""
    options: dict[str, Any] = {}
    if transactional_id is not None:
        options = {"transactional_id": transactional_id, "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS}
    made = aiokafka.AIOKafkaProducer(
        **connection.arguments(role),
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        retry_backoff_ms=RETRY_BACKOFF_MS,
        **options,
    )
    if transactional_id is not None and internals.UNSUPPORTED is None:
        made._sender.__class__ = QuickSender
        made._txn_manager.__class__ = OptionalTransactions
    return made


class QuickAddPartitions(AddPartitionsToTxnHandler):  # type: ignore[misc]
    """Asks again soon: the broker needs 1 to 3 ms to end the transaction before this one, aiokafka waits 20."""

    def handle_response(self, response: Any) -> float | None:
        backoff = super().handle_response(response)
        return None if backoff is None else min(backoff, ADD_PARTITIONS_BACKOFF_SECONDS)


class PatientProduce(SendProduceReqHandler):  # type: ignore[misc]
    """Sends a batch that is in no transaction again while the end of the transaction before it is not in the partition yet."""

    def _can_retry(self, error: Exception, batch: Any) -> bool:
        waits = isinstance(error, InvalidTxnState) and not self._sender._txn_manager.is_in_transaction()
        return (waits and not batch.expired()) or bool(super()._can_retry(error, batch))


class QuickSender(Sender):  # type: ignore[misc]
    """aiokafka's sender of a transactional producer, with the quicker way to begin a transaction and with patience after one."""

    async def _send_produce_req(self, node_id: int, batches: Any) -> None:
        # As aiokafka's, with a handler of ours.
        await PatientProduce(self, batches).do(node_id)
        self._in_flight.remove(node_id)
        for tp in batches:
            self._muted_partitions.remove(tp)

    async def _do_add_partitions_to_txn(self, tps: Any) -> Any:
        node = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return await QuickAddPartitions(self, tps).do(node)


class OptionalTransactions(TransactionManager):  # type: ignore[misc]
    """aiokafka's, for a producer with a transactional id that also writes batches which are in no transaction.

    Such a batch bears the id's epoch, so the broker refuses it once the next owner of the id has written to the partition.
    """

    def maybe_add_partition_to_txn(self, tp: Any) -> None:
        if self.is_in_transaction():
            super().maybe_add_partition_to_txn(tp)


def pack(
    to: aiokafka.AIOKafkaProducer, records: Iterable[Packed], time_ms: Millis, *, alone: bool = False
) -> list[Any]:
    """As :func:`fill`, for records of one time; ``alone``: in no transaction, though the producer has an id for them.

    Only with aiokafka's inside as we know it can there be such batches, and anything be quicker than its public builder.
    """
    if internals.UNSUPPORTED is None and internals.batches is not None:
        transactional = not alone and to._txn_manager.transactional_id is not None
        packed: list[Any] = internals.batches.pack(records, time_ms, transactional, BATCH_BYTES)
        return packed
    entries = ((key, value, headers[0] if headers else None, time_ms) for key, value, *headers in records)
    return fill(to, entries, _builder_alone if alone else None)


def _builder_alone() -> BatchBuilder:
    return BatchBuilder(BATCH_BYTES, 0, is_transactional=False)


def fill(
    to: aiokafka.AIOKafkaProducer, records: Iterable[NewEntry], create: Callable[[], Any] | None = None
) -> list[Any]:
    """Record batches, closed, as few as the size of a batch allows.  (aiokafka calls them builders.)"""
    create = create or to.create_batch
    batches: list[Any] = []
    builder = create()
    append = builder.append
    for key, value, headers, timestamp_ms in records:
        if append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers) if headers else None) is None:
            batches.append(builder)
            builder = create()
            append = builder.append
            if append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers) if headers else None) is None:
                raise RecordTooLarge(f"a record of {len(value or b'')} bytes does not fit into a batch of its own")
    if builder.record_count():
        batches.append(builder)
    for batch in batches:
        batch.close()
    return batches


class Sending:
    """A batch on its way: its future, how many records it holds."""

    __slots__ = ("count", "future")

    def __init__(self, future: asyncio.Future[Any], count: int) -> None:
        self.future = future
        self.count = count


async def send(to: aiokafka.AIOKafkaProducer, tp: TopicPartition, batches: Iterable[Any]) -> list[Sending]:
    """Queue the batches in order; each is stored once its future is done."""
    sent = []
    for batch in batches:
        sent.append(Sending(await _queue(to.send_batch, tp, batch), batch.record_count()))
    return sent


async def send_alone(to: aiokafka.AIOKafkaProducer, tp: TopicPartition, batch: Any) -> Sending:
    """Queue a batch that is in no transaction, of a producer that has an id for them.  Only with aiokafka's inside as we know it."""
    await to.client._wait_on_metadata(tp.topic)

    def add(batch: Any, topic: str, partition: int) -> Any:
        return to._message_accumulator.add_batch(
            batch, aiokafka.TopicPartition(topic, partition), to._request_timeout_ms / 1000
        )

    return Sending(await _queue(add, tp, batch), batch.record_count())


async def _queue(add: Callable[..., Any], tp: TopicPartition, batch: Any) -> asyncio.Future[Any]:
    while True:
        try:
            future: asyncio.Future[Any] = await add(batch, tp.topic, partition=tp.partition)
            future.add_done_callback(_seen)
            return future
        except KafkaTimeoutError:
            # The batch before it has not left yet: the broker is away.  This one is not queued, so it can be tried again.
            log.warning("%s[%d]: Kafka has taken nothing for a while; still trying", tp.topic, tp.partition)


async def stored(sent: Sequence[Sending]) -> list[int]:
    """Wait until all are stored; base offset of each.  Raises the first failure, after all have ended one way or the other."""
    results = await asyncio.gather(*(one.future for one in sent), return_exceptions=True)
    offsets = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        offsets.append(int(result.offset))
    return offsets


async def start(producer: aiokafka.AIOKafkaProducer) -> None:
    """Connect; with a transactional id this fences the id's previous owner and aborts what it left open."""
    try:
        await producer.start()
    except BaseException:
        await stop(producer)
        raise


async def touch(producer: aiokafka.AIOKafkaProducer, group: str) -> None:
    """Commit a transaction with nothing in it.  It is noted among the group's offsets and in no topic of ours.

    Raises an error of aiokafka; waits while the broker is away.
    """
    await producer.begin_transaction()
    while not await producer._sender._do_add_offsets_to_txn(group):
        pass  # it has waited before it said no
    await producer.commit_transaction()


def cause(producer: aiokafka.AIOKafkaProducer) -> BaseException | None:
    """What the broker said to the transaction under way, where aiokafka itself only says that there is none any more."""
    waiter = producer._txn_manager._transaction_waiter
    return waiter.exception() if waiter is not None and waiter.done() and not waiter.cancelled() else None


def silence(producer: aiokafka.AIOKafkaProducer) -> None:
    """Have asyncio not report, one by one, the batches that failed together with the first one."""
    cause(producer)  # asked for, it counts as seen
    for batches in list(producer._message_accumulator._batches.values()):
        for batch in batches:
            _seen(batch._drain_waiter)


def _seen(future: asyncio.Future[Any]) -> None:
    """Have asyncio not report a failure that nobody waited for: of batches that fail together, the first one's is raised."""
    if future.done() and not future.cancelled():
        future.exception()


async def stop(producer: aiokafka.AIOKafkaProducer) -> None:
    """Disconnect.  What is queued leaves first, unless the broker does not take it within seconds."""
    try:
        await asyncio.wait_for(producer.stop(), STOP_SECONDS)
    except TimeoutError:
        log.warning("a producer was stopped with records that Kafka did not take")
        await producer.client.close()
