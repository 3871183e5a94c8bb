"""The group-less reader on a real Kafka: what its client's background tasks must not do to whoever uses it."""

from __future__ import annotations

import asyncio

from app.transport.brokers import connect
from app.transport.client import NewRecord
from app.transport.kafka.client import KafkaClient
from tables.log import TopicPartition


async def test_a_reader_that_is_stopped_at_once_does_not_cancel_its_user(kafka_url: str) -> None:
    async def use() -> str:
        reader = KafkaClient(kafka_url).reader()
        await reader.start()
        reader.assign({})
        await reader.stop()
        return "not cancelled"

    for _ in range(3):
        assert await asyncio.create_task(use()) == "not cancelled"


async def test_a_reader_that_is_stopped_while_it_gives_up_its_fetches_ends(kafka_url: str) -> None:
    async with connect(kafka_url) as client:
        await client.create_topic("numbers", 4, {})
        await client.append("numbers", [NewRecord(b"k%d" % n, b"v") for n in range(20)])
        for turns in range(6):
            reader = client.reader()
            await reader.start()
            reader.assign({TopicPartition("numbers", n): 0 for n in range(4)})
            while not await reader.poll(1.0):
                pass
            await asyncio.sleep(0.05)  # the next fetch is under way
            reader.assign({})
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await reader.stop()


async def test_the_first_question_about_the_offsets_of_several_topics_waits_for_no_second_try(kafka_url: str) -> None:
    async with connect(kafka_url) as client:
        names = ["first", "second", "third"]
        for name in names:
            await client.create_topic(name, 1, {})
        reader = KafkaClient(kafka_url).reader()
        await reader.start()
        try:
            assert reader._consumer is not None
            reader._consumer._fetcher._retry_backoff = 60.0  # seconds
            async with asyncio.timeout(10):
                assert await reader.end_offsets(TopicPartition(name, 0) for name in names) == {
                    TopicPartition(name, 0): 0 for name in names
                }
        finally:
            await reader.stop()
