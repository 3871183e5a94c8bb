"""Faust's producer on the embedded log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, cast

from faust.exceptions import ProducerSendError
from faust.streams import current_event
from faust.transport import base
from faust.transport.producer import ProducerBuffer
from faust.types import TP, RecordMetadata
from faust.types.core import HeadersArg
from faust.types.tuples import FutureMessage
from mode import get_logger
from mode.utils.times import Seconds, want_seconds

from app.transport.embedded.engine import Engine
from app.transport.embedded.log import Transaction
from app.transport.embedded.records import MAX_RECORD_BYTES, Record
from app.transport.embedded.sending import Result, Sending, Staged, Staging, append
from models.errors import LogError, LogUnavailable, RecordTooLarge, UnknownTopic
from models.partitioning import partition_of
from models.time import SystemClock
from tables.log import TopicPartition

if TYPE_CHECKING:
    from app.transport.embedded.driver import Transport

logger = get_logger(__name__)

#: Seconds that records wait for company where Faust's ``producer_linger`` says nothing.
LINGER = 0.005
#: Records on their way that make agents wait.
MAX_BACKLOG = 20_000
#: Room for headers and framing below the log's limit.
MAX_PAYLOAD_BYTES = MAX_RECORD_BYTES - (64 << 10)


class Buffer(ProducerBuffer):
    """What tables and ``send_soon`` put their records into; nothing stays here, the producer has its own queue."""

    def __init__(self, producer: Producer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._producer = producer

    def put(self, fut: FutureMessage) -> None:
        self._producer.put(fut)

    async def flush(self) -> None:
        await self._producer.flush()

    async def wait_until_ebb(self) -> None:
        if self._producer.backlog > MAX_BACKLOG:
            await self._producer.flush()

    @property
    def size(self) -> int:
        return 0


class Producer(base.Producer):
    """Queues records and writes them in groups.

    A record that cannot be stored ends the worker: whoever sent it may have gone on, and its cause be committed.
    Under ``exactly_once`` records caused by an event are staged until the event's offset is committed.
    """

    logger = logger
    transport: Transport

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any) -> None:
        super().__init__(transport, loop=loop, **kwargs)
        self.buffer = Buffer(self, loop=self.loop, beacon=self.beacon)
        self.buffer.app = self.app
        self._clock = SystemClock()
        self._engine: Engine | None = None
        self._linger = self.linger_ms / 1000.0 or LINGER
        self._timer: asyncio.TimerHandle | None = None
        self._pending: list[Sending] = []
        self._in_flight = 0
        self._finished = 0
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self.staging = Staging()

    async def on_start(self) -> None:
        self._engine = await Engine.open(self.transport.location)
        await super().on_start()

    async def on_stop(self) -> None:
        await self.flush()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise LogUnavailable(f"the producer on {self.transport.location.directory} is not started")
        return self._engine

    # -- partitions

    def _partitions(self, topic: str) -> int:
        try:
            return len(self.engine.topic(topic).partitions)
        except UnknownTopic:
            # As a broker's auto-creation: once per topic, a few milliseconds.
            count = self.transport.default_partitions(topic)
            self.engine.writer.submit(lambda transaction: transaction.create_topic(topic, count, {})).result()
            return len(self.engine.topic(topic).partitions)

    def _partition(self, topic: str, key: bytes | None) -> int:
        count = self._partitions(topic)
        if self.partitioner is not None:
            every = list(range(count))
            return int(self.partitioner(key, every, every))
        return partition_of(key, count) if key is not None else random.randrange(count)

    def key_partition(self, topic: str, key: bytes) -> TP:
        return TP(topic, self._partition(topic, key))

    # -- sending

    def put(self, future: FutureMessage) -> None:
        """Send without waiting: table changelogs and ``send_soon``."""
        message = future.message
        channel = cast(Any, message.channel)
        topic = channel.get_topic_name()
        tp, record = self._record(
            topic, message.key, message.value, message.partition, message.timestamp, message.headers
        )
        state = self.app.sensors.on_send_initiated(
            self, topic, message=message, keysize=len(record.key or b""), valsize=len(record.value or b"")
        )

        def done(metadata: RecordMetadata | None, error: Exception | None) -> None:
            if not future.done():
                channel._on_published(Result(metadata, error), message=future, producer=self, state=state)

        self._take(Sending(tp, record, done))

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Queue a record.  The result comes when it is stored; for a record staged in a transaction at once, without an
        offset (to wait for the commit within the event that the commit waits for would never end)."""
        self.app.on_produce_message.send(
            key=key, value=value, partition=partition, timestamp=timestamp, headers=headers
        )
        tp, record = self._record(topic, key, value, partition, timestamp, headers)
        future: asyncio.Future[RecordMetadata] = self.loop.create_future()

        def done(metadata: RecordMetadata | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast(RecordMetadata, metadata))

        sending = Sending(tp, record, done)
        if self._take(sending):
            record.offset = -1
            sending.settle(None)
        return future

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        return await (await self.send(topic, key, value, partition, timestamp, headers))

    def _record(
        self, topic: str, key: Any, value: Any, partition: int | None, timestamp: float | None, headers: Any
    ) -> tuple[TP, Record]:
        key = key.encode() if isinstance(key, str) else key
        value = value.encode() if isinstance(value, str) else value
        if len(key or b"") + len(value or b"") > MAX_PAYLOAD_BYTES:
            raise RecordTooLarge(f"{topic}: a record of {len(value or b'')} bytes; the log takes {MAX_PAYLOAD_BYTES}")
        if partition is None:
            partition = self._partition(topic, key)
        elif not 0 <= partition < self._partitions(topic):
            raise ProducerSendError(f"{topic} has {self._partitions(topic)} partitions, none with number {partition}")
        timestamp_ms = self._clock.now_ms() if timestamp is None else int(timestamp * 1000)
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        named = [(name, data.encode() if isinstance(data, str) else data) for name, data in pairs or ()]
        return TP(topic, partition), Record(0, timestamp_ms, key, value, named or None)

    def _take(self, sending: Sending) -> bool:
        """Stage or queue a record; ``True`` if it was staged for an event."""
        if self.app.in_transaction:
            event = current_event()
            if event is not None and event.message.tp is not None:
                self.staging.add(Staged(event.message.tp, event.message.offset, sending))
                return True
            if self.staging.holds(sending.tp):
                # Not caused by an event, but must not overtake what is staged for its partition.
                self.staging.add(Staged(None, -1, sending))
                return False
        self._pending.append(sending)
        if self._timer is None and not self._in_flight:
            self._timer = self.loop.call_later(self._linger, self._write)
        return False

    # -- writing

    @property
    def backlog(self) -> int:
        """Records on their way."""
        return len(self._pending) + self._in_flight

    def _write(self) -> None:
        self._timer = None
        sending, self._pending = self._pending, []
        self._in_flight = len(sending)
        future = asyncio.wrap_future(self.engine.writer.submit(lambda tx: append(tx, sending)), loop=self.loop)
        future.add_done_callback(lambda done: self._written(sending, done))

    def _written(self, sending: list[Sending], done: asyncio.Future[None]) -> None:
        error = done.exception()
        self._finished += self._in_flight
        self._in_flight = 0
        for item in sending:
            item.settle(cast("Exception | None", error))
        while self._barriers and self._barriers[0][0] <= self._finished:
            barrier = self._barriers.pop(0)[1]
            if not barrier.done():
                barrier.set_result(None)
        if error is not None:
            self.loop.create_task(self.crash(error))
        if self._pending and self._timer is None:
            self._timer = self.loop.call_later(0 if self._barriers else self._linger, self._write)

    async def flush(self) -> None:
        """A barrier over what is queued now; what comes later does not prolong it."""
        target = self._finished + self.backlog
        if self._finished >= target:
            return
        barrier: asyncio.Future[None] = self.loop.create_future()
        self._barriers.append((target, barrier))
        if self._timer is not None:
            self._timer.cancel()
            self._write()
        await barrier

    # -- one transaction: outputs, changelog and offsets

    async def commit(self, offsets: Mapping[TP, int], committed: Mapping[TP, int | None]) -> None:
        """Write what events below these offsets have staged, and the offsets.

        Raises :class:`models.errors.Fenced` or another :class:`models.errors.LogError`; nothing is stored then.
        """
        lock = self.transport.lock
        app_id, generation = lock.app_id, lock.generation
        sending = self.staging.take(offsets, committed)

        def store(transaction: Transaction) -> None:
            transaction.require_generation(app_id, generation)
            append(transaction, sending)
            transaction.commit_positions(app_id, [(TopicPartition(*tp), offset) for tp, offset in offsets.items()])

        try:
            await self.engine.write(store)
        except LogError as exc:
            for item in sending:
                item.settle(exc)
            raise
        for item in sending:
            item.settle(None)

    # -- topics

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Seconds = 30.0,
        retention: Seconds | None = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        settings = {name: str(value) for name, value in (config or {}).items()}
        policies = [name for name, on in (("compact", compacting), ("delete", deleting)) if on]
        if policies:
            settings["cleanup.policy"] = ",".join(policies)
        if retention:
            settings["retention.ms"] = str(int(want_seconds(retention) * 1000))
        await self.engine.write(lambda transaction: transaction.create_topic(topic, partitions, settings))

    def supports_headers(self) -> bool:
        return True
