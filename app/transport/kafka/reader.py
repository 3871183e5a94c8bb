"""Group-less reading of Kafka: committed records only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic

import aiokafka

from app.transport.kafka import internals, stopping
from app.transport.kafka.connection import Connection
from app.transport.kafka.failures import connecting, translated
from app.transport.kafka.metadata import partition_counts
from models.errors import LogUnavailable
from tables.log import Slice, TopicPartition

#: Bounds of what one fetch brings, per partition and in all (a larger record still comes, alone).
PARTITION_FETCH_BYTES = 4 << 20
FETCH_BYTES = 16 << 20
#: A question about offsets waits behind the fetch under way, so an idle one must not take long.
FETCH_WAIT_MS = 250
#: An answer that takes longer will not come: the connection is half open, and another one is made.
REQUEST_TIMEOUT_MS = 10_000
#: The public interface does not wake up for a position that moved without a record.
_PUBLIC_WAIT_SECONDS = 0.05


class KafkaReader:
    """A :class:`tables.log.LogReader` on Kafka.

    ``whole_fetches`` takes fetch results in one go, by default where that is possible (see :mod:`app.transport.kafka.internals`);
    otherwise records come through aiokafka's public interface, at more than twice the CPU.
    """

    def __init__(self, connection: Connection, *, whole_fetches: bool | None = None) -> None:
        self._connection = connection
        self._whole_fetches = internals.UNSUPPORTED is None if whole_fetches is None else whole_fetches
        self._consumer: aiokafka.AIOKafkaConsumer | None = None
        #: where each assigned partition goes on; kept for the public interface, which gives records only
        self._positions: dict[TopicPartition, int] = {}

    async def start(self) -> None:
        if self._consumer is not None:
            return
        consumer = aiokafka.AIOKafkaConsumer(
            **self._connection.arguments("reader"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )
        try:
            with connecting(self._connection.url):
                await consumer.start()
            # aiokafka's tasks begin to run.  One that is cancelled before that would cancel whoever stops the consumer.
            await asyncio.sleep(0)
        except BaseException:
            await stopping.stop(consumer)
            raise
        self._consumer = consumer

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopping.stop(consumer)

    async def partitions(self, topic: str) -> int:
        with translated(f"topic {topic}"):
            return (await partition_counts(self._started()._client, [topic]))[topic]

    async def start_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._offsets(tps, end=False)

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._offsets(tps, end=True)

    async def _offsets(self, tps: Iterable[TopicPartition], *, end: bool) -> dict[TopicPartition, int]:
        consumer = self._started()
        wanted = {aiokafka.TopicPartition(*tp): TopicPartition(*tp) for tp in tps}
        if not wanted:
            return {}
        topics = {tp.topic for tp in wanted}
        with translated(f"offsets of {', '.join(sorted(topics))}"):
            # A missing topic would be waited for until the request times out.
            await partition_counts(consumer._client, topics)
            # aiokafka learns of leaders by one topic at a time, and waits 100 ms after each.
            await asyncio.gather(*(consumer._client.add_topic(topic) for topic in topics))
            ask = consumer.end_offsets if end else consumer.beginning_offsets
            return {wanted[tp]: offset for tp, offset in (await ask(list(wanted))).items()}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        consumer = self._started()
        self._positions = {TopicPartition(*tp): offset for tp, offset in positions.items()}
        if not positions:
            consumer.unsubscribe()
            return
        consumer.assign([aiokafka.TopicPartition(*tp) for tp in positions])
        for tp, offset in positions.items():
            consumer.seek(aiokafka.TopicPartition(*tp), offset)

    async def poll(self, timeout: float) -> list[Slice]:
        consumer = self._started()
        deadline = monotonic() + timeout
        while self._positions:
            with translated(f"reading {', '.join(sorted({tp.topic for tp in self._positions}))}"):
                slices = await (
                    self._take(consumer, deadline) if self._whole_fetches else self._get(consumer, deadline)
                )
            if slices:
                return slices
            if monotonic() >= deadline:
                return []
        await asyncio.sleep(max(0.0, deadline - monotonic()))
        return []

    async def _take(self, consumer: aiokafka.AIOKafkaConsumer, deadline: float) -> list[Slice]:
        """Whole fetch results; waits for the next fetch if there is none."""
        fetcher = consumer._fetcher
        taken = internals.take(fetcher, self._positions)
        if not taken:
            waiter = fetcher._create_fetch_waiter()
            try:
                await asyncio.wait([waiter], timeout=max(0.0, deadline - monotonic()))
            finally:
                waiter.cancel()
            taken = internals.take(fetcher, self._positions)
        return [Slice(TopicPartition(*tp), part.records, part.next_offset) for tp, part in taken.items()]

    async def _get(self, consumer: aiokafka.AIOKafkaConsumer, deadline: float) -> list[Slice]:
        """The same through the public interface."""
        wait_ms = int(1000 * min(_PUBLIC_WAIT_SECONDS, max(0.0, deadline - monotonic())))
        fetched = await consumer.getmany(timeout_ms=wait_ms)
        slices = []
        for tp, before in self._positions.items():
            records = fetched.get(aiokafka.TopicPartition(*tp), [])
            position = await consumer.position(aiokafka.TopicPartition(*tp))
            if records or position != before:
                self._positions[tp] = position
                slices.append(Slice(tp, records, position))
        return slices

    def _started(self) -> aiokafka.AIOKafkaConsumer:
        if self._consumer is None:
            raise LogUnavailable(f"the reader of {self._connection.url} is not started; await start() first")
        return self._consumer
