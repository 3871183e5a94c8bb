"""Simulated records on their way into the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from app.activity import activity
from app.producing import ensure_topic
from app.simulate import Timeline, simulate
from app.transport.client import BrokerClient, NewRecord
from models.time import Clock, Millis, SystemClock
from models.topics import TopicNames

BATCH = 2_000
#: Seconds that a batch under way gets when there is to be no more.
ENDING = 2.0
#: Seconds between two looks at what is due.
TICK = 0.05
#: Topics that simulated records go to.
TOPICS = (TopicNames.TRANSACTIONS, TopicNames.USER_EVENTS, TopicNames.ORDERS, TopicNames.PAYMENTS)


class Item(Protocol):
    """A simulated record: :class:`app.simulate.Simulated` or :class:`app.activity.Acted`."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def timestamp(self) -> Millis: ...
    @property
    def record(self) -> Any: ...
    @property
    def scenario(self) -> str: ...
    @property
    def label(self) -> dict[str, str]: ...


#: Told of every batch that is durable.
Made = Callable[[Sequence[Item]], None]


def traffic(seed: int, timeline: Timeline) -> Iterator[Item]:
    """Transactions and activity of one timeline, in the order of their event times."""
    both: Iterable[Iterable[Item]] = (simulate(seed, timeline), activity(seed, timeline))
    return merge(*both, key=attrgetter("timestamp"))


async def produce_all(client: BrokerClient, items: Iterator[Item], made: Made) -> None:
    """Append them as fast as the log takes them."""
    await _ensure_topics(client)
    while batch := list(islice(items, BATCH)):
        await _append(client, batch, made)


async def produce_live(client: BrokerClient, items: Iterator[Item], made: Made, clock: Clock | None = None) -> None:
    """Append each once its event time has come."""
    clock = clock or SystemClock()
    await _ensure_topics(client)
    following = next(items, None)
    while following is not None:
        batch: list[Item] = []
        now_ms = clock.now_ms()
        while following is not None and following.timestamp <= now_ms and len(batch) < BATCH:
            batch.append(following)
            following = next(items, None)
        await _append(client, batch, made)
        if following is not None and len(batch) < BATCH:
            due = (following.timestamp - clock.now_ms()) / 1000
            await asyncio.sleep(max(TICK, min(due, 1.0)))


async def _ensure_topics(client: BrokerClient) -> None:
    for topic in TOPICS:
        await ensure_topic(client, topic)


async def _append(client: BrokerClient, batch: Sequence[Item], made: Made) -> None:
    storing = asyncio.ensure_future(_store(client, batch, made))
    try:
        await asyncio.shield(storing)
    except asyncio.CancelledError:
        # What is on its way is stored all the same, so it is told of as well.
        await asyncio.wait([storing], timeout=ENDING)
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        raise


async def _store(client: BrokerClient, batch: Sequence[Item], made: Made) -> None:
    topics: dict[str, list[NewRecord]] = {}
    for item in batch:
        topics.setdefault(item.topic, []).append(NewRecord(item.key.encode(), _encode(item.record)))
    for topic, records in topics.items():
        await client.append(topic, records)
    if batch:
        made(batch)


_encode = msgspec.json.Encoder().encode
