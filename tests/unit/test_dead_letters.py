"""Replaying dead letters: each record comes back once, however many jobs refused it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.deadletters import DeadLetters, Replayed
from app.transport.brokers import connect
from app.transport.client import BrokerClient, NewRecord
from models.deadletter import dead_letter_headers
from models.errors import BadRecord
from tables.log import TopicPartition

TOPIC, DLQ = "user-events", "user-events.dlq"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[BrokerClient]:
    async with connect(f"embedded://{tmp_path}/log") as made:
        for topic in (TOPIC, DLQ):
            await made.create_topic(topic, 1, {})
        yield made


async def refused(client: BrokerClient, *offsets: int, value: bytes = b"%d") -> None:
    """A job refuses the records at these offsets."""
    letters = []
    for offset in offsets:
        headers = dead_letter_headers(
            TOPIC, 0, offset, BadRecord("bad"), app="famulus", version="1", operator="fraud", attempt=1
        )
        letters.append(NewRecord(b"ann", value.replace(b"%d", b"%d" % offset), headers=headers))
    await client.append(DLQ, letters)


async def put_back(client: BrokerClient) -> list[bytes | None]:
    """All values that were replayed so far."""
    reader = client.reader()
    await reader.start()
    try:
        tp = TopicPartition(TOPIC, 0)
        reader.assign({tp: 0})
        end, found = (await reader.end_offsets([tp]))[tp], list[bytes | None]()
        while len(found) < end:
            for part in await reader.poll(1.0):
                found += [record.value for record in part.records]
        return found
    finally:
        await reader.stop()


async def test_a_record_that_several_jobs_refused_is_replayed_once(client: BrokerClient) -> None:
    for _ in range(3):
        await refused(client, 7, 8)
    assert await DeadLetters(client, "app").replay(DLQ) == Replayed({TOPIC: 2}, 0)
    assert await put_back(client) == [b"7", b"8"]


async def test_also_when_a_job_refuses_it_after_the_replay_for_another(client: BrokerClient) -> None:
    letters = DeadLetters(client, "app")
    await refused(client, 7)
    assert await letters.replay(DLQ) == Replayed({TOPIC: 1}, 0)
    await refused(client, 7, 9)
    assert await letters.replay(DLQ) == Replayed({TOPIC: 1}, 0)
    assert await letters.replay(DLQ) == Replayed({}, 0)
    assert await put_back(client) == [b"7", b"9"]


async def test_all_of_them_again_are_each_record_once_again(client: BrokerClient) -> None:
    letters = DeadLetters(client, "app")
    await refused(client, 7, 7, 8)
    await letters.replay(DLQ)
    assert await letters.replay(DLQ, everything=True) == Replayed({TOPIC: 2}, 0)
    assert await put_back(client) == [b"7", b"8", b"7", b"8"]


async def test_a_topic_that_was_made_anew_has_other_records_at_the_same_offsets(client: BrokerClient) -> None:
    letters = DeadLetters(client, "app")
    await refused(client, 7)
    await letters.replay(DLQ)
    await refused(client, 7, value=b"another")
    assert await letters.replay(DLQ) == Replayed({TOPIC: 1}, 0)
    assert await put_back(client) == [b"7", b"another"]
