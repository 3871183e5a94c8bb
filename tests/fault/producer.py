"""Appends transactions from a process of its own: ``BROKER COUNT SEED SECONDS``, spread over about that many seconds."""

from __future__ import annotations

import asyncio
import sys
import time

from app.transport.client import NewRecord, connect
from models.topics import TopicNames
from tests.support.workload import transactions


async def produce(broker: str, count: int, seed: int, seconds: float) -> None:
    started = time.monotonic()
    async with connect(broker) as client:
        part: list[NewRecord] = []
        for number, (user, value) in enumerate(transactions(count, seed=seed, users=500), 1):
            part.append(NewRecord(user.encode(), value))
            if len(part) == 100 or number == count:
                await client.append(TopicNames.TRANSACTIONS, part)
                part = []
                await asyncio.sleep(max(0.0, started + seconds * number / count - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
