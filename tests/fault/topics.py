"""The topics of a campaign: made, read whole, and how far the application is behind."""

from __future__ import annotations

import json
import time
from collections import defaultdict

from app.transport.brokers import connect
from app.transport.client import BrokerClient, NewRecord
from models.topics import TopicNames, spec_of
from tables.log import TopicPartition
from tests.support.workload import rules

APP = "campaign"


async def seed_topics(broker: str) -> None:
    """The topics, and the standard rules."""
    async with connect(broker) as client:
        await _topics(client)
        await client.append(
            TopicNames.RULES,
            [NewRecord(str(rule["rule_id"]).encode(), json.dumps(rule).encode()) for rule in rules()],
        )


async def _topics(client: BrokerClient) -> None:
    for name in (TopicNames.RULES, TopicNames.TRANSACTIONS, TopicNames.ALERTS):
        spec = spec_of(name)
        assert spec is not None
        await client.create_topic(name, spec.partitions, spec.config)


async def read_topic(broker: str, topic: str) -> dict[int, list[bytes]]:
    """Values per partition, committed ones only."""
    found: dict[int, list[bytes]] = defaultdict(list)
    async with connect(broker) as client:
        reader = client.reader()
        await reader.start()
        try:
            tps = [TopicPartition(topic, number) for number in range(await reader.partitions(topic))]
            ends = await reader.end_offsets(tps)
            starts = await reader.start_offsets(tps)
            left = {tp for tp in tps if starts[tp] < ends[tp]}
            reader.assign({tp: starts[tp] for tp in left})
            deadline = time.monotonic() + 120
            while left and time.monotonic() < deadline:
                for part in await reader.poll(1.0):
                    found[part.tp.partition] += [record.value for record in part.records if record.value is not None]
                    if part.next_offset >= ends[part.tp]:
                        left.discard(part.tp)
            assert not left, f"{topic} could not be read to its end"
        finally:
            await reader.stop()
    return found


async def lag(broker: str) -> int:
    """Transactions not yet committed by the application."""
    async with connect(broker) as client:
        committed = await client.committed(APP)
        reader = client.reader()
        await reader.start()
        try:
            tps = [
                TopicPartition(TopicNames.TRANSACTIONS, n)
                for n in range(await reader.partitions(TopicNames.TRANSACTIONS))
            ]
            ends = await reader.end_offsets(tps)
        finally:
            await reader.stop()
        return sum(end - committed.get(tp, 0) for tp, end in ends.items())
