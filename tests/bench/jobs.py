"""CPU per record of the keyed jobs at 10,000 keys: each in a worker on Apache Kafka, and its operator without a log.

    python -m tests.bench.jobs [--count 400000] [--jobs sessions,profiles,insights,orders] [--without-kafka]

The worker finds all of its input on the topic.  Measured is the CPU time of its whole process, from the moment 10 % of the input are
committed until all of it is, and how many records it took meanwhile.  Without a log an operator gets batches of 2,048 records and gives
its outputs and changelog rows as bytes; its numbers of outputs are what the worker's topics must hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agents.insights import INSIGHTS
from agents.operator import OperatorSpec
from agents.operator.driver import OperatorTask
from agents.orders import ORDERS
from agents.profiles import PROFILES
from agents.sessions import SESSIONS
from agents.testing import HarnessRecord
from app.transport.brokers import connect
from app.transport.client import BrokerClient, NewRecord
from models.events import UserEvent
from models.orders import Order, Payment
from models.partitioning import partition_of
from models.profiles import EnrichedUserEvent, Enrichment, UserProfile
from models.topics import CATALOGUE
from tables.store import PartitionStore
from tests.bench.kafka import PARTITIONS, PATIENCE, STEP, processed
from tests.bench.machine import Reading, peak_rss_mb, wait_for_quiet
from tests.fault.topics import read_topic
from tests.support.kafka import KafkaBroker, NoKafka, temporary_broker
from tests.support.worker import Worker

KEYS = 10_000
BATCH = 2_048
START_MS = 1_700_000_000_000

#: of one topic: (key, value), in order
Input = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Work:
    """A job and what it gets; ``inputs`` in the order of its operator's sources."""

    spec: OperatorSpec
    inputs: Sequence[Input]

    @property
    def topics(self) -> list[str]:
        return [source.topic for source in self.spec.sources]

    @property
    def count(self) -> int:
        return sum(map(len, self.inputs))


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


