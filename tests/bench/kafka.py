"""The standard work on Apache Kafka: the lane beside its peers, on one broker, over the same preloaded topic, in turns.

A round runs every system once; the rounds repeat, so that a machine that others use slows everybody alike.  Ratios are taken within a
round and their medians printed: they are what counts, the absolutes drift.  Measured is the CPU time of the whole process, from the
moment 10 % of the input are committed until all of it is; each system's alerts are compared with the reference.

    python -m tests.bench.kafka [--count 1000000] [--rounds 3] [--systems lane-eos,ks-memory-eos,...]

Over 1,000,000 transactions a JVM is still warming up: use ``--count 5000000`` for steady state.  Flink (``flink-heap-eos``,
``flink-rocksdb-eos``, ``-alo``) is not among the default systems: it commits every 2 s and needs 2,000,000 to be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from app.transport.brokers import connect
from app.transport.client import BrokerClient, NewRecord
from models.topics import TopicNames
from tables.log import TopicPartition
from tests.bench.machine import Reading, peak_rss_mb, wait_for_quiet
from tests.bench.peers.environment import Missing
from tests.bench.reference import Verdict, raised, verdicts
from tests.bench.systems import Job, System, all_systems, end
from tests.fault.campaign import seed_topics
from tests.support.kafka import KafkaBroker, NoKafka, temporary_broker
from tests.support.workload import transactions

PARTITIONS = 4
SHORT = "user-transactions-short"
#: Between two looks at what is committed.
STEP = 0.04
PATIENCE = 900.0


@dataclass(frozen=True)
class Figures:
    """Of one run, from 10 % to 100 % of the input."""

    system: str
    cpu_us_per_tx: float
    tx_per_s: float
    cores: float
    broker_cores: float
    #: what everything else on this machine used meanwhile
    other_cores: float
    peak_rss_mb: float
    #: of the process from its start to its end, imports, compilers and all
    cpu_s_total: float
    alerts: int

    def line(self) -> str:
        return (
            f"{self.system:<26} {self.cpu_us_per_tx:>8.2f} us CPU/tx {self.tx_per_s:>9,.0f} tx/s  {self.cores:.2f} cores  "
            f"{self.peak_rss_mb:>5.0f} MB  {self.alerts:>7,} alerts  "
            f"(process {self.cpu_s_total:.1f} s in all; broker {self.broker_cores:.2f}, others {self.other_cores:.2f} cores)"
        )


class Stage:
    """A broker with the inputs and what they must raise."""

    def __init__(self, broker: KafkaBroker, folder: Path) -> None:
        assert broker.process is not None
        self.broker = broker
        self.pid = broker.process.pid
        self.folder = folder
        self.expected: dict[str, Counter[Verdict]] = {}
        self.totals: dict[str, int] = {}
        self.runs = 0

    async def prepare(self, count: int, short: int) -> None:
        await seed_topics(self.broker.url)
        async with connect(self.broker.url) as client:
            await client.create_topic(SHORT, PARTITIONS)
            for topic, length in ((TopicNames.TRANSACTIONS, count), (SHORT, short)):
                if length:
                    await load(client, topic, length)
                    self.totals[topic] = length

    async def reference(self, client: BrokerClient, topic: str) -> Counter[Verdict]:
        if topic not in self.expected:
            values = await read(client, topic, {})
            self.expected[topic] = Counter(verdict for part in values.values() for verdict in verdicts(part))
        return self.expected[topic]

    async def run(self, system: System, *, quiet: float) -> Figures:
        """Start the system, wait until it has committed all of the input, and look at what it said."""
        self.runs += 1
        topic = SHORT if system.slow else TopicNames.TRANSACTIONS
        app_id = f"bench-{self.runs}"
        alerts = TopicNames.ALERTS if system.lane else f"{app_id}-alerts"
        job = Job(system, self.broker.url, app_id, topic, alerts, self.folder / app_id)
        system.command()  # what it takes to build is not part of the run
        wait_for_quiet(patience=quiet)
        async with connect(self.broker.url) as client:
            await client.create_topic(alerts, PARTITIONS)
            before = await ends(client, alerts)
            process = job.start()
            try:
                figures = await self._measure(client, job, process)
            finally:
                end(process)
            found = await read(client, alerts, before)
            have = Counter(verdict for part in found.values() for verdict in raised(part))
            expected = await self.reference(client, topic)
            if have != expected:
                raise SystemExit(
                    f"{system.label} is wrong: {sum((expected - have).values())} alerts are missing, "
                    f"{sum((have - expected).values())} too many, of {sum(expected.values())}"
                )
        shutil.rmtree(job.folder)
        return Figures(**{**figures, "alerts": sum(have.values())})  # type: ignore[arg-type]

    async def _measure(
        self, client: BrokerClient, job: Job, process: subprocess.Popen[bytes]
    ) -> dict[str, float | str]:
        total = self.totals[job.input]
        started = time.monotonic()
        first: tuple[Reading, int] | None = None
        while True:
            done = sum(offset for tp, offset in (await client.committed(job.app_id)).items() if tp.topic == job.input)
            if first is None and done >= total * 0.1:
                # The lane works ahead of its commits: what it has taken meanwhile does not count as still to do.
                taken = max(done, processed(job.web_port)) if job.system.lane else done
                first = Reading.now(process.pid, self.pid), taken
            reading = Reading.now(process.pid, self.pid)
            if done >= total:
                break
            if process.poll() is not None or time.monotonic() - started > PATIENCE:
                raise SystemExit(
                    f"{job.system.label} did not finish ({done} of {total}):\n"
                    f"{job.log_file.read_text(errors='replace')[-3000:]}"
                )
            await asyncio.sleep(STEP)
        assert first is not None  # done >= total, so it was 10 % before
        counted = total - first[1]
        if counted < total * 0.4:
            raise SystemExit(f"{job.system.label} committed only twice or so: give it a longer input")
        (cores, broker_cores), others = reading.cores(first[0])
        return {
            "system": job.system.label,
            "cpu_us_per_tx": (reading.ours[0] - first[0].ours[0]) / counted * 1e6,
            "tx_per_s": counted / (reading.at - first[0].at),
            "cores": cores,
            "broker_cores": broker_cores,
            "other_cores": others,
            "peak_rss_mb": peak_rss_mb(process.pid),
            "cpu_s_total": reading.ours[0],
        }


def processed(web_port: int, operator: str = "fraud") -> int:
    """Records that an operator of the worker has taken so far, committed or not."""
    with urllib.request.urlopen(f"http://127.0.0.1:{web_port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f'famulus_records_processed_total{{operator="{operator}"'):
                return int(float(line.split()[-1]))
    raise SystemExit("the lane's /metrics does not say how many records it has processed")


async def load(client: BrokerClient, topic: str, count: int) -> None:
    """Append the standard transactions."""
    part: list[NewRecord] = []
    for user, value in transactions(count):
        part.append(NewRecord(user.encode(), value))
        if len(part) == 10_000:
            await client.append(topic, part)
            part = []
    if part:
        await client.append(topic, part)


async def ends(client: BrokerClient, topic: str) -> dict[TopicPartition, int]:
    """Next offset of each partition."""
    reader = client.reader()
    await reader.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(await reader.partitions(topic))]
        return dict(await reader.end_offsets(tps))
    finally:
        await reader.stop()


async def read(client: BrokerClient, topic: str, start: dict[TopicPartition, int]) -> dict[int, list[bytes]]:
    """Committed values per partition, from ``start`` on."""
    stop = await ends(client, topic)
    found: dict[int, list[bytes]] = {tp.partition: [] for tp in stop}
    reader = client.reader()
    await reader.start()
    try:
        left = {tp for tp in stop if stop[tp] > start.get(tp, 0)}
        reader.assign({tp: start.get(tp, 0) for tp in left})
        deadline = time.monotonic() + 300
        while left:
            if time.monotonic() > deadline:
                raise SystemExit(f"{topic} could not be read to its end")
            for part in await reader.poll(1.0):
                found[part.tp.partition] += [record.value for record in part.records if record.value is not None]
                if part.next_offset >= stop[part.tp]:
                    left.discard(part.tp)
    finally:
        await reader.stop()
    return found


def ratios(rounds: list[dict[str, Figures]]) -> list[str]:
    """The lane's CPU against each peer's of the same guarantee (or the only one there is), round by round."""
    lines = []
    names = list(dict.fromkeys(name for one in rounds for name in one))
    for lane in (name for name in names if name.startswith("lane-")):
        for peer in names:
            if peer.startswith("lane-") or (peer[-3:] != lane[-3:] and f"{peer[:-3]}{lane[-3:]}" in all_systems()):
                continue
            found = [one[lane].cpu_us_per_tx / one[peer].cpu_us_per_tx for one in rounds if lane in one and peer in one]
            if found:
                median = statistics.median(found)
                shown = f"{median:.2f}" if median > 0.1 else f"1/{1 / median:.0f}"
                each = " ".join(f"{ratio:.3f}" for ratio in found)
                lines.append(
                    f"{lane:<10} takes {shown:>5} of the CPU of {peer:<16} "
                    f"({min(found):.3f} to {max(found):.3f} in {len(found)} rounds: {each})"
                )
    return lines


DEFAULT = "lane-eos,ks-memory-eos,loop-eos,ks-rocksdb-eos,lane-alo,ks-memory-alo,loop-alo,ks-rocksdb-alo"
SLOW = "quix-alo,plain-alo"


def run(
    *, count: int, short: int, rounds: int, systems: list[str], quiet: float = 15.0, report: Path | None = None
) -> None:
    """All rounds, with a line for each run and the ratios at the end."""
    known = all_systems()
    done: list[dict[str, Figures]] = []
    with temporary_broker() as broker, tempfile.TemporaryDirectory(prefix="famulus-bench-") as folder:
        stage = Stage(broker, Path(folder))
        started = time.monotonic()
        slow = any(known[name].slow for name in systems)
        asyncio.run(stage.prepare(count, short if slow else 0))
        print(f"{count:,} transactions loaded in {time.monotonic() - started:.0f} s", flush=True)
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", flush=True)
            done.append({})
            for name in systems:
                if known[name].slow and number > 1:
                    done[-1][name] = done[0][name]  # once is enough where the factor is 10 and more
                    continue
                try:
                    figures = asyncio.run(stage.run(known[name], quiet=quiet))
                except Missing as why:
                    print(f"  {known[name].label:<26} left out: {why}", flush=True)
                    continue
                done[-1][name] = figures
                print(f"  {figures.line()}", flush=True)
                if report is not None:
                    with open(report, "a") as file:
                        file.write(json.dumps({"round": number, "count": count, **asdict(figures)}) + "\n")
    print("\n".join(ratios(done)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The standard work on Apache Kafka, the lane beside its peers.")
    parser.add_argument("--count", type=int, default=1_000_000, help="transactions (5000000: steady state of a JVM)")
    parser.add_argument("--short", type=int, default=40_000, help="transactions for the slow ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", default=f"{DEFAULT},{SLOW}", help=f"of {', '.join(all_systems())}")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds to wait for a quiet machine before each run")
    parser.add_argument("--report", type=Path, help="append each run as a line of JSON")
    chosen = parser.parse_args()
    names = [name for name in chosen.systems.split(",") if name]
    unknown = set(names) - set(all_systems())
    if unknown:
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    try:
        run(
            count=chosen.count,
            short=chosen.short,
            rounds=chosen.rounds,
            systems=names,
            quiet=chosen.quiet,
            report=chosen.report,
        )
    except NoKafka as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
