"""What the changelogs hold: rows that are still true, and records that are still stored."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from app.partitioning import changelog_topic
from app.topology import operators
from app.transport.client import BrokerClient
from models.topics import spec_of
from tables.log import TopicPartition
from tests.fault.topics import APP

#: So that minutes show what otherwise takes days: small segments, and deletions that are forgotten soon.
QUICK = {
    "cleanup.policy": "compact",
    "delete.retention.ms": "30000",
    "segment.bytes": str(4 << 20),
    "segment.ms": "20000",
    "min.cleanable.dirty.ratio": "0.3",
}


@dataclass(frozen=True)
class Held:
    """Of each changelog the keys whose last record is no deletion; over all, records stored and the bytes of their keys and values."""

    rows: Mapping[str, int]
    records: int
    size: int


def names() -> list[str]:
    return [changelog_topic(APP, spec.uid) for spec in operators()]


async def make(client: BrokerClient) -> None:
    """The changelogs of all jobs, which the workers then find."""
    for operator in operators():
        source = spec_of(operator.source.topic)
        if source is not None:
            await client.create_topic(changelog_topic(APP, operator.uid), source.partitions, QUICK)


async def held(client: BrokerClient, *, within: float = 60) -> Held:
    """All changelogs, read from their beginning to where they end now."""
    reader = client.reader()
    await reader.start()
    try:
        counts = await client.topics()
        tps = [TopicPartition(name, number) for name in names() for number in range(counts[name])]
        bounds = await reader.start_offsets(tps), await reader.end_offsets(tps)
        left = {tp for tp in tps if bounds[0][tp] < bounds[1][tp]}
        reader.assign({tp: bounds[0][tp] for tp in left})
        live: dict[tuple[TopicPartition, bytes | None], bool] = {}
        records = size = 0
        deadline = time.monotonic() + within
        while left:
            assert time.monotonic() < deadline, f"{sorted(left)} could not be read to their ends"
            for part in await reader.poll(1.0):
                records += len(part.records)
                for record in part.records:
                    size += len(record.key or b"") + len(record.value or b"")
                    live[part.tp, record.key] = record.value is not None
                if part.next_offset >= bounds[1][part.tp]:
                    left.discard(part.tp)
        rows = Counter(tp.topic for (tp, _), there in live.items() if there)
        return Held(rows, records, size)
    finally:
        await reader.stop()
