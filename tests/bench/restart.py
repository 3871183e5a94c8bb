"""How soon a worker is there again: ready with its state, and the first new alert after kill -9; and what a key takes in memory.

python -m tests.bench.restart [--keys 10000,1000000] [--broker kafka|embedded] [--guarantee exactly_once]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.topics import TopicNames
from tests.bench.kafka import load
from tests.bench.machine import rss_mb
from tests.bench.systems import AT_LEAST_ONCE, EXACTLY_ONCE, Job, end, lane
from tests.bench.traffic import Traffic
from tests.fault.campaign import APP, lag, seed_topics
from tests.support.kafka import NoKafka, temporary_broker
from tests.support.waiting import until
from tests.support.workload import START_MS


@contextmanager
def stage(kind: str, guarantee: str) -> Iterator[Job]:
    """A broker with its topics, and a lane that is not started yet."""
    folder = Path(tempfile.mkdtemp(prefix="famulus-bench-"))
    try:
        if kind == "embedded":
            url = f"embedded://{folder}/log"
            asyncio.run(seed_topics(url))
            yield Job(lane(guarantee), url, APP, TopicNames.TRANSACTIONS, TopicNames.ALERTS, folder / "worker")
            return
        with temporary_broker() as broker:
            asyncio.run(seed_topics(broker.url))
            yield Job(lane(guarantee), broker.url, APP, TopicNames.TRANSACTIONS, TopicNames.ALERTS, folder / "worker")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def load_keys(broker: str, keys: int) -> None:
    """One transaction of each of ``keys`` users."""
    async with connect(broker) as client:
        part: list[NewRecord] = []
        for number in range(keys):
            user = f"user{number}"
            value = (
                f'{{"transaction_id":"t{number}","user_id":"{user}","amount":{number % 5000}.5,'
                f'"timestamp":{START_MS + number},"merchant":"m{number % 1000}","country":"DE"}}'
            )
            part.append(NewRecord(user.encode(), value.encode()))
            if len(part) == 10_000 or number == keys - 1:
                await client.append(TopicNames.TRANSACTIONS, part)
                part = []


def seconds_to_ready(job: Job) -> tuple[subprocess.Popen[bytes], float]:
    """Start the lane; seconds until it says that it is ready."""
    started = time.monotonic()
    process = job.start()
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{job.web_port}/readyz", timeout=2):
                return process, time.monotonic() - started
        except (urllib.error.URLError, OSError):
            pass
        if process.poll() is not None or time.monotonic() - started > 180:
            process.kill()
            raise SystemExit(f"the worker does not get ready:\n{job.log_file.read_text(errors='replace')[-3000:]}")
        time.sleep(0.02)


def work_off(job: Job, within: float = 300) -> None:
    until(lambda: asyncio.run(lag(job.broker)) == 0, within=within, what="all transactions are worked off", every=0.2)


def ready(kind: str, guarantee: str, keys: int) -> float:
    """Seconds to ready with ``keys`` keys, with and without what a worker keeps on its disk; returns MB resident with the state."""
    with stage(kind, guarantee) as job:
        process, empty = seconds_to_ready(job)
        asyncio.run(load_keys(job.broker, keys))
        work_off(job)
        resident = rss_mb(process.pid)
        end(process, 60)
        process, snapshot = seconds_to_ready(job)
        restored = rss_mb(process.pid)
        end(process, 60)
        shutil.rmtree(job.folder / "data")
        process, changelog = seconds_to_ready(job)
        process.kill()
        process.wait(10)
        shutil.rmtree(job.folder / "data", ignore_errors=True)
        process, killed = seconds_to_ready(job)
        end(process, 60)
    print(
        f"  {kind:<8} {guarantee:<13} {keys:>9,} keys: ready in {snapshot:.1f} s from a snapshot, {changelog:.1f} s from the changelog, "
        f"{killed:.1f} s from it after kill -9 (first start {empty:.1f} s); {resident:.0f} MB after processing, {restored:.0f} MB restored",
        flush=True,
    )
    return resident


def first_new_alert(guarantee: str, *, preload: int = 100_000, rate: int = 2_000) -> float:
    """kill -9 under traffic and start again at once: seconds until an alert is seen that was not seen before."""
    with stage("kafka", guarantee) as job:

        async def fill() -> None:
            async with connect(job.broker) as client:
                await load(client, TopicNames.TRANSACTIONS, preload)

        asyncio.run(fill())
        process, _ = seconds_to_ready(job)
        traffic = Traffic(job, rate, first=preload)
        try:
            work_off(job)
            traffic.observe()
            traffic.produce()
            until(
                lambda: any(number >= preload for number, _, _ in traffic.seen()),
                within=60,
                what="alerts of the traffic",
            )
            time.sleep(4.0)  # traffic as before
            process.kill()
            process.wait(10)
            known = {(number, rule) for number, rule, _ in traffic.seen()}
            started = time.monotonic()
            process = job.start()
            found: list[float] = []

            def new() -> bool:
                found[:] = [at for number, rule, at in traffic.seen() if at > started and (number, rule) not in known]
                return bool(found)

            until(new, within=120, what="a new alert", every=0.05)
            return min(found) - started
        finally:
            traffic.close()
            end(process)


def run(kinds: list[str], guarantees: list[str], keys: list[int]) -> None:
    for kind in kinds:
        for guarantee in guarantees:
            resident = [ready(kind, guarantee, count) for count in keys]
            if len(keys) > 1:
                per_key = (resident[-1] - resident[0]) * 1e6 / (keys[-1] - keys[0])
                print(f"  {kind:<8} {guarantee:<13} {per_key:.0f} bytes of memory per key", flush=True)
    if "kafka" in kinds:
        for guarantee in guarantees:
            seconds = first_new_alert(guarantee)
            print(
                f"  kafka    {guarantee:<13} first new alert {seconds:.1f} s after kill -9 and restart, at 2,000 tx/s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Restart, and memory per key.")
    parser.add_argument("--keys", default="10000,1000000")
    parser.add_argument("--broker", default="kafka,embedded")
    parser.add_argument("--guarantee", default=f"{EXACTLY_ONCE},{AT_LEAST_ONCE}")
    chosen = parser.parse_args()
    try:
        run(chosen.broker.split(","), chosen.guarantee.split(","), [int(count) for count in chosen.keys.split(",")])
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
