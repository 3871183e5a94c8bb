"""kill -9 campaign: a worker is killed again and again while transactions arrive; then everything is compared with the oracle.

Compared are the outputs (every alert once, none missing, none twice), their order per user, and the state (each user's history over
HTTP).  The oracle recomputes both from the input topic alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.transport.client import NewRecord, connect
from models.topics import TopicNames, spec_of
from tables.log import TopicPartition
from tests.fault.failing_worker import KAFKA_POINTS, POINTS
from tests.support.oracle import STANDARD_RULES, decided, decisions
from tests.support.waiting import until
from tests.support.worker import ROOT, Worker
from tests.support.workload import rules

APP = "campaign"


@dataclass
class Report:
    """What one run of the campaign found."""

    seed: int
    transactions: int
    kills: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    expected: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    state_differs: int = 0
    ready_seconds: list[float] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order or self.state_differs)

    def row(self) -> str:
        slowest = max(self.ready_seconds, default=0.0)
        return (
            f"seed {self.seed:>4}  kills {self.kills:>4}  transactions {self.transactions:>8}  alerts {self.expected:>7}  "
            f"lost {self.lost}  doubled {self.doubled}  order {self.out_of_order}  state {self.state_differs}  "
            f"ready <= {slowest:.1f} s"
        )


async def seed_topics(broker: str) -> None:
    """The topics, and the standard rules."""
    async with connect(broker) as client:
        await _topics(client)
        await client.append(
            TopicNames.RULES,
            [NewRecord(str(rule["rule_id"]).encode(), json.dumps(rule).encode()) for rule in rules()],
        )


async def _topics(client: Any) -> None:
    for name in (TopicNames.RULES, TopicNames.TRANSACTIONS, TopicNames.ALERTS):
        spec = spec_of(name)
        assert spec is not None
        await client.create_topic(name, spec.partitions, spec.config)


async def read_topic(broker: str, topic: str) -> dict[int, list[bytes]]:
    """Values per partition, committed ones only."""
    found: dict[int, list[bytes]] = defaultdict(list)
    async with connect(broker) as client:
        reader = client.reader()
        await reader.start()
        try:
            tps = [TopicPartition(topic, number) for number in range(await reader.partitions(topic))]
            ends = await reader.end_offsets(tps)
            left = {tp for tp in tps if ends[tp]}
            reader.assign(dict.fromkeys(left, 0))
            deadline = time.monotonic() + 60
            while left and time.monotonic() < deadline:
                for part in await reader.poll(1.0):
                    found[part.tp.partition] += [record.value for record in part.records if record.value is not None]
                    if part.next_offset >= ends[part.tp]:
                        left.discard(part.tp)
            assert not left, f"{topic} could not be read to its end"
        finally:
            await reader.stop()
    return found


async def lag(broker: str) -> int:
    """Transactions not yet committed by the application."""
    async with connect(broker) as client:
        committed = await client.committed(APP)
        reader = client.reader()
        await reader.start()
        try:
            tps = [
                TopicPartition(TopicNames.TRANSACTIONS, n)
                for n in range(await reader.partitions(TopicNames.TRANSACTIONS))
            ]
            ends = await reader.end_offsets(tps)
        finally:
            await reader.stop()
        return sum(end - committed.get(tp, 0) for tp, end in ends.items())


def run(folder: Path, *, seed: int, kills: int, count: int, broker: str | None = None, **env: str) -> Report:
    """One campaign: ``kills`` kills while ``count`` transactions are worked off."""
    chance = random.Random(seed)
    report = Report(seed=seed, transactions=count)
    worker = Worker(
        folder,
        broker=broker,
        command=[sys.executable, "-m", "tests.fault.failing_worker"],
        FAMULUS_APP_ID=APP,
        **env,
    )
    asyncio.run(seed_topics(worker.broker))
    producing = _produce_beside(worker.broker, count, seed, slow=kills)
    try:
        while report.kills < kills:
            _one_life(worker, chance, report)
        worker.env.pop("FAILPOINT", None)
        started = time.monotonic()
        worker.start()
        worker.wait_ready(60)
        report.ready_seconds.append(time.monotonic() - started)
        until(lambda: producing.poll() is not None, within=120, what="the producer is done")
        assert producing.returncode == 0, "the producer failed"
        until(
            lambda: asyncio.run(lag(worker.broker)) == 0, within=120, what="all transactions are worked off", every=0.3
        )
        _compare_state(worker, report)
        assert worker.stop() == 0, f"the worker did not end cleanly:\n{worker.log_text()[-3000:]}"
    finally:
        worker.kill()
        producing.kill()
        producing.wait(10)
    _compare_outputs(worker.broker, report)
    return report


def _produce_beside(broker: str, count: int, seed: int, *, slow: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fault.producer", broker, str(count), str(seed), str(slow)], cwd=ROOT
    )


def _one_life(worker: Worker, chance: random.Random, report: Report) -> None:
    """Start the worker and see it killed: at a failpoint, or at a random time."""
    kafka = KAFKA_POINTS if worker.broker.startswith("kafka://") else ()
    kind = chance.choice([*POINTS, *kafka, "random"])
    worker.env.pop("FAILPOINT", None)
    if kind != "random":
        worker.env["FAILPOINT"] = f"{kind}:{chance.randrange(1, 12)}"
    started = time.monotonic()
    worker.start()
    assert worker.process is not None
    patience = chance.uniform(0.8, 3.0) if kind == "random" else 6.0
    while worker.running and time.monotonic() - started < patience:
        time.sleep(0.02)
    if not worker.running:
        assert worker.process.returncode == -9, f"the worker ended by itself:\n{worker.log_text()[-3000:]}"
    worker.kill()
    report.kills += 1
    report.kinds[kind] += 1


def _compare_outputs(broker: str, report: Report) -> None:
    inputs = asyncio.run(read_topic(broker, TopicNames.TRANSACTIONS))
    alerts = asyncio.run(read_topic(broker, TopicNames.ALERTS))
    for partition, values in inputs.items():
        expected = decisions(values, STANDARD_RULES)
        found = decided(alerts.get(partition, []))
        want, have = Counter(expected), Counter(found)
        report.expected += len(expected)
        report.lost += sum((want - have).values())
        report.doubled += sum((have - want).values())
        report.out_of_order += sum(1 for a, b in zip(_by_user(expected), _by_user(found), strict=False) if a != b)


def _by_user(found: list[Any]) -> list[tuple[str, list[str]]]:
    """Each user's transactions in the order of their alerts."""
    users: dict[str, list[str]] = defaultdict(list)
    for user, _, _, transaction in found:
        users[user].append(transaction)
    return sorted(users.items())


def _compare_state(worker: Worker, report: Report) -> None:
    """Histories over HTTP against the input, for every user: the last ten minutes must be there, in order."""
    newest: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for values in asyncio.run(read_topic(worker.broker, TopicNames.TRANSACTIONS)).values():
        for value in values:
            tx = json.loads(value)
            newest[tx["user_id"]].append((tx["timestamp"], tx["amount"]))
    have: dict[str, list[tuple[int, float]]] = {}
    cursor = ""
    while True:
        page = worker.get(f"/v1/state/fraud/history?limit=100{cursor}")
        assert page is not None, "the state cannot be listed"
        for item in page["items"]:
            have[item["key"]] = [(entry["timestamp"], entry["amount"]) for entry in item["value"]]
        if not page.get("cursor"):
            break
        cursor = f"&cursor={page['cursor']}"
    for user, entries in newest.items():
        last = max(time_ms for time_ms, _ in entries)
        want = sorted(entry for entry in entries if entry[0] > last - 600_000)
        if sorted(entry for entry in have.get(user, []) if entry[0] > last - 600_000) != want:
            report.state_differs += 1
