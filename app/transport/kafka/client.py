"""Kafka as a broker for commands, checks and views: topics, appends and readers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from time import monotonic

import aiokafka
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.group import HeartbeatRequest

from app.transport.client import OPTIONS, NewRecord
from app.transport.credentials import OPEN, Credentials
from app.transport.kafka import produce
from app.transport.kafka.connection import Connection
from app.transport.kafka.failures import connecting, translated
from app.transport.kafka.metadata import SETTLE_SECONDS, partition_counts
from app.transport.kafka.reader import KafkaReader
from models.errors import LogError, LogUnavailable, RecordTooLarge, UnknownTopic
from models.partitioning import partition_of
from models.time import SystemClock
from tables.log import TopicPartition

#: Brokers answer questions about groups only once their coordinator has loaded: seconds after they start.
COORDINATOR_SECONDS = 15.0
#: What a record batch and a record take besides keys, values and headers, at most.
_BATCH_OVERHEAD = 61
_RECORD_OVERHEAD = 21
#: The broker's own default where a topic does not say how large a batch it takes.
_DEFAULT_MAX_MESSAGE_BYTES = 1_048_588


class KafkaClient:
    """A :class:`app.transport.client.BrokerClient` on ``kafka://HOST:PORT,...``."""

    def __init__(self, broker_url: str, credentials: Credentials = OPEN) -> None:
        self.connection = Connection(broker_url, credentials)
        self._admin: AIOKafkaAdminClient | None = None
        self._producer: aiokafka.AIOKafkaProducer | None = None
        self._producer_starts = asyncio.Lock()
        self._largest: dict[str, int] = {}
        self._clock = SystemClock()

    async def __aenter__(self) -> KafkaClient:
        arguments = self.connection.arguments("client")
        # The admin client would wait 40 s for the answer of whatever listens there; later, a busy broker may need its time.
        first = AIOKafkaClient(**arguments, request_timeout_ms=self.connection.first_answer_ms)
        admin = AIOKafkaAdminClient(**arguments)
        try:
            with connecting(self.connection.url):
                try:
                    await first.bootstrap()
                finally:
                    await first.close()
                await admin.start()
        except BaseException:
            await admin.close()
            raise
        self._admin = admin
        return self

    async def __aexit__(self, *exc: object) -> None:
        admin, producer, self._admin, self._producer = self._admin, self._producer, None, None
        if producer is not None:
            await produce.stop(producer)
        if admin is not None:
            await admin.close()

    # -- topics

    async def topics(self) -> dict[str, int]:
        with translated(f"the topics of {self.connection.url}"):
            return dict(sorted((await partition_counts(self._entered()._client)).items()))

    async def create_topic(self, topic: str, partitions: int, config: Mapping[str, str] = {}) -> bool:
        """Create the topic with the cluster's own replication factor."""
        admin = self._entered()
        with translated(f"creating topic {topic}"):
            try:
                await partition_counts(admin._client, [topic])
                return False
            except UnknownTopic:
                answer = await admin.create_topics(
                    [NewTopic(topic, partitions, await self._replicas(), topic_configs=dict(config))]
                )
            code, message = answer.topic_errors[0][1:3]
            error = kafka.for_code(code)
            if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                raise error(message or topic)
            # Until the brokers know it, also where somebody else has made it at this moment.
            await partition_counts(admin._client, [topic], unknown_seconds=SETTLE_SECONDS)
            return error is kafka.NoError

    async def _replicas(self) -> int:
        """``default.replication.factor``; the protocol that aiokafka speaks cannot leave the choice to the broker."""
        admin = self._entered()
        node = admin._client.get_random_node()
        answers = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.BROKER, str(node), {"default.replication.factor": None})]
        )
        return int(_config(answers, "default.replication.factor") or 1)

    async def configurations(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(OPTIONS)) for topic in topics]
        with translated("the configuration of topics"):
            answers = await self._entered().describe_configs(resources) if resources else []
            found: dict[str, dict[str, str]] = {}
            for answer in answers:
                for code, message, _, topic, entries in answer.resources:
                    error = kafka.for_code(code)
                    if error is not kafka.NoError:
                        raise error(message or topic)
                    found[topic] = {entry[0]: str(entry[1]) for entry in entries if entry[1] is not None}
        return found

    async def _largest_batch(self, topic: str) -> int:
        if topic not in self._largest:
            answers = await self._entered().describe_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None})]
            )
            self._largest[topic] = int(_config(answers, "max.message.bytes") or _DEFAULT_MAX_MESSAGE_BYTES)
        return self._largest[topic]

    # -- records

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        admin = self._entered()
        now_ms = self._clock.now_ms()
        with translated(f"topic {topic}"):
            count = (await partition_counts(admin._client, [topic]))[topic]
            largest = await self._largest_batch(topic)
            # Looked at before anything is sent, so that a call is stored whole or not at all.
            for record in records:
                if _size(record) > largest:
                    raise RecordTooLarge(
                        f"topic {topic} takes records up to {largest} bytes, this one has {_size(record)}; "
                        "make it smaller or raise the topic's max.message.bytes"
                    )
            keyless = random.randrange(count)
            numbers = [_partition(topic, record, count, keyless) for record in records]
            by_partition: dict[int, list[NewRecord]] = {}
            for number, record in zip(numbers, records, strict=True):
                by_partition.setdefault(number, []).append(record)
            producer = await self._started_producer()
            sent = {
                number: await produce.send(
                    producer, TopicPartition(topic, number), produce.fill(producer, _entries(part, now_ms))
                )
                for number, part in by_partition.items()
            }
            offsets = {}
            for number, batches in sent.items():
                bases = await produce.stored(batches)
                offsets[number] = iter(
                    [base + i for base, batch in zip(bases, batches, strict=True) for i in range(batch.count)]
                )
        return [(number, next(offsets[number])) for number in numbers]

    async def _started_producer(self) -> aiokafka.AIOKafkaProducer:
        async with self._producer_starts:
            if self._producer is None:
                producer = produce.producer(self.connection, "client")
                await produce.start(producer)
                self._producer = producer
            return self._producer

    def reader(self) -> KafkaReader:
        return KafkaReader(self.connection)

    # -- groups

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        admin = self._entered()
        deadline = monotonic() + COORDINATOR_SECONDS
        while True:
            try:
                with translated(f"the offsets of group {group}"):
                    found = await admin.list_consumer_group_offsets(group)
                break
            except LogError as error:
                retriable = getattr(error.__cause__, "retriable", False)
                if not retriable or monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)
        return {TopicPartition(*tp): value.offset for tp, value in found.items() if value.offset >= 0}

    async def check_membership(self, group: str) -> None:
        # A heartbeat of nobody: whether the group may be read is looked at first, and that there is no such member is the best answer.
        admin = self._entered()
        with translated(f"the group {group}"):
            coordinator = await admin.find_coordinator(group)
            answer = await admin._client.send(coordinator, HeartbeatRequest(group, -1, ""))
            if answer.error_code == kafka.GroupAuthorizationFailedError.errno:
                raise kafka.GroupAuthorizationFailedError(group)

    def _entered(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            raise LogUnavailable(f"the client of {self.connection.url} is closed; use it with `async with`")
        return self._admin


def _partition(topic: str, record: NewRecord, count: int, keyless: int) -> int:
    if record.partition is not None:
        if not 0 <= record.partition < count:
            raise UnknownTopic(f"topic {topic} has partitions 0 to {count - 1}, there is no {record.partition}")
        return record.partition
    return keyless if record.key is None else partition_of(record.key, count)


def _entries(records: Sequence[NewRecord], now_ms: int) -> Iterator[produce.NewEntry]:
    for record in records:
        yield record.key, record.value, record.headers, now_ms if record.timestamp_ms is None else record.timestamp_ms


def _size(record: NewRecord) -> int:
    headers = sum(len(name.encode()) + len(value) + 10 for name, value in record.headers)
    return _BATCH_OVERHEAD + _RECORD_OVERHEAD + len(record.key or b"") + len(record.value or b"") + headers


def _config(answers: Sequence[object], name: str) -> str | None:
    """Value of one configuration entry in DescribeConfigs answers, ``None`` if it is not in them."""
    for answer in answers:
        for resource in answer.resources:  # type: ignore[attr-defined]
            for entry in resource[4]:
                if entry[0] == name:
                    return None if entry[1] is None else str(entry[1])
    return None
