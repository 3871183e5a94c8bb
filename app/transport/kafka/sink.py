"""Sealed parts of a lane, made durable on Kafka.

*Exactly once:* outputs, changelog rows with their marker and the source offset are one transaction of the partition's own producer.

*At least once:* outputs first, and when they are stored, rows and marker in one record batch, which is atomic; rows that do not fit into
one batch go into a transaction.  State is exact either way; outputs that were stored before a crash may be written again, with the same
ids.

Both are fenced by the epoch of the partition's transactional id, which each owner raises.  Within a transaction the broker asks who has the
latest; of a batch without one it only knows what was last written to the changelog.  So there an owner begins with a row of its own.
Without aiokafka's inside there are no such batches, and rows always go into a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import aiokafka
from aiokafka.errors import IllegalOperation

from agents.transport import SealedPart
from app.transport.kafka import internals, produce
from app.transport.kafka.client import KafkaClient
from app.transport.kafka.connection import Connection
from app.transport.kafka.failures import translated
from app.transport.kafka.keeping import IdKeeper
from models.errors import LogUnavailable, UnknownTopic
from tables.changelog import OWNER_KEY
from tables.log import TopicPartition

#: At least once commits the group's offsets for tools and lag monitors only: the marker is what counts.
OFFSET_COMMIT_SECONDS = 1.0


class Membership(Protocol):
    """What the sink asks of the consumer group."""

    async def hold(self) -> None:
        """Wait until the group has lately confirmed this worker as the owner of its partitions: others need not repeat what it writes."""

    async def commit_lanes(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the group's offsets; a failure is only logged."""


