"""The enrichment job with a warm Redis, beside what the server sustains with as many requests in flight.

    python -m tests.bench.enrichment [--count 100000] [--without-kafka]

*server*: plain GET with 50 in flight, by the Python client that the job uses, and by ``redis-benchmark -c 50`` where there is one.
*look-ups*: the job's own look-up with 50 in flight, without a log.
*job*: a worker on Kafka that finds all its events on the topic, from 10 % to 100 % of them.
*slowed*: look-ups through a proxy that lets each answer of Redis wait for 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from redis import asyncio as aioredis

from agents.enrichment.lookup import LookupOptions, ProfileLookup
from agents.enrichment.redis import RedisProfiles
from agents.enrichment.sqlite import SqliteProfiles
from app.transport.brokers import connect
from models.profiles import Enrichment, UserProfile
from models.topics import TopicNames
from tests.bench.jobs import KEYS, events, follow, load
from tests.bench.kafka import processed
from tests.bench.machine import Reading, wait_for_quiet
from tests.fault.topics import read_topic
from tests.support.kafka import KafkaBroker, NoKafka, temporary_broker
from tests.support.services import RedisServer, temporary
from tests.support.worker import Worker

IN_FLIGHT = 50
SLOWED_S = 0.05

Ask = Callable[[str], Awaitable[Any]]


async def fill(url: str) -> None:
    """A profile for every user."""
    cache = RedisProfiles(url, capacity=1)
    for start in range(0, KEYS, 1_000):
        await cache.put_many([UserProfile(f"user{n}", f"User {n}", "gold") for n in range(start, start + 1_000)])
    await cache.stop()


async def in_flight(ask: Ask, count: int) -> tuple[float, list[float]]:
    """Calls a second with 50 of them in flight, and the seconds that each took."""
    users = iter([f"user{n * 7 % KEYS}" for n in range(count)])
    took: list[float] = []

    async def caller() -> None:
        for user in users:
            started = time.perf_counter()
            await ask(user)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - started), sorted(took)


async def server(url: str, count: int) -> float:
    """Plain requests a second."""
    async with aioredis.Redis.from_url(url, max_connections=IN_FLIGHT) as plain:
        await in_flight(lambda user: plain.get(f"user:{user}"), 1_000)
        return (await in_flight(lambda user: plain.get(f"user:{user}"), count))[0]


def redis_benchmark(port: int) -> float | None:
    """What Redis' own program says, in requests a second; ``None`` without one."""
    program = shutil.which("redis-benchmark")
    if program is None:
        return None
    command = [program, "-p", str(port), "-c", str(IN_FLIGHT), "-n", "200000", "-t", "get", "--csv"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    (line,) = (line for line in said.splitlines() if line.startswith('"GET"'))
    return float(line.split(",")[1].strip('"'))


async def lookups(url: str, folder: Path, count: int) -> tuple[float, list[float]]:
    cache = RedisProfiles(url, capacity=IN_FLIGHT)
    made = ProfileLookup(SqliteProfiles(folder / "profiles.sqlite"), cache, LookupOptions(capacity=IN_FLIGHT))
    try:
        await in_flight(made.find, min(count, 1_000))
        return await in_flight(made.find, count)
    finally:
        await made.stop()


@contextlib.asynccontextmanager
async def slowed(to_port: int) -> AsyncIterator[int]:
    """A port on which Redis answers later."""
    serving: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter, delay: float) -> None:
        while data := await source.read(1 << 20):
            await asyncio.sleep(delay)
            to.write(data)
        to.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(pump(reader, redis_writer, 0), pump(redis_reader, writer, SLOWED_S))

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        if serving:
            await asyncio.wait(serving, timeout=5)  # their clients have gone


async def slow_lookups(port: int, folder: Path, count: int) -> tuple[float, list[float]]:
    async with slowed(port) as proxy:
        return await lookups(f"redis://127.0.0.1:{proxy}/0", folder, count)


def job(broker: KafkaBroker, url: str, folder: Path, count: int) -> str:
    """The figures of a worker, as a line."""
    encode = msgspec.json.Encoder().encode
    asyncio.run(load(broker.url, {TopicNames.USER_EVENTS: [(one.user_id, encode(one)) for one in events(count)]}))
    assert broker.process is not None
    broker_pid = broker.process.pid
    worker = Worker(
        folder, broker=broker.url, FAMULUS_JOBS="enrichment", FAMULUS_APP_ID="bench", FAMULUS_REDIS_URL=url,
    )  # fmt: skip

    async def run() -> tuple[Reading, Reading, int]:
        async with connect(broker.url) as client:
            worker.start()
            topics = [TopicNames.USER_EVENTS]
            return await follow(
                client, worker, "bench", topics, count, lambda: processed(worker.port, "enrichment"), broker_pid
            )

    try:
        first, last, counted = asyncio.run(run())
    finally:
        worker.kill()
    enriched = asyncio.run(read_topic(broker.url, TopicNames.ENRICHED_USER_EVENTS))
    cached = sum(
        msgspec.json.decode(value)["enrichment"] == Enrichment.CACHE.value
        for part in enriched.values()
        for value in part
    )
    if cached != count:
        raise SystemExit(f"the job is wrong: {cached} events are enriched from the cache instead of {count}")
    (cores, broker_cores), others = last.cores(first)
    return (
        f"{counted / (last.at - first.at):>9,.0f} events/s, {(last.ours[0] - first.ours[0]) / counted * 1e6:.0f} us CPU an event "
        f"(with {cores:.2f} cores; broker {broker_cores:.2f}, Redis and others {others:.2f} cores)"
    )


def run(*, count: int, kafka: bool = True, quiet: float = 15.0) -> None:
    with temporary(RedisServer) as redis, tempfile.TemporaryDirectory(prefix="famulus-bench-") as name:
        assert isinstance(redis, RedisServer)
        folder = Path(name)
        asyncio.run(fill(redis.url))
        wait_for_quiet(patience=quiet)
        plain = asyncio.run(server(redis.url, 30_000))
        print(f"  server    {plain:>9,.0f} GET/s with {IN_FLIGHT} in flight, by redis-py", flush=True)
        own = redis_benchmark(redis.port)
        said = "there is no redis-benchmark" if own is None else f"{own:>9,.0f} GET/s by redis-benchmark -c {IN_FLIGHT}"
        print(f"  server    {said}", flush=True)
        rate, took = asyncio.run(lookups(redis.url, folder, count))
        print(f"  look-ups  {_line(rate, took)} = {rate / plain:.2f} of redis-py's", flush=True)
        rate, took = asyncio.run(slow_lookups(redis.port, folder, 5_000))
        print(f"  slowed    {_line(rate, took)}, with Redis slowed by {SLOWED_S * 1000:.0f} ms", flush=True)
        if kafka:
            with temporary_broker() as broker:
                wait_for_quiet(patience=quiet)
                print(f"  job       {job(broker, redis.url, folder / 'worker', count)}", flush=True)


def _line(rate: float, took: list[float]) -> str:
    p50, p99 = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99))
    return f"{rate:>9,.0f} a second with {IN_FLIGHT} in flight, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description="Enrichment with a warm Redis.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--without-kafka", action="store_true")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds to wait for a quiet machine before each run")
    chosen = parser.parse_args()
    try:
        run(count=chosen.count, kafka=not chosen.without_kafka, quiet=chosen.quiet)
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
