"""CPU per record of the keyed jobs, and how many profiles a second one worker looks up in a warm Redis.

``python -m tests.bench.jobs``.  Keyed jobs run without a log: decode, function, encoded outputs, changelog rows; batches of 2,048 records of
one partition, 10,000 keys.  What a broker costs on top is in docs/performance.md.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis

from agents.enrichment.lookup import LookupOptions, ProfileLookup
from agents.enrichment.redis import RedisProfiles
from agents.enrichment.sqlite import SqliteProfiles
from agents.insights import INSIGHTS
from agents.operator import OperatorSpec
from agents.operator.driver import OperatorTask
from agents.orders import ORDERS
from agents.profiles import PROFILES
from agents.sessions import SESSIONS
from agents.testing import HarnessRecord
from models.events import UserEvent
from models.orders import Order, Payment
from models.profiles import EnrichedUserEvent, Enrichment, UserProfile
from tables.store import PartitionStore
from tests.support.services import RedisServer, temporary

KEYS = 10_000
COUNT = 200_000
BATCH = 2_048
START_MS = 1_700_000_000_000
IN_FLIGHT = 50


def events(count: int) -> list[UserEvent]:
    """Twenty-five a second of event time, over all keys; a user has another session id each hour, which is nine events of theirs."""
    chance = random.Random(1)
    kinds = ("PAGE_VIEW", "PAGE_VIEW", "PAGE_VIEW", "CLICK", "PURCHASE", "LOGIN")

    def event(number: int, user: int) -> UserEvent:
        return UserEvent(
            event_id=f"e{number}",
            user_id=f"user{user}",
            event_type=chance.choice(kinds),
            page=f"/p{chance.randrange(20)}",
            session_id=f"s{user}-{number // 90_000}",
            timestamp=START_MS + number * 40,
        )

    return [event(number, chance.randrange(KEYS)) for number in range(count)]


def records(values: Sequence[Any], key: Callable[[Any], str]) -> list[HarnessRecord]:
    return [HarnessRecord(n, START_MS, key(one).encode(), msgspec.json.encode(one)) for n, one in enumerate(values)]


def microseconds(spec: OperatorSpec, inputs: Sequence[Sequence[HarnessRecord]]) -> float:
    """CPU per record, of all inputs in turns."""
    function: Any = spec.function()
    task = OperatorTask(function, spec.source, PartitionStore(), source2=spec.source2, uid=spec.uid)
    started = time.process_time()
    for start in range(0, max(map(len, inputs)), BATCH):
        for number, feed in enumerate(inputs):
            task.run(feed[start : start + BATCH], START_MS * 2, number)
        task.outputs.clear()
        task.sides.clear()
        task.freeze()
    return (time.process_time() - started) / sum(map(len, inputs)) * 1e6


def keyed() -> None:
    made = events(COUNT)
    by_user = records(made, lambda one: one.user_id)
    profile = UserProfile("u", "n", "gold")
    enriched = records(
        [EnrichedUserEvent(one, profile, Enrichment.CACHE) for one in made], lambda one: one.event.user_id
    )
    half = COUNT // 2
    orders = records([Order(f"o{n}", "u", 1.0, START_MS + n * 40) for n in range(half)], lambda one: one.order_id)
    payments = records(
        [Payment(f"p{n}", f"o{n}", 1.0, START_MS + n * 40 + 500) for n in range(half)], lambda one: one.order_id
    )
    for spec, inputs in (
        (SESSIONS, [by_user]),
        (PROFILES, [by_user]),
        (INSIGHTS, [enriched]),
        (ORDERS, [orders, payments]),
    ):
        cost = min(microseconds(spec, inputs) for _ in range(3))
        print(f"{spec.uid:10}  {cost:6.2f} us CPU per record, {1e6 / cost:9,.0f} records/s per core")


async def in_flight(ask: Callable[[str], Awaitable[Any]], count: int) -> tuple[float, list[float]]:
    """Calls a second with 50 of them in flight, and the seconds that each took."""
    users = iter([f"user{12 * (n % 800)}" for n in range(count)])
    took: list[float] = []

    async def caller() -> None:
        for user in users:
            started = time.perf_counter()
            await ask(user)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - started), sorted(took)


async def lookups(url: str, folder: Any) -> None:
    cache = RedisProfiles(url, capacity=IN_FLIGHT)
    made = ProfileLookup(SqliteProfiles(folder / "profiles.sqlite"), cache, LookupOptions(capacity=IN_FLIGHT))
    await in_flight(made.find, 5_000)
    async with aioredis.Redis.from_url(url, max_connections=IN_FLIGHT) as plain:
        rate, _ = await in_flight(lambda user: plain.get(f"user:{user}"), 20_000)
        print(f"plain GET   {rate:9,.0f} a second with {IN_FLIGHT} in flight (redis-py, a request per look-up)")
    rate, took = await in_flight(made.find, 100_000)
    print(f"enrichment  {rate:9,.0f} a second with {IN_FLIGHT} in flight, p99 {took[-len(took) // 100] * 1000:.1f} ms")
    await made.stop()


def main() -> None:
    keyed()
    with temporary(RedisServer) as redis:
        asyncio.run(lookups(redis.url, redis.folder))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
