"""kill -9 while all jobs run: what each gave is compared with plain models of it (tests/support/models.py), and state with the input."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agents.functions.profiles import UserProfiles
from agents.testing import OperatorHarness
from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.events import UserEvent
from models.orders import Order, Payment
from models.topics import CATALOGUE
from tables.log import TopicPartition
from tests.fault.campaign import read_topic
from tests.fault.failing_worker import POINTS
from tests.fault.report import Report
from tests.support import models
from tests.support.events import orders_and_payments, user_events
from tests.support.waiting import until
from tests.support.worker import Worker

APP = "jobs"
TOPICS = ("user-events", "orders", "payments")
#: Users that close the sessions and windows of everybody else: one per partition, hours later.
CLOSERS = 40
CLOSING_MS = 6 * 3_600_000

Json = dict[str, Any]


@dataclass
class JobsReport:
    """What one run found: per output what is missing (``lost``) and what is too much (``doubled``)."""

    seed: int
    kills: int = 0
    #: of the kills, those that met their failpoint
    at_points: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ready_seconds: list[float] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    lost: dict[str, list[Any]] = field(default_factory=dict)
    doubled: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return not self.lost and not self.doubled

    def compare(self, name: str, expected: Sequence[Any], found: Sequence[Any]) -> None:
        want, have = Counter(map(_text, expected)), Counter(map(_text, found))
        self.compared[name] += len(expected)
        if want - have:
            self.lost.setdefault(name, []).extend(list((want - have).elements())[:3])
        if have - want:
            self.doubled.setdefault(name, []).extend(list((have - want).elements())[:3])

    def as_report(self, name: str) -> Report:
        """As a row of the long campaign.  What is compared are outputs and state; ``lost`` and ``doubled`` count kinds of them."""
        return Report(
            seed=self.seed,
            transactions=0,
            name=name,
            kills=self.kills,
            at_points=self.at_points,
            kinds=self.kinds,
            expected=sum(self.compared.values()),
            lost=len(self.lost),
            doubled=len(self.doubled),
            ready_seconds=self.ready_seconds,
            details=[] if self.exact else [self.row()],
        )

    def row(self) -> str:
        verdict = "exact" if self.exact else f"NOT EXACT: lost {self.lost}, doubled {self.doubled}"
        return f"seed {self.seed:>4}  kills {self.kills:>3}  {dict(self.compared)}  {verdict}"


def run(folder: Path, *, seed: int, kills: int, count: int, broker: str | None = None, **env: str) -> JobsReport:
    """One campaign: ``count`` user events and half as many orders arrive while the worker is killed ``kills`` times."""
    chance = random.Random(seed)
    report = JobsReport(seed)
    worker = Worker(
        folder, broker=broker, command=[sys.executable, "-m", "tests.fault.failing_worker"], FAMULUS_APP_ID=APP, **env
    )
    asyncio.run(_topics(worker.broker))
    chunks = _chunks(seed, count, kills + 1)
    try:
        for chunk in chunks[:-1]:
            asyncio.run(_append(worker.broker, chunk))
            _one_life(worker, chance, report)
        worker.env.pop("FAILPOINT", None)
        worker.start()
        started = time.monotonic()
        worker.wait_ready(60)
        report.ready_seconds.append(time.monotonic() - started)
        asyncio.run(_append(worker.broker, [*chunks[-1], *_closers()]))
        inputs = {topic: asyncio.run(read_topic(worker.broker, topic)) for topic in TOPICS}
        until(lambda: _worked_off(worker), within=90, what="everything is worked off", every=0.3)
        until(lambda: _enriched(worker.broker, inputs), within=90, what="every event is enriched", every=0.3)
        until(lambda: _worked_off(worker), within=90, what="all enriched events are worked off", every=0.3)
        _compare_state(worker, inputs, report)
        assert worker.stop() == 0, f"the worker did not end cleanly:\n{worker.log_text()[-3000:]}"
    finally:
        worker.kill()
    _compare_outputs(worker.broker, inputs, report)
    return report


async def _topics(broker: str) -> None:
    async with connect(broker) as client:
        for spec in CATALOGUE.values():
            await client.create_topic(spec.name, spec.partitions, spec.config)


def _chunks(seed: int, count: int, number: int) -> list[list[UserEvent | Order | Payment]]:
    """All records in order of arrival, cut into pieces."""
    records: list[UserEvent | Order | Payment] = [
        *user_events(seed, count, users=50),
        *orders_and_payments(seed, count // 2),
    ]
    records.sort(key=lambda record: record.timestamp // 60_000)  # stable: the disorder within a minute stays
    size = -(-len(records) // number)
    return [records[start : start + size] for start in range(0, len(records), size)]


def _closers() -> list[UserEvent | Order | Payment]:
    after = 1_700_000_000_000 + 100 * CLOSING_MS
    return [
        record
        for n in range(CLOSERS)
        for record in (
            UserEvent(event_id=f"c{n}", user_id=f"closer{n}", event_type="CLICK", timestamp=after),
            Order(f"closer{n}", "u", 1.0, after),
            Payment(f"closer{n}", f"closer{n}", 1.0, after),
        )
    ]


async def _append(broker: str, records: Sequence[UserEvent | Order | Payment]) -> None:
    topics: dict[str, list[NewRecord]] = {topic: [] for topic in TOPICS}
    for record in records:
        topic, key = (
            ("user-events", record.user_id)
            if isinstance(record, UserEvent)
            else ("orders" if isinstance(record, Order) else "payments", record.order_id)
        )
        topics[topic].append(NewRecord(key.encode(), msgspec.json.encode(record)))
    async with connect(broker) as client:
        for topic, batch in topics.items():
            if batch:
                await client.append(topic, batch)


def _one_life(worker: Worker, chance: random.Random, report: JobsReport) -> None:
    """Start the worker and see it killed: at a failpoint, or at a random time."""
    kind = chance.choice([*POINTS, "random"])
    worker.env.pop("FAILPOINT", None)
    if kind != "random":
        worker.env["FAILPOINT"] = f"{kind}:{chance.randrange(1, 40)}"
    started = time.monotonic()
    worker.start()
    assert worker.process is not None
    patience = chance.uniform(1.5, 4.0) if kind == "random" else 6.0
    while worker.running and time.monotonic() - started < patience:
        time.sleep(0.02)
    if not worker.running:
        assert worker.process.returncode == -9, f"the worker ended by itself:\n{worker.log_text()[-3000:]}"
        report.at_points += 1
    worker.kill()
    report.kills += 1
    report.kinds[kind] += 1


def _worked_off(worker: Worker) -> bool:
    answer = worker.get("/v1/operators")
    return bool(answer) and all(operator["lag"] == 0 for operator in answer["operators"])


def _enriched(broker: str, inputs: dict[str, dict[int, list[bytes]]]) -> bool:
    async def ends() -> int:
        async with connect(broker) as client:
            reader = client.reader()
            await reader.start()
            try:
                tps = [TopicPartition("enriched-user-events", n) for n in range(4)]
                return sum((await reader.end_offsets(tps)).values())
            finally:
                await reader.stop()

    # On Kafka the end counts the marks of transactions, too.
    return asyncio.run(ends()) >= sum(map(len, inputs["user-events"].values()))


def _compare_outputs(broker: str, inputs: dict[str, dict[int, list[bytes]]], report: JobsReport) -> None:
    def read(topic: str) -> dict[int, list[Json]]:
        found = asyncio.run(read_topic(broker, topic))
        return {partition: [json.loads(value) for value in values] for partition, values in found.items()}

    events = {partition: [json.loads(value) for value in values] for partition, values in inputs["user-events"].items()}
    everything = _flat(events)
    counted = [one for one in everything if not one["user_id"].startswith("closer")]

    enriched = read("enriched-user-events")
    for partition, mine in events.items():
        # In order, too.
        report.compare(
            "enriched", list(enumerate(mine)), list(enumerate(one["event"] for one in enriched.get(partition, [])))
        )
    report.compare("summaries", models.sessions(counted), _flat(read("session-summaries")))
    steps = Counter(step["type"] for step in _flat(read("session-events")))
    report.compare("session starts", [steps["SESSION_END"] + CLOSERS], [steps["SESSION_START"]])
    report.compare("events processed", [len(everything)], [steps["EVENT_PROCESSED"]])
    report.compare(
        "insights per event",
        [one["user_id"] for one in everything],
        [one["user_id"] for one in _flat(read("session-insights"))],
    )
    report.compare(
        "user insights",
        models.insights([one for one in _flat(enriched) if not one["event"]["user_id"].startswith("closer")]),
        _flat(read("user-insights")),
    )
    report.compare(
        "enriched orders",
        list(models.join(*(_parsed(inputs[topic]) for topic in ("orders", "payments"))).elements()),
        list(models.joined(_flat(read("enriched-orders"))).elements()),
    )
    alerts = read("fraud-alerts")
    for partition, values in inputs["user-events"].items():
        harness = OperatorHarness(UserProfiles(), key=lambda one: one.user_id, timestamp=lambda one: one.timestamp)
        for value in values:
            harness.process(msgspec.json.decode(value, type=UserEvent))
        report.compare(
            "pattern alerts",
            [alert.alert_id for alert in harness.outputs],
            [alert["alert_id"] for alert in alerts.get(partition, [])],
        )
    report.compare("late events", [], _flat(read("late-events")))


def _compare_state(worker: Worker, inputs: dict[str, dict[int, list[bytes]]], report: JobsReport) -> None:
    events = _parsed(inputs["user-events"])
    counts = Counter(event["user_id"] for event in events)
    report.compare("user counts", list(counts.items()), list(_listed(worker, "profiles/user-counts").items()))
    closers = [(f"closer{n}", 1) for n in range(CLOSERS)]
    open_now = _listed(worker, "sessions/metrics")
    report.compare("open sessions", closers, [(user, value["event_count"]) for user, value in open_now.items()])


def _listed(worker: Worker, state: str) -> Json:
    found: Json = {}
    cursor = ""
    while True:
        page = worker.get(f"/v1/state/{state}?limit=100{cursor}")
        assert page is not None, f"{state} cannot be listed"
        found |= {item["key"]: item["value"] for item in page["items"]}
        if not page.get("cursor"):
            return found
        cursor = f"&cursor={page['cursor']}"


def _parsed(values: dict[int, list[bytes]]) -> list[Json]:
    return [json.loads(value) for part in values.values() for value in part]


def _flat(values: dict[int, list[Json]]) -> list[Json]:
    return [value for part in values.values() for value in part]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
