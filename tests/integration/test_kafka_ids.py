"""Transactional ids of partitions in which nothing happens: the broker must not forget them, and nobody may take anything back by them."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest

from agents.transport import SealedPart
from app.transport.brokers import connect
from app.transport.client import BrokerClient
from app.transport.kafka.connection import Connection
from app.transport.kafka.keeping import IdKeeper
from app.transport.kafka.sink import KafkaPartSink
from models.errors import Fenced, LogError
from tables.log import TopicPartition
from tests.support.kafka import KafkaBroker, NoKafka, jars
from tests.support.waiting import until_async

OFTEN = timedelta(seconds=1)
#: An id that is not used for four seconds is forgotten, and so is what is known of a producer; idle connections are closed.
FORGETFUL = {
    "transactional.id.expiration.ms": "4000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
    "producer.id.expiration.ms": "4000",
    "producer.id.expiration.check.interval.ms": "500",
    "connections.max.idle.ms": "3000",
}


class NoGroup:
    """The sink's worker is alone."""

    async def hold(self) -> None: ...

    async def commit_lanes(self, offsets: Mapping[TopicPartition, int]) -> None: ...


class Lane:
    """A sink with one partition."""

    def __init__(self, url: str) -> None:
        self.name = f"ids-{uuid.uuid4().hex[:8]}"
        self.url = url
        self.source = TopicPartition(f"{self.name}-in", 0)
        self.changelog = TopicPartition(f"{self.name}-log", 0)
        self.sink = self.worker()

    def worker(self) -> KafkaPartSink:
        return KafkaPartSink(Connection(self.url), self.name, NoGroup(), exactly_once=True)

    async def open(self, client: BrokerClient) -> None:
        for tp in (self.source, self.changelog):
            await client.create_topic(tp.topic, 1, {"retention.ms": "-1"})
        await self.sink.open("op", self.source, self.changelog)

    def part(self, next_offset: int) -> SealedPart:
        return SealedPart(
            uid="op",
            source=self.source,
            next_offset=next_offset,
            changelog=self.changelog,
            rows=[(b"marker", b"%d" % next_offset)],
            outputs={},
            timestamp_ms=1_700_000_000_000,
        )


class Touches:
    """Counts what the keeper does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = self.ended = 0
        touch = IdKeeper._touch

        async def counted(keeper: IdKeeper, key: tuple[str, TopicPartition]) -> None:
            self.begun += 1
            await touch(keeper, key)
            self.ended += 1

        monkeypatch.setattr(IdKeeper, "_touch", counted)
        monkeypatch.setattr(IdKeeper, "every", timedelta(seconds=0.1))


@pytest.fixture
async def client(kafka: str) -> AsyncIterator[BrokerClient]:
    async with connect(f"kafka://{kafka}") as connected:
        yield connected


async def end(client: BrokerClient, tp: TopicPartition) -> int:
    reader = client.reader()
    await reader.start()
    try:
        return (await reader.end_offsets([tp]))[tp]
    finally:
        await reader.stop()


async def committed(client: BrokerClient, lane: Lane, offset: int) -> None:
    """The group's offset is there: a broker shows it soon after it has ended the transaction."""

    async def shown() -> bool:
        return await client.committed(lane.name) == {lane.source: offset}

    await until_async(shown, within=20, what=f"offset {offset} is committed")


async def test_an_id_is_used_now_and_then_and_no_topic_of_ours_grows_by_it(
    client: BrokerClient, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touches = Touches(monkeypatch)
    lane = Lane(f"kafka://{kafka}")
    await lane.open(client)
    before = await end(client, lane.changelog)
    await until_async(lambda: touches.ended >= 3, within=20, what="it is used")
    assert await end(client, lane.changelog) == before
    assert await lane.sink.write(lane.part(1)) == before + 2
    ended = touches.ended
    await until_async(lambda: touches.ended > ended, within=20, what="it is used again")
    await committed(client, lane, 1)
    await lane.sink.close("op", lane.source)
    ended = touches.begun
    await asyncio.sleep(0.3)
    assert touches.begun == ended, "a partition that has left is left alone"


async def test_parts_and_uses_of_the_id_wait_for_each_other(
    client: BrokerClient, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touches = Touches(monkeypatch)
    monkeypatch.setattr(IdKeeper, "every", timedelta(0))
    lane = Lane(f"kafka://{kafka}")
    await lane.open(client)
    offset = await end(client, lane.changelog)
    for number in range(40):
        assert await lane.sink.write(lane.part(number)) == offset + 2
        offset += 2
        await asyncio.sleep(0.002 * (number % 5))
    assert touches.ended > 2
    await lane.sink.close("op", lane.source)


async def test_a_worker_whose_place_was_taken_takes_nothing_back_by_using_its_id(
    client: BrokerClient, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Lane(f"kafka://{kafka}")
    await lane.open(client)
    rival = lane.worker()
    await rival.open("op", lane.source, lane.changelog)
    key = ("op", lane.source)
    await lane.sink._keeper._touch(key)  # it is refused
    with pytest.raises(Fenced):
        await lane.sink.write(lane.part(1))
    await rival.write(lane.part(2))
    for sink in (lane.sink, rival):
        await sink.close("op", lane.source)
    await committed(client, lane, 2)


@pytest.mark.slow
async def test_a_broker_that_forgets_ids_forgets_none_that_is_kept(tmp_path: Path) -> None:
    with forgetful_broker(tmp_path) as broker:
        async with connect(broker.url) as client:
            kept, forgotten = Lane(broker.url), Lane(broker.url)
            kept.sink._keeper.every = OFTEN
            for lane in (kept, forgotten):
                await lane.open(client)
                await lane.sink.write(lane.part(1))
            written = monotonic()
            await until_async(lambda: monotonic() - written > 9, within=20, what="a long time goes by")
            await kept.sink.write(kept.part(2))
            with pytest.raises(LogError):
                await forgotten.sink.write(forgotten.part(2))
            for lane in (kept, forgotten):
                await lane.sink.close("op", lane.source)


def forgetful_broker(folder: Path) -> KafkaBroker:
    try:
        jars()
    except NoKafka as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    return KafkaBroker(folder, extra=FORGETFUL)
