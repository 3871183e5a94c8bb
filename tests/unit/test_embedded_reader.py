"""The reader and what it shares with its neighbours in the process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from app.transport.client import NewRecord
from app.transport.embedded import reader as module
from app.transport.embedded import retention
from app.transport.embedded.client import EmbeddedClient
from app.transport.embedded.engine import Engine
from app.transport.embedded.location import locate
from app.transport.embedded.reader import EmbeddedReader
from models.errors import LogUnavailable, UnknownTopic
from tables.log import TopicPartition

DEADLINE = 10.0
TP = TopicPartition("t", 0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"embedded://{tmp_path}/log?synchronous=off"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("embedded-log")}


async def test_users_of_a_log_share_one_writer_and_the_last_one_ends_it(url: str) -> None:
    first, second = await Engine.open(locate(url)), await Engine.open(locate(url))
    assert first is second
    await first.close()
    assert "embedded-log-writer" in threads()
    await second.close()
    assert threads() == set()
    again = await Engine.open(locate(url))
    assert again is not first
    await again.close()


async def test_an_idle_poll_does_not_ask_the_file_again_and_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedClient(url) as client:
        await client.create_topic("t", 1)
        await client.create_topic("busy", 1)
        reader = client.reader()
        await reader.start()
        reader.assign({TP: 0})
        asked = []
        read = Engine.read

        async def counted(self: Engine, work: object) -> object:
            asked.append(work)
            return await read(self, work)  # type: ignore[arg-type]

        monkeypatch.setattr(Engine, "read", counted)
        polling = asyncio.create_task(reader.poll(0.3))
        for _ in range(20):
            await client.append("busy", [NewRecord(b"k", b"v")])
        assert await polling == []
        assert len(asked) <= 2, "other partitions' records are no reason to look"
        await reader.stop()


async def test_where_records_have_expired_reading_starts_with_the_first_left(url: str) -> None:
    async with EmbeddedClient(url) as client:
        await client.create_topic("t", 1)
        for _ in range(3):
            await client.append("t", [NewRecord(b"k", b"v")] * 2)
        engine = await Engine.open(locate(url))
        await engine.write(lambda tx: retention._delete(tx, 1, 2))
        await engine.close()
        reader = client.reader()
        await reader.start()
        assert await reader.start_offsets([TP]) == {TP: 4}
        reader.assign({TP: 1})
        [part] = await reader.poll(DEADLINE)
        assert ([record.offset for record in part.records], part.next_offset) == ([4, 5], 6)
        await reader.stop()


async def test_a_poll_is_bounded_in_bytes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_BYTES", 250_000)
    monkeypatch.setattr(module, "SLICE_BYTES", 120_000)
    async with EmbeddedClient(url) as client:
        await client.create_topic("t", 4)
        for partition in range(4):
            for _ in range(3):
                await client.append("t", [NewRecord(b"k", bytes(50_000), partition=partition)])
        reader = client.reader()
        await reader.start()
        reader.assign({TopicPartition("t", partition): 0 for partition in range(4)})
        counts: list[int] = []
        while sum(counts) < 12:
            counts.append(sum(len(part.records) for part in await reader.poll(DEADLINE)))
        assert max(counts) <= 5
        await reader.stop()


async def test_a_reader_that_is_not_started_says_so(url: str) -> None:
    reader = EmbeddedReader(locate(url))
    with pytest.raises(LogUnavailable, match="not started"):
        await reader.poll(0.0)
    await reader.stop()


async def test_a_partition_that_does_not_exist_cannot_be_assigned(url: str) -> None:
    async with EmbeddedClient(url) as client:
        await client.create_topic("t", 1)
        reader = client.reader()
        await reader.start()
        with pytest.raises(UnknownTopic, match="has 1 partitions, none with number 1"):
            reader.assign({TopicPartition("t", 1): 0})
        await reader.stop()


async def test_a_client_outside_of_its_context_says_so(url: str) -> None:
    with pytest.raises(LogUnavailable, match="async with"):
        await EmbeddedClient(url).topics()
