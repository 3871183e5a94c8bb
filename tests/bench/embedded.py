"""The standard work on the embedded log: the lane and plain Faust, each in its worker, over the same transactions.

Measured from 10 % to 100 % of the input, as CPU time of the whole process, what it had taken but not committed at 10 % left out.
``--memory`` runs one long input and shows the resident memory as it goes.

    python -m tests.bench.embedded [--count 300000] [--plain 20000] [--rounds 2]
    python -m tests.bench.embedded --memory 5000000
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from app.transport.brokers import connect
from models.topics import TopicNames
from tests.bench.kafka import load, processed
from tests.bench.machine import Reading, cpu_seconds, rss_mb, wait_for_quiet
from tests.bench.systems import Job, all_systems, end, lane
from tests.fault.campaign import lag, read_topic, seed_topics

#: The application whose lag ``campaign.lag`` asks for.
APP = "campaign"


async def prepare(broker: str, count: int) -> None:
    await seed_topics(broker)
    async with connect(broker) as client:
        await load(client, TopicNames.TRANSACTIONS, count)


def run(name: str, count: int, *, watch_memory: bool = False) -> dict[str, float]:
    """Run a system over ``count`` transactions; figures of the span from 10 % to 100 %."""
    system = all_systems()[name] if name != "lane" else lane("exactly_once")
    folder = Path(tempfile.mkdtemp(prefix="famulus-bench-"))
    job = Job(system, f"embedded://{folder}/log", APP, TopicNames.TRANSACTIONS, TopicNames.ALERTS, folder / "worker")
    try:
        asyncio.run(prepare(job.broker, count))
        wait_for_quiet(patience=5)
        started = time.monotonic()
        process = job.start()
        try:
            first: tuple[Reading, int] | None = None
            shown = 0
            while True:
                left = asyncio.run(lag(job.broker))
                if first is None and left <= count * 0.9:
                    taken = max(count - left, processed(job.web_port)) if system.lane else count - left
                    first = Reading.now(process.pid), count - taken
                reading = Reading.now(process.pid)
                if watch_memory and count - left >= shown:
                    print(f"  {count - left:>9,} done: {rss_mb(process.pid):.0f} MB resident", flush=True)
                    shown += count // 10
                if left == 0:
                    break
                if process.poll() is not None or time.monotonic() - started > 900:
                    raise SystemExit(f"the worker did not finish:\n{job.log_file.read_text()[-3000:]}")
                time.sleep(0.05)
            assert first is not None  # nothing is left, so 10 % were done before
            (cores,), others = reading.cores(first[0])
            figures = {
                "tx_per_s": first[1] / (reading.at - first[0].at),
                "cpu_us_per_tx": (reading.ours[0] - first[0].ours[0]) / first[1] * 1e6,
                "cores": cores,
                "other_cores": others,
                "rss_mb": rss_mb(process.pid),
                "cpu_s": cpu_seconds(process.pid),
            }
        finally:
            end(process)
        figures["alerts"] = sum(map(len, asyncio.run(read_topic(job.broker, TopicNames.ALERTS)).values()))
        return figures
    finally:
        shutil.rmtree(folder)


def show(name: str, figures: dict[str, float]) -> None:
    print(
        f"  {name:<12} {figures['cpu_us_per_tx']:>8.2f} us CPU/tx {figures['tx_per_s']:>9,.0f} tx/s  "
        f"{figures['cores']:.2f} cores  {figures['rss_mb']:>5.0f} MB  {figures['alerts']:>7,.0f} alerts  "
        f"(others {figures['other_cores']:.2f} cores)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The standard work on the embedded log.")
    parser.add_argument("--count", type=int, default=300_000)
    parser.add_argument("--plain", type=int, default=20_000, help="transactions for plain Faust, 0 to leave it out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", type=int, metavar="COUNT", help="only: one run over COUNT, with its memory")
    chosen = parser.parse_args()
    if chosen.memory:
        show("lane", run("lane", chosen.memory, watch_memory=True))
        return
    compare(count=chosen.count, plain=chosen.plain, rounds=chosen.rounds)


def compare(*, count: int, plain: int, rounds: int) -> None:
    """The lane in every round, plain Faust in the first; the ratio at the end."""
    ours = []
    theirs: dict[str, float] | None = None
    for number in range(rounds):
        ours.append(run("lane", count))
        show("lane", ours[-1])
        if plain and number == 0:
            theirs = run("plain-alo", plain)
            show("plain Faust", theirs)
    if theirs is not None:
        ratio = theirs["cpu_us_per_tx"] / statistics.median(one["cpu_us_per_tx"] for one in ours)
        print(f"lane takes 1/{ratio:.0f} of the CPU of plain Faust on the embedded log", flush=True)


if __name__ == "__main__":
    main()
