"""The group-less reader on a real Kafka: what its client's background tasks must not do to whoever uses it."""

from __future__ import annotations

import asyncio

from app.transport.kafka.client import KafkaClient


async def test_a_reader_that_is_stopped_at_once_does_not_cancel_its_user(kafka_url: str) -> None:
    async def use() -> str:
        reader = KafkaClient(kafka_url).reader()
        await reader.start()
        reader.assign({})
        await reader.stop()
        return "not cancelled"

    for _ in range(3):
        assert await asyncio.create_task(use()) == "not cancelled"