class KafkaPartSink:
    """A :class:`agents.transport.PartSink` on Kafka."""

    def __init__(self, connection: Connection, app_id: str, membership: Membership, *, exactly_once: bool) -> None:
        self._connection = connection
        self._app_id = app_id
        self._membership = membership
        self._exactly_once = exactly_once
        #: whether rows may be in no transaction
        self._alone = not exactly_once and internals.UNSUPPORTED is None
        self._client: KafkaClient | None = None
        self._counts: dict[str, int] = {}
        self._opening = asyncio.Lock()
        self._keeper = IdKeeper(app_id)
        self._producers: dict[tuple[str, TopicPartition], aiokafka.AIOKafkaProducer] = {}
        #: At least once: one producer for the plain batches of all partitions, so that a request carries those of many.
        self._plain: aiokafka.AIOKafkaProducer | None = None
        #: producers whose last part failed or was given up
        self._retired: list[aiokafka.AIOKafkaProducer] = []
        self._offsets: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None

    # -- partitions come and go

    async def open(self, uid: str, source: TopicPartition, changelog: TopicPartition) -> None:
        """Take the partition over: whoever wrote before cannot any more, and what it left open is aborted."""
        with translated(f"taking over {uid} partition {source.partition}"):
            async with self._opening:
                await self._open_shared()
            transactional_id = f"{self._app_id}-{uid}-{source.partition}"
            producer = produce.producer(
                self._connection, f"{uid}-{source.partition}", transactional_id=transactional_id
            )
            await produce.start(producer)
            if self._alone:
                batches = produce.pack(producer, [(OWNER_KEY, None)], 0, alone=True)
                await produce.stored([await produce.send_alone(producer, changelog, batches[0])])
            before = self._producers.pop((uid, source), None)
            self._producers[uid, source] = producer
            await self._keeper.add((uid, source), producer)
            if before is not None:
                await produce.stop(before)

    async def _open_shared(self) -> None:
        if self._client is None:
            client = KafkaClient(self._connection.url, self._connection.credentials)
            await client.__aenter__()
            self._client = client
        self._counts = await self._client.topics()
        if not self._exactly_once and self._plain is None:
            plain = produce.producer(self._connection, "lanes")
            await produce.start(plain)
            self._plain = plain
            self._committing = asyncio.get_running_loop().create_task(self._commit_offsets())

    async def close(self, uid: str, source: TopicPartition) -> None:
        producer = self._producers.pop((uid, source), None)
        self._offsets.pop(source, None)
        await self._keeper.remove((uid, source))
        retired, self._retired = self._retired, []
        for one in filter(None, [producer, *retired]):
            await produce.stop(one)
        if not self._producers:
            await self._close_shared()

    async def _close_shared(self) -> None:
        plain, client, committing = self._plain, self._client, self._committing
        self._plain = self._client = self._committing = None
        if committing is not None:
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
        if plain is not None:
            await produce.stop(plain)
        if client is not None:
            await client.__aexit__()

    def partitions(self, topic: str) -> int:
        """Raises :class:`models.errors.UnknownTopic`."""
        try:
            return self._counts[topic]
        except KeyError:
            raise UnknownTopic(
                f"there is no topic {topic}; the worker creates its topics when it starts: start it again"
            ) from None

    # -- parts

    async def write(self, part: SealedPart) -> int:
        producer = self._producers.get((part.uid, part.source))
        if producer is None:
            raise LogUnavailable(f"operator {part.uid!r}: the sink of {part.source} is not open")
        for tp in part.outputs:
            self.partitions(tp.topic)  # a topic that is not there would be waited for
        write = self._write_once if self._exactly_once else self._write_plain
        with translated(f"writing {part.uid} partition {part.source.partition}"):
            try:
                async with self._keeper.use((part.uid, part.source)):
                    return await write(producer, part)
            except BaseException as error:
                # Whatever happened, memory is ahead of the log now: this producer must not write another part.
                del self._producers[part.uid, part.source]
                self._retired.append(producer)
                if internals.UNSUPPORTED is None:
                    produce.silence(producer)
                    # What the broker refused is kept by the transaction; whoever is next in it hears only that it is over.
                    refused = produce.cause(producer) if isinstance(error, IllegalOperation) else None
                    if refused is not None:
                        raise refused from error
                raise

    async def _write_once(self, producer: aiokafka.AIOKafkaProducer, part: SealedPart) -> int:
        await producer.begin_transaction()
        sent = await _send_outputs(producer, part)
        sent += await _send_rows(producer, part)
        # Stored before the offsets are added: with AddOffsetsToTxn under way the broker's check of a partition's first produce fails with a
        # retriable error, which costs a back-off.
        bases = await produce.stored(sent)
        await producer.send_offsets_to_transaction(
            {aiokafka.TopicPartition(*tp): offset for tp, offset in ((part.source, part.next_offset), *part.further)},
            self._app_id,
        )
        await producer.commit_transaction()
        return _behind_the_commit(bases[-1] + sent[-1].count)

    async def _write_plain(self, producer: aiokafka.AIOKafkaProducer, part: SealedPart) -> int:
        plain = self._plain
        if plain is None:
            raise LogUnavailable(f"operator {part.uid!r}: the sink of {part.source} is closed")
        await self._membership.hold()
        await produce.stored(await _send_outputs(plain, part))
        batches = produce.pack(producer, part.rows, part.timestamp_ms, alone=True) if self._alone else []
        if len(batches) == 1:
            next_offset = await _next_offset([await produce.send_alone(producer, part.changelog, batches[0])])
        else:
            await producer.begin_transaction()
            next_offset = _behind_the_commit(await _next_offset(await _send_rows(producer, part)))
            await producer.commit_transaction()
        self._offsets.update([(part.source, part.next_offset), *part.further])
        return next_offset

    async def _commit_offsets(self) -> None:
        while True:
            await asyncio.sleep(OFFSET_COMMIT_SECONDS)
            offsets, self._offsets = self._offsets, {}
            if offsets:
                await self._membership.commit_lanes(offsets)


async def _send_outputs(producer: aiokafka.AIOKafkaProducer, part: SealedPart) -> list[produce.Sending]:
    sent: list[produce.Sending] = []
    for tp, outputs in part.outputs.items():
        sent += await produce.send(producer, tp, produce.pack(producer, outputs, part.timestamp_ms))
    return sent


async def _send_rows(producer: aiokafka.AIOKafkaProducer, part: SealedPart) -> list[produce.Sending]:
    return await produce.send(producer, part.changelog, produce.pack(producer, part.rows, part.timestamp_ms))


def _behind_the_commit(next_offset: int) -> int:
    """The commit's own record comes next: nobody else writes to the partition."""
    return next_offset + 1


async def _next_offset(rows: list[produce.Sending]) -> int:
    bases = await produce.stored(rows)
    return bases[-1] + rows[-1].count
