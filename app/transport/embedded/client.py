"""The embedded log as a broker: topics, appends and readers for commands, checks and views."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from app.transport.client import NewRecord
from app.transport.embedded.compaction import DELETE_RETENTION
from app.transport.embedded.engine import Engine
from app.transport.embedded.location import locate
from app.transport.embedded.log import Topic, Transaction
from app.transport.embedded.reader import EmbeddedReader
from app.transport.embedded.records import Record
from app.transport.embedded.retention import NO_LIMIT, RETENTION
from models.errors import LogUnavailable
from models.partitioning import partition_of
from models.time import SystemClock, millis
from tables.log import TopicPartition

#: What a topic does that was made without saying so; how large a record may be is the same for all topics.
DEFAULTS = {
    "cleanup.policy": "delete",
    "retention.ms": str(millis(RETENTION)),
    "retention.bytes": str(NO_LIMIT),
    "delete.retention.ms": str(millis(DELETE_RETENTION)),
}


class EmbeddedClient:
    """A :class:`app.transport.client.BrokerClient` on ``embedded://PATH``.  Any number of processes may have one."""

    def __init__(self, broker_url: str) -> None:
        self._location = locate(broker_url)
        self._engine: Engine | None = None
        self._clock = SystemClock()

    async def __aenter__(self) -> EmbeddedClient:
        self._engine = await Engine.open(self._location)
        return self

    async def __aexit__(self, *exc: object) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def topics(self) -> dict[str, int]:
        return {name: len(topic.partitions) for name, topic in sorted(self._entered().topics().items())}

    async def create_topic(self, topic: str, partitions: int, config: Mapping[str, str] = {}) -> bool:
        return await self._entered().write(lambda transaction: transaction.create_topic(topic, partitions, config))

    async def configurations(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        engine = self._entered()
        found = {topic: DEFAULTS | engine.topic(topic).config for topic in topics}
        return {topic: {name: config[name] for name in DEFAULTS} for topic, config in found.items()}

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        engine = self._entered()
        found = engine.topic(topic)
        now_ms = self._clock.now_ms()
        # As Kafka's sticky partitioner: records without a key go together.
        keyless = random.randrange(len(found.partitions))
        by_partition: dict[int, list[Record]] = {}
        appended: list[tuple[int, Record]] = []
        for new in records:
            partition = _partition(new, found, keyless)
            record = Record(
                0,
                now_ms if new.timestamp_ms is None else new.timestamp_ms,
                new.key,
                new.value,
                list(new.headers) or None,
            )
            by_partition.setdefault(partition, []).append(record)
            appended.append((partition, record))

        def store(transaction: Transaction) -> None:
            for partition, part in by_partition.items():
                transaction.append(TopicPartition(topic, partition), part)

        await engine.write(store)
        return [(partition, record.offset) for partition, record in appended]

    def reader(self) -> EmbeddedReader:
        return EmbeddedReader(self._location)

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        return await self._entered().read(lambda log: log.committed(group))

    async def check_membership(self, group: str) -> None:
        """Whoever may open the folder may."""

    def _entered(self) -> Engine:
        if self._engine is None:
            raise LogUnavailable(f"the client of {self._location.directory} is closed; use it with `async with`")
        return self._engine


def _partition(new: NewRecord, topic: Topic, keyless: int) -> int:
    if new.partition is not None:
        return new.partition
    if new.key is None:
        return keyless
    return partition_of(new.key, len(topic.partitions))
