"""How long state queries take while the worker judges 20,000 transactions a second.

    python -m tests.bench.queries [--rate 20000] [--requests 1000] [--seconds 15] [--broker kafka|embedded]

Requests are due at fixed times, whether or not the ones before are answered, and each is timed from when it was due: nothing is hidden by
a slow answer.  They go over 20 connections to ``fraud/history`` of random users.  Broker, producer, worker and this program share the
machine; "machine" says how many of its cores were busy, and where that is all of them, p99 says more about the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.partitioning import partition_of
from models.topics import TopicNames
from tests.bench.kafka import PARTITIONS, processed
from tests.bench.machine import Reading, wait_for_quiet
from tests.fault.topics import seed_topics
from tests.support.kafka import NoKafka, temporary_broker
from tests.support.worker import ROOT, Worker
from tests.support.workload import transactions

CONNECTIONS = 20
USERS = 10_000
#: Transactions before the first request is timed, so that users have histories.
WARM_UP_SECONDS = 5
#: Between two appends of the producer.
STEP = 0.01


class Asker:
    """Connections that are kept open, and what each request took, in seconds."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.took: list[float] = []
        self.missing = 0

    async def run(self, rate: float, seconds: float) -> None:
        """``rate`` requests a second, spread over the connections."""
        loop = asyncio.get_running_loop()
        started = loop.time() + 0.2
        dues = [started + number / rate for number in range(int(rate * seconds))]
        await asyncio.gather(*(self._one(dues[first::CONNECTIONS], first) for first in range(CONNECTIONS)))

    async def _one(self, dues: Sequence[float], seed: int) -> None:
        loop, chance = asyncio.get_running_loop(), random.Random(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for due in dues:
            delay = due - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            user = f"user{chance.randrange(USERS)}"
            writer.write(f"GET /v1/state/fraud/history/{user} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
            self.took.append(loop.time() - due)
            status = head.split(b" ", 2)[1]
            if status == b"404":  # a user who has not paid yet
                self.missing += 1
            elif status != b"200":
                raise SystemExit(f"a query was answered with {head.decode(errors='replace')}")
        writer.close()


async def produce(broker: str, rate: float, seconds: float) -> None:
    """Append transactions at a steady rate; made beforehand, so that appending is all that costs meanwhile."""
    made = [
        NewRecord(user.encode(), value, partition=partition_of(user.encode(), PARTITIONS))
        for user, value in transactions(int(rate * seconds), users=USERS)
    ]
    async with connect(broker) as client:
        print("ready", flush=True)
        started, done = time.monotonic(), 0
        while done < len(made):
            due = min(len(made), int((time.monotonic() - started) * rate))
            if due > done:
                await client.append(TopicNames.TRANSACTIONS, made[done:due])
                done = due
            await asyncio.sleep(STEP)


@contextlib.contextmanager
def producer(broker: str, rate: float, seconds: float) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.queries", "--produce", broker, str(rate), str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit("the producer failed")
        yield
    finally:
        process.kill()
        process.wait(10)


def measure(broker: str, folder: Path, *, rate: float, requests: float, seconds: float) -> None:
    asyncio.run(seed_topics(broker))
    with (
        Worker(folder / "worker", broker=broker, FAMULUS_JOBS="fraud") as worker,
        # A little longer than it is needed: it must not end first.
        producer(broker, rate, WARM_UP_SECONDS + seconds + 5),
    ):
        assert worker.process is not None
        worker.wait_ready()
        time.sleep(WARM_UP_SECONDS)
        before, judged = Reading.now(worker.process.pid), processed(worker.port)
        asker = Asker(worker.port)
        asyncio.run(asker.run(requests, seconds))
        after, judged = Reading.now(worker.process.pid), processed(worker.port) - judged
        (cores,), others = after.cores(before)
        took = sorted(asker.took)
        p50, p90, p99 = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.9, 0.99))
        print(
            f"  {len(took) / (after.at - before.at):,.0f} queries/s beside {judged / (after.at - before.at):,.0f} transactions/s: "
            f"p50 {p50:.1f}  p90 {p90:.1f}  p99 {p99:.1f}  max {took[-1] * 1000:.1f} ms "
            f"({asker.missing} users unknown; worker {cores:.2f}, machine {cores + others:.2f} cores busy)",
            flush=True,
        )


def run(*, rate: float, requests: float, seconds: float, broker: str = "kafka", quiet: float = 15.0) -> None:
    with tempfile.TemporaryDirectory(prefix="famulus-bench-") as name:
        folder = Path(name)
        if broker == "embedded":
            wait_for_quiet(patience=quiet)
            measure(f"embedded://{folder}/log", folder, rate=rate, requests=requests, seconds=seconds)
            return
        with temporary_broker() as kafka:
            wait_for_quiet(patience=quiet)
            measure(kafka.url, folder, rate=rate, requests=requests, seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="State queries beside traffic.")
    parser.add_argument("--rate", type=float, default=20_000, help="transactions a second")
    parser.add_argument("--requests", type=float, default=1_000, help="queries a second")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--broker", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds to wait for a quiet machine before the run")
    parser.add_argument("--produce", nargs=3, metavar=("BROKER", "RATE", "SECONDS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.produce:
        broker, rate, seconds = chosen.produce
        asyncio.run(produce(broker, float(rate), float(seconds)))
        return
    try:
        run(
            rate=chosen.rate, requests=chosen.requests, seconds=chosen.seconds, broker=chosen.broker, quiet=chosen.quiet
        )
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