def works(count: int, jobs: Sequence[str]) -> list[Work]:
    """The jobs with ``count`` records each."""
    encode = msgspec.json.Encoder().encode
    made = events(count)
    by_user = [(one.user_id, encode(one)) for one in made]
    profile = UserProfile("u", "n", "gold")
    half = range(count // 2)
    found = {
        "sessions": Work(SESSIONS, [by_user]),
        "profiles": Work(PROFILES, [by_user]),
        "insights": Work(
            INSIGHTS,
            [[(one.user_id, encode(EnrichedUserEvent(one, profile, Enrichment.CACHE))) for one in made]],
        ),
        # 10,000 orders wait at any time: a payment comes 10,000 orders later.
        "orders": Work(
            ORDERS,
            [
                [(f"o{n}", encode(Order(f"o{n}", "u", 1.0, START_MS + n * 20))) for n in half],
                [(f"o{n}", encode(Payment(f"p{n}", f"o{n}", 1.0, START_MS + (n + KEYS) * 20))) for n in half],
            ],
        ),
    }
    return [found[job] for job in jobs]


JOBS = ("sessions", "profiles", "insights", "orders")


# -- without a log


def without_log(work: Work) -> tuple[float, Counter[str]]:
    """CPU in us per record, of all partitions one after the other, and how many records went to each topic."""
    spec = work.spec
    assert spec.output is not None
    partitions: list[list[list[HarnessRecord]]] = [[[] for _ in work.inputs] for _ in range(PARTITIONS)]
    for number, feed in enumerate(work.inputs):
        for key, value in feed:
            into = partitions[partition_of(key.encode(), PARTITIONS)][number]
            into.append(HarnessRecord(len(into), START_MS, key.encode(), value))
    outputs: Counter[str] = Counter()
    spent = 0.0
    side_topics = {**spec.side_outputs, "late": "late-events"}
    for inputs in partitions:
        function: Any = spec.function()
        task = OperatorTask(function, spec.source, PartitionStore(), source2=spec.source2, uid=spec.uid)
        for start in range(0, max(map(len, inputs)), BATCH):
            started = time.process_time()
            for number, records in enumerate(inputs):
                task.run(records[start : start + BATCH], START_MS * 2, number)
            for tag, _, _ in task.sides:
                outputs[side_topics[tag]] += 1
            outputs[spec.output] += len(task.outputs)
            task.outputs.clear()
            task.sides.clear()
            task.freeze()
            spent += time.process_time() - started
    return spent / work.count * 1e6, outputs


# -- on Kafka


@dataclass(frozen=True)
class Figures:
    """Of one run on Kafka, from 10 % to 100 % of the input."""

    cpu_us: float
    per_second: float
    cores: float
    broker_cores: float
    other_cores: float
    peak_rss_mb: float

    @property
    def per_core(self) -> float:
        return 1e6 / self.cpu_us


async def load(broker: str, inputs: Mapping[str, Input]) -> None:
    async with connect(broker) as client:
        for spec in CATALOGUE.values():
            await client.create_topic(spec.name, spec.partitions, spec.config)
        for topic, feed in inputs.items():
            for start in range(0, len(feed), 10_000):
                part = feed[start : start + 10_000]
                await client.append(topic, [NewRecord(key.encode(), value) for key, value in part])


async def follow(
    client: BrokerClient,
    worker: Worker,
    app_id: str,
    topics: Sequence[str],
    total: int,
    taken: Callable[[], int],
    broker: int,
) -> tuple[Reading, Reading, int]:
    """The machine at 10 % of the input and at its end, and how many records the worker took in between."""
    assert worker.process is not None
    deadline = time.monotonic() + PATIENCE
    first: tuple[Reading, int] | None = None
    while True:
        offsets = await client.committed(app_id)
        done = sum(offset for tp, offset in offsets.items() if tp.topic in topics)
        if first is None and done >= total * 0.1:
            # It works ahead of its commits: what it has taken meanwhile does not count as still to do.
            first = Reading.now(worker.process.pid, broker), max(done, taken())
        reading = Reading.now(worker.process.pid, broker)
        if first is not None and done >= total:
            return first[0], reading, total - first[1]
        if not worker.running or time.monotonic() > deadline:
            raise SystemExit(f"the worker did not finish ({done} of {total}):\n{worker.log_text()[-3000:]}")
        await asyncio.sleep(STEP)


def on_kafka(work: Work, broker: KafkaBroker, folder: Path, expected: Counter[str]) -> Figures:
    """A worker with this job only."""
    uid, app_id = work.spec.uid, f"bench-{work.spec.uid}"
    assert broker.process is not None
    broker_pid = broker.process.pid

    async def run() -> tuple[Reading, Reading, int]:
        async with connect(broker.url) as client:
            worker.start()
            return await follow(
                client, worker, app_id, work.topics, work.count, lambda: processed(worker.port, uid), broker_pid
            )

    worker = Worker(folder / uid, broker=broker.url, FAMULUS_JOBS=work.spec.job, FAMULUS_APP_ID=app_id)
    try:
        first, last, counted = asyncio.run(run())
        assert worker.process is not None
        peak = peak_rss_mb(worker.process.pid)
        for topic, count in expected.items():
            found = sum(map(len, asyncio.run(read_topic(broker.url, topic)).values()))
            if found != count:
                raise SystemExit(f"{uid} is wrong: {found} records are in {topic} instead of {count}")
    finally:
        worker.kill()
    (cores, broker_cores), others = last.cores(first)
    return Figures(
        cpu_us=(last.ours[0] - first.ours[0]) / counted * 1e6,
        per_second=counted / (last.at - first.at),
        cores=cores,
        broker_cores=broker_cores,
        other_cores=others,
        peak_rss_mb=peak,
    )


def run(*, count: int, jobs: Sequence[str] = JOBS, kafka: bool = True, quiet: float = 15.0) -> None:
    """A line for each job."""
    made = works(count, jobs)
    expected = {}
    for work in made:
        cost, expected[work.spec.uid] = without_log(work)
        print(f"  {work.spec.uid:<9} without a log {cost:>6.2f} us CPU a record", flush=True)
    if not kafka:
        return
    for work in made:
        # A broker each: what one leaves to be written to the disk is not the next one's.
        with temporary_broker() as broker, tempfile.TemporaryDirectory(prefix="famulus-bench-") as folder:
            asyncio.run(load(broker.url, dict(zip(work.topics, work.inputs, strict=True))))
            wait_for_quiet(patience=quiet)
            found = on_kafka(work, broker, Path(folder), expected[work.spec.uid])
        print(
            f"  {work.spec.uid:<9} on Kafka {found.cpu_us:>11.2f} us CPU a record = {found.per_core:>8,.0f} records/s per core "
            f"({found.per_second:,.0f} records/s with {found.cores:.2f} cores, {found.peak_rss_mb:.0f} MB; "
            f"broker {found.broker_cores:.2f}, others {found.other_cores:.2f} cores)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per record of the keyed jobs, on Kafka and without a log.")
    parser.add_argument("--count", type=int, default=400_000)
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"of {', '.join(JOBS)}")
    parser.add_argument("--without-kafka", action="store_true")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds to wait for a quiet machine before each run")
    chosen = parser.parse_args()
    jobs = chosen.jobs.split(",")
    if unknown := set(jobs) - set(JOBS):
        parser.error(f"unknown jobs: {', '.join(sorted(unknown))}")
    try:
        run(count=chosen.count, jobs=jobs, kafka=not chosen.without_kafka, quiet=chosen.quiet)
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
