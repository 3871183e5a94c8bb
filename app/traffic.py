"""Simulated transactions on their way into the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from app.producing import ensure_topic
from app.simulate import Simulated
from app.transport.client import BrokerClient, NewRecord
from models.time import Clock, SystemClock
from models.topics import TopicNames

BATCH = 2_000
#: Seconds between two looks at what is due.
TICK = 0.05

#: Told of every batch that is durable.
Made = Callable[[Sequence[Simulated]], None]


async def produce_all(client: BrokerClient, transactions: Iterator[Simulated], made: Made) -> None:
    """Append them as fast as the log takes them."""
    await ensure_topic(client, TopicNames.TRANSACTIONS)
    while batch := list(islice(transactions, BATCH)):
        await _append(client, batch, made)


async def produce_live(
    client: BrokerClient, transactions: Iterator[Simulated], made: Made, clock: Clock | None = None
) -> None:
    """Append each once its event time has come."""
    clock = clock or SystemClock()
    await ensure_topic(client, TopicNames.TRANSACTIONS)
    following = next(transactions, None)
    while following is not None:
        batch: list[Simulated] = []
        now_ms = clock.now_ms()
        while following is not None and following.transaction.timestamp <= now_ms and len(batch) < BATCH:
            batch.append(following)
            following = next(transactions, None)
        await _append(client, batch, made)
        if following is not None and len(batch) < BATCH:
            due = (following.transaction.timestamp - clock.now_ms()) / 1000
            await asyncio.sleep(max(TICK, min(due, 1.0)))


async def _append(client: BrokerClient, batch: Sequence[Simulated], made: Made) -> None:
    if batch:
        records = [NewRecord(t.user_id.encode(), _encode(t)) for t, _ in batch]
        await client.append(TopicNames.TRANSACTIONS, records)
        made(batch)


_encode = msgspec.json.Encoder().encode
