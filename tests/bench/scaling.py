"""One process and two, under the parent of `famulus worker --processes`, over the same preloaded topic, in turns.

python -m tests.bench.scaling [--count 2000000] [--rounds 2] [--guarantee exactly_once]

The broker is on the same machine: on two cores, two workers and it fill both.  Measured is from 10 % to 90 % of the input committed,
while both workers have a backlog; CPU is that of the parent and its workers.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import shutil
import statistics
import time
from dataclasses import dataclass

from app.transport.brokers import connect
from app.transport.client import BrokerClient
from models.topics import TopicNames
from tests.bench.kafka import ends, load, read
from tests.bench.machine import Reading, rss_mb, wait_for_quiet
from tests.bench.restart import stage
from tests.bench.systems import AT_LEAST_ONCE, EXACTLY_ONCE, Job, end, workers
from tests.bench.takeover import children
from tests.support.kafka import NoKafka

STEP = 0.04
PATIENCE = 600.0


@dataclass(frozen=True)
class Figures:
    """Of one run."""

    processes: int
    tx_per_s: float
    cpu_us_per_tx: float
    cores: float
    other_cores: float
    #: resident in all workers at the end, what they share counted in each
    rss_mb: float
    alerts: int

    def line(self) -> str:
        return (
            f"{self.processes} process{'es' if self.processes > 1 else '  '} {self.tx_per_s:>9,.0f} tx/s {self.cpu_us_per_tx:>6.2f} us CPU/tx  "
            f"{self.cores:.2f} cores (broker and others {self.other_cores:.2f})  {self.rss_mb:>5.0f} MB  {self.alerts:,} alerts"
        )


async def measure(job: Job, processes: int, count: int, quiet: float) -> Figures:
    """One run of an application of its own over the whole topic."""
    wait_for_quiet(patience=quiet)
    async with connect(job.broker) as client:
        before = await ends(client, TopicNames.ALERTS)
        parent = job.start()
        try:
            first, last, resident = await _watch(client, job, parent.pid, processes, count)
        finally:
            end(parent, 60)
        alerts = sum(map(len, (await read(client, TopicNames.ALERTS, before)).values()))
    shutil.rmtree(job.folder)
    (reading, done), (end_reading, end_done) = first, last
    cores, others = end_reading.cores(reading)
    counted = end_done - done
    return Figures(
        processes=processes,
        tx_per_s=counted / (end_reading.at - reading.at),
        cpu_us_per_tx=sum(end_reading.ours) * 1e6 / counted - sum(reading.ours) * 1e6 / counted,
        cores=sum(cores),
        other_cores=others,
        rss_mb=resident,
        alerts=alerts,
    )


async def _watch(
    client: BrokerClient, job: Job, parent: int, processes: int, count: int
) -> tuple[tuple[Reading, int], tuple[Reading, int], float]:
    """What was used and committed at 10 % and at 90 %, and MB resident when all is."""
    first: tuple[Reading, int] | None = None
    last: tuple[Reading, int] | None = None
    started = time.monotonic()
    while True:
        committed = await client.committed(job.app_id)
        done = sum(offset for tp, offset in committed.items() if tp.topic == TopicNames.TRANSACTIONS)
        pids = children(parent)
        if first is None and done >= count * 0.1:
            first = Reading.now(parent, *pids), done
        if first is not None and last is None and done >= count * 0.9:
            last = Reading.now(parent, *pids), done
        if first is not None and last is not None and done >= count:
            if last[1] - first[1] < count * 0.5:
                raise SystemExit("the window is too short: use a larger --count")
            return first, last, sum(map(rss_mb, pids))
        if time.monotonic() - started > PATIENCE or (done and len(pids) != processes):
            raise SystemExit(
                f"{processes} workers did not finish ({done} of {count}):\n{job.log_file.read_text()[-3000:]}"
            )
        await asyncio.sleep(STEP)


def run(guarantees: list[str], *, count: int, rounds: int, quiet: float = 15.0) -> None:
    for guarantee in guarantees:
        with stage("kafka", guarantee) as job:

            async def fill(broker: str = job.broker) -> None:
                async with connect(broker) as client:
                    await load(client, TopicNames.TRANSACTIONS, count)

            asyncio.run(fill())
            done: list[tuple[Figures, Figures]] = []
            for number in range(rounds):
                pair = []
                for processes in (1, 2):
                    name = f"scaling-{number}-{processes}"
                    one = dataclasses.replace(
                        job,
                        system=workers(guarantee, processes),
                        app_id=name,
                        folder=job.folder.with_name(name),
                    )
                    pair.append(asyncio.run(measure(one, processes, count, quiet)))
                    print(f"  {guarantee:<13} {pair[-1].line()}", flush=True)
                if pair[0].alerts != pair[1].alerts:
                    raise SystemExit("one process and two do not raise the same alerts")
                done.append((pair[0], pair[1]))
        faster = [two.tx_per_s / one.tx_per_s for one, two in done]
        dearer = [two.cpu_us_per_tx / one.cpu_us_per_tx for one, two in done]
        print(
            f"  {guarantee:<13} two processes do {_range(faster)} times what one does, at {_range(dearer)} times the CPU per transaction",
            flush=True,
        )


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="One process and two.")
    parser.add_argument("--count", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--guarantee", default=f"{EXACTLY_ONCE},{AT_LEAST_ONCE}")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds to wait for a quiet machine before each run")
    chosen = parser.parse_args()
    try:
        run(chosen.guarantee.split(","), count=chosen.count, rounds=chosen.rounds, quiet=chosen.quiet)
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
