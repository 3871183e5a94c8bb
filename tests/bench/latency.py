"""From produce() to the alert in the hands of a read-committed consumer, at a steady rate, and the CPU that this rate costs.

Broker, producer, consumer and the system share one machine: "machine" says how many of its cores were busy in the window, and where that
is near all of them, p99 says more about the machine.  "Others" is what none of these four used.

A run warms up for a minute, because a JVM that has just started compiles itself: the broker takes 1.3 cores in its first ten seconds at
5,000 transactions a second, 0.9 after forty and 0.6 in the end.  On two cores that alone is a second of latency in the first window.

    python -m tests.bench.latency [--rate 5000] [--seconds 20] [--systems lane-alo,lane-eos,lane-eos-100,...]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from app.transport.brokers import connect
from models.topics import TopicNames
from tests.bench.kafka import PARTITIONS, read
from tests.bench.machine import Reading, wait_for_quiet
from tests.bench.peers.environment import Missing
from tests.bench.reference import verdicts
from tests.bench.systems import EXACTLY_ONCE, Job, System, all_systems, end, lane
from tests.bench.traffic import Traffic
from tests.fault.campaign import seed_topics
from tests.support.kafka import KafkaBroker, NoKafka, temporary_broker


def paced_systems() -> dict[str, System]:
    """The systems as one sets them for latency."""
    # A producer that waits 20 ms for more adds them to every alert.
    systems = {name: dataclasses.replace(one, linger_ms=5) for name, one in all_systems().items() if not one.slow}
    return {**systems, "lane-eos-100": lane(EXACTLY_ONCE, 100)}


@dataclass(frozen=True)
class Latency:
    """Of one run; milliseconds."""

    system: str
    p50: float
    p90: float
    p99: float
    highest: float
    cpu_us_per_tx: float
    cores: float
    other_cores: float
    machine: float
    alerts: int

    def line(self) -> str:
        return (
            f"{self.system:<32} p50 {self.p50:>5.0f}  p90 {self.p90:>5.0f}  p99 {self.p99:>5.0f}  max {self.highest:>5.0f} ms  "
            f"{self.cpu_us_per_tx:>6.1f} us CPU/tx  {self.alerts:>6,} alerts  (cores busy: machine {self.machine:.2f}, others {self.other_cores:.2f})"
        )


def measure(system: System, *, rate: int, warm_up: float, seconds: float, quiet: float) -> Latency:
    """One run on a broker of its own."""
    system.command()
    with temporary_broker() as broker, tempfile.TemporaryDirectory(prefix="famulus-bench-") as folder:
        assert broker.process is not None
        alerts = TopicNames.ALERTS
        job = Job(system, broker.url, "bench", TopicNames.TRANSACTIONS, alerts, Path(folder))
        asyncio.run(seed_topics(broker.url))
        wait_for_quiet(patience=quiet)
        process = job.start()
        traffic = Traffic(job, rate)
        try:
            traffic.observe()
            traffic.produce()
            time.sleep(warm_up)
            beside = [one.pid for one in (traffic.producer, traffic.observer) if one is not None]
            before = Reading.now(process.pid, broker.process.pid, *beside)
            time.sleep(seconds)
            after = Reading.now(process.pid, broker.process.pid, *beside)
            if process.poll() is not None:
                raise SystemExit(f"{system.label} ended:\n{job.log_file.read_text()[-3000:]}")
            produced = traffic.stop_producing()
            values = asyncio.run(_inputs(broker))
            if sum(map(len, values.values())) != len(produced):
                raise SystemExit("the input is not what was produced")
            expected = Counter((int(tx[1:]), rule) for part in values.values() for _, rule, tx in verdicts(part))
            deadline = time.monotonic() + 60
            while len(traffic.seen()) < sum(expected.values()) and time.monotonic() < deadline:
                time.sleep(0.2)
            seen = traffic.seen()
        finally:
            traffic.close()
            end(process)
    if Counter((number, rule) for number, rule, _ in seen) != expected:
        raise SystemExit(f"{system.label} is wrong: {len(seen)} alerts instead of {sum(expected.values())}")
    waited = sorted(
        (at - produced[number]) * 1000 for number, _, at in seen if before.at <= produced[number] < after.at
    )
    (cores, *_), others = after.cores(before)
    span = after.at - before.at
    p50, p90, p99, highest = (waited[min(len(waited) - 1, int(len(waited) * part))] for part in (0.5, 0.9, 0.99, 1.0))
    return Latency(
        system=f"{system.label}, commit {system.commit_ms} ms",
        p50=p50,
        p90=p90,
        p99=p99,
        highest=highest,
        cpu_us_per_tx=cores / rate * 1e6,
        cores=cores,
        other_cores=others,
        machine=(after.machine - before.machine) / span,
        alerts=len(waited),
    )


async def _inputs(broker: KafkaBroker) -> dict[int, list[bytes]]:
    async with connect(broker.url) as client:
        values = await read(client, TopicNames.TRANSACTIONS, {})
        assert len(values) == PARTITIONS
        return values


DEFAULT = "lane-alo,lane-eos,lane-eos-100,ks-memory-alo,ks-memory-eos"


def run(names: list[str], *, rate: int, warm_up: float, seconds: float, quiet: float) -> None:
    systems = paced_systems()
    for name in names:
        try:
            found = measure(systems[name], rate=rate, warm_up=warm_up, seconds=seconds, quiet=quiet)
        except Missing as why:
            print(f"  {systems[name].label:<32} left out: {why}", flush=True)
            continue
        print(f"  {found.line()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="From produce() to the alert, at a steady rate.")
    parser.add_argument("--rate", type=int, default=5_000, help="transactions a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds before the window")
    parser.add_argument("--systems", default=DEFAULT, help=f"of {', '.join(paced_systems())}")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds to wait for a quiet machine before each run")
    chosen = parser.parse_args()
    names = chosen.systems.split(",")
    unknown = set(names) - set(paced_systems())
    if unknown:
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    try:
        run(names, rate=chosen.rate, warm_up=chosen.warm_up, seconds=chosen.seconds, quiet=chosen.quiet)
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
