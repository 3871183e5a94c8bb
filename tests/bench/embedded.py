"""The standard work on the embedded log: transactions per second and CPU per transaction of a worker, and of plain Faust.

Both read the same transactions from the same kind of log, keep each user's last ten minutes durable, apply the same ten rules and write
the same alerts.  Measured from 10 % to 100 % of the input, as CPU time of the whole process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from app.transport.client import NewRecord, connect
from models.topics import TopicNames, spec_of
from tests.fault.campaign import lag, read_topic, seed_topics
from tests.support.worker import Worker
from tests.support.workload import transactions

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def load(broker: str, count: int, *, users: int = 10_000) -> None:
    """Append the standard transactions."""
    async with connect(broker) as client:
        part = []
        for user, value in transactions(count, users=users):
            part.append(NewRecord(user.encode(), value))
            if len(part) == 5000:
                await client.append(TopicNames.TRANSACTIONS, part)
                part = []
        if part:
            await client.append(TopicNames.TRANSACTIONS, part)


def measure(worker: Worker, count: int) -> dict[str, float]:
    """Run the worker until nothing is left; figures of the span from 10 % to 100 %."""
    started = time.monotonic()
    worker.start()
    assert worker.process is not None
    pid = worker.process.pid
    first: tuple[float, float, int] | None = None
    while True:
        left = asyncio.run(lag(worker.broker))
        now, cpu = time.monotonic(), cpu_seconds(pid)
        if first is None and left <= count * 0.9:
            first = now, cpu, left
        if left == 0:
            break
        if not worker.running or now - started > 600:
            raise SystemExit(f"the worker did not finish:\n{worker.log_text()[-3000:]}")
        time.sleep(0.05)
    assert first is not None
    done = first[2]
    figures = {
        "tx_per_s": done / (now - first[0]),
        "cpu_us_per_tx": (cpu - first[1]) / done * 1e6,
        "cores": (cpu - first[1]) / (now - first[0]),
        "rss_mb": rss_mb(pid),
        "seconds": now - started,
    }
    worker.stop()
    return figures


def lane(count: int) -> dict[str, float]:
    """The product, with all its features on."""
    folder = Path(tempfile.mkdtemp(prefix="famulus-bench-"))
    try:
        worker = Worker(folder, FAMULUS_APP_ID="campaign")
        asyncio.run(seed_topics(worker.broker))
        asyncio.run(load(worker.broker, count))
        figures = measure(worker, count)
        alerts = asyncio.run(read_topic(worker.broker, TopicNames.ALERTS))
        figures["alerts"] = sum(map(len, alerts.values()))
        return figures
    finally:
        shutil.rmtree(folder)


def plain(count: int) -> dict[str, float]:
    """Plain Faust agents and tables on the same log."""
    folder = Path(tempfile.mkdtemp(prefix="famulus-bench-"))
    try:
        worker = Worker(
            folder,
            command=[sys.executable, "-m", "tests.bench.plain_faust", "worker", "-l", "warn", "--without-web"],
            FAMULUS_APP_ID="campaign",
        )
        asyncio.run(seed_topics(worker.broker))
        asyncio.run(load(worker.broker, count))
        figures = measure(worker, count)
        alerts = asyncio.run(read_topic(worker.broker, TopicNames.ALERTS))
        figures["alerts"] = sum(map(len, alerts.values()))
        return figures
    finally:
        shutil.rmtree(folder)


def show(name: str, figures: dict[str, float]) -> None:
    print(
        f"{name:<14} {figures['tx_per_s']:>10,.0f} tx/s  {figures['cpu_us_per_tx']:>8.2f} us CPU/tx  "
        f"{figures['cores']:.2f} cores  {figures['rss_mb']:>6.0f} MB  {figures['alerts']:>8,.0f} alerts  {figures['seconds']:.1f} s",
        flush=True,
    )


def main(count: int = 1_000_000, plain_count: int = 30_000, rounds: int = 1) -> None:
    assert spec_of(TopicNames.TRANSACTIONS) is not None
    for _ in range(rounds):
        ours = lane(count)
        show("lane", ours)
        if plain_count:
            theirs = plain(plain_count)
            show("plain Faust", theirs)
            print(f"ratio: {theirs['cpu_us_per_tx'] / ours['cpu_us_per_tx']:.1f} times the CPU of the lane", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
