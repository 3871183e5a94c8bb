"""Faults that are a story of their own: of the whole group, of the broker, of the network, of the disk.

Each scenario works on a broker of its own while transactions arrive, asserts how workers must bear it, and ends with the comparison
of the campaign.  Times are scaled down; what a scenario leaves out is said in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from app.transport.brokers import connect
from models.topics import TopicNames
from tables.log import TopicPartition
from tests.fault import campaign
from tests.fault.campaign import APP, TAKEN_OVER, Fleet, Plan, fleet
from tests.fault.proxy import Proxy
from tests.fault.report import Report
from tests.support.kafka import KafkaBroker
from tests.support.ports import free_ports
from tests.support.waiting import until
from tests.support.worker import Worker

CHANGELOG = f"{APP}-fraud-changelog"
#: A changelog that is compacted within seconds.
COMPACTING = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "segment.bytes": str(1 << 20),
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "100",
    "min.compaction.lag.ms": "0",
}


def _plan(seed: int, **changes: object) -> Plan:
    return replace(Plan(seed=seed, kills=0, count=200_000, rate=300), **changes)  # type: ignore[arg-type]


@contextmanager
def _started(folder: Path, plan: Plan, broker: str, name: str) -> Iterator[Fleet]:
    """A fleet of which every worker is ready."""
    with fleet(folder, plan, broker=broker) as workers:
        workers.report.name = f"{name} seed {plan.seed}"
        for worker in workers.workers:
            worker.start()
        _all_ready(workers)
        yield workers


def _all_ready(workers: Fleet) -> None:
    started = time.monotonic()
    until(workers.all_ready, within=workers.plan.deadline, what="all workers are ready", every=0.1)
    workers.report.ready_seconds.append(time.monotonic() - started)


def partitions(worker: Worker) -> set[int]:
    """Partitions of the fraud operator that the worker has open."""
    answer = worker.get("/v1/operators") or {"operators": []}
    for operator in answer["operators"]:
        if operator["uid"] == "fraud":
            return {one["partition"] for one in operator["partitions"]}
    return set()


def _progress(workers: Fleet, what: str) -> None:
    """Something more has been committed."""
    before = asyncio.run(_committed(workers.broker))
    until(lambda: asyncio.run(_committed(workers.broker)) > before, within=workers.plan.deadline, what=what, every=0.3)


async def _committed(broker: str) -> int:
    async with connect(broker) as client:
        found = await client.committed(APP)
    return sum(offset for tp, offset in found.items() if tp.topic == TopicNames.TRANSACTIONS)


# -- the group


def all_at_once(folder: Path, seed: int) -> Report:
    """F02: every worker is killed at the same time, again and again."""
    chance = random.Random(seed)
    with KafkaBroker(folder / "kafka") as broker, _started(folder, _plan(seed, workers=3), broker.url, "F02 all") as f:
        for _ in range(5):
            for worker in f.workers:
                worker.kill()
            f.report.kills += len(f.workers)
            for worker in f.workers:
                worker.start()
            _all_ready(f)
            time.sleep(chance.uniform(0.0, 2.0))
        return f.finish()


def rolling(folder: Path, seed: int) -> Report:
    """F03, F04, F21: one worker after the other is told to end under load, and comes back; each time the group is rebalanced twice."""
    chance = random.Random(seed)
    plan = _plan(seed, workers=3)
    with KafkaBroker(folder / "kafka") as broker, _started(folder, plan, broker.url, "F03 F04 F21 storm") as f:
        for turn in range(12):
            worker = f.workers[turn % 3]
            code = worker.stop(within=30)
            # A rebalance may already have taken its partitions away.
            assert code == 0 or (code == 1 and TAKEN_OVER in worker.log_text()), worker.log_text()[-3000:]
            f.report.kills += 1
            time.sleep(chance.uniform(0.0, 1.5))
            worker.start()
            time.sleep(chance.uniform(0.0, 3.0))
        _all_ready(f)
        _progress(f, "work goes on after the storm")
        return f.finish()


def scaled(folder: Path, seed: int) -> Report:
    """F21: one worker, then three, then one."""
    plan = _plan(seed, workers=3)
    with KafkaBroker(folder / "kafka") as broker, fleet(folder, plan, broker=broker.url) as f:
        f.report.name = f"F21 1-3-1 seed {seed}"
        first, *others = f.workers
        first.start()
        first.wait_ready(f.plan.deadline)
        for _ in range(3):
            for worker in others:
                worker.start()
            until(lambda: all(map(partitions, f.workers)), within=f.plan.deadline, what="everybody has partitions")
            for worker in others:
                assert worker.stop(within=30) == 0, worker.log_text()[-3000:]
            f.report.kills += 2 * len(others)
            until(lambda: len(partitions(first)) == 4, within=f.plan.deadline, what="the first has all partitions")
        return f.finish()


def zombie(folder: Path, seed: int, guarantee: str = "exactly_once") -> Report:
    """F05: a worker sleeps for two sessions, others take over, and it wakes up in the belief that it still owns everything."""
    plan = _plan(seed, workers=2, guarantee=guarantee)
    name = f"F05 zombie {guarantee}"
    with KafkaBroker(folder / "kafka") as broker, _started(folder, plan, broker.url, name) as f:
        for turn in range(3):
            sleeper, other = f.workers[turn % 2], f.workers[1 - turn % 2]
            assert sleeper.process is not None
            sleeper.process.send_signal(signal.SIGSTOP)
            asleep = time.monotonic()
            until(lambda other=other: len(partitions(other)) == 4, within=f.plan.deadline, what="a takeover")  # type: ignore[misc]
            while time.monotonic() < asleep + 2 * plan.session:
                time.sleep(0.05)
            sleeper.process.send_signal(signal.SIGCONT)
            f.report.kills += 1
            _progress(f, "the other one goes on")
            _woken(f, sleeper)
        return f.finish()


def _woken(workers: Fleet, sleeper: Worker) -> None:
    """A worker that slept with something in hand is fenced and ends, and comes back; with empty hands it joins again."""

    def decided() -> bool:
        return not sleeper.running or (TAKEN_OVER not in sleeper.log_text() and bool(partitions(sleeper)))

    until(decided, within=workers.plan.deadline, what="the sleeper has ended or joined again")
    if not sleeper.running:
        assert TAKEN_OVER in sleeper.log_text(), sleeper.log_text()[-3000:]
        sleeper.start()
    until(lambda: all(map(partitions, workers.workers)), within=workers.plan.deadline, what="both have partitions")
    until(lambda: _share(workers) == 4, within=workers.plan.deadline, what="each partition has one owner")


def _share(workers: Fleet) -> int:
    """Partitions that the workers have, those of two owners counted twice."""
    return sum(len(partitions(worker)) for worker in workers.workers)


# -- the broker


def broker_killed(folder: Path, seed: int) -> Report:
    """F06: the broker is killed and comes back; nobody restarts a worker."""
    with (
        KafkaBroker(folder / "kafka") as broker,
        _started(folder, _plan(seed, workers=2), broker.url, "F06 broker") as f,
    ):
        for _ in range(3):
            broker.kill()
            f.report.kills += 1
            time.sleep(1)
            broker.start()
            _progress(f, "work goes on with the broker")
        assert [worker.runs for worker in f.workers] == [1, 1]
        return f.finish()


def broker_killed_while_starting(folder: Path, seed: int) -> Report:
    """F06: the broker is killed while a worker takes its partitions over and reads their state back; nobody starts the worker again."""
    chance = random.Random(seed)
    plan = _plan(seed, rate=1_000, snapshot_every=3600.0)
    with KafkaBroker(folder / "kafka") as broker, _started(folder, plan, broker.url, "F06 broker, starting") as f:
        (worker,) = f.workers
        for _ in range(8):
            _progress(f, "something is committed")
            worker.kill()
            worker.start()
            until(lambda: worker.get("/livez") is not None, within=60, what="the worker has begun", every=0.01)
            time.sleep(chance.uniform(0.0, 0.7))
            broker.kill()
            f.report.kills += 2
            time.sleep(chance.uniform(0.5, 4.0))
            broker.start()
            until(lambda: f.ready() is not None, within=plan.deadline, what="the worker is ready", every=0.1)
            _progress(f, "work goes on with the broker")
        return f.finish()


def broker_silent(folder: Path, seed: int) -> Report:
    """F07: the broker is there and says nothing for three sessions: the worker is not ready, alive, and goes on by itself."""
    plan = _plan(seed)
    with KafkaBroker(folder / "kafka") as broker, _started(folder, plan, broker.url, "F07 silent broker") as f:
        (worker,) = f.workers
        assert broker.process is not None
        broker.process.send_signal(signal.SIGSTOP)
        try:
            f.report.kills += 1
            until(lambda: worker.get("/readyz") is None, within=20, what="the worker says that it is not ready")
            silent = time.monotonic()
            while time.monotonic() < silent + 3 * plan.session:
                assert worker.running, worker.log_text()[-3000:]
                assert worker.get("/livez") is not None
                time.sleep(0.5)
        finally:
            broker.process.send_signal(signal.SIGCONT)
        _progress(f, "work goes on with the broker")
        return f.finish()


def slow_network(folder: Path, seed: int) -> Report:
    """F08: every answer takes 200 ms and one in a hundred packets is lost: no worker is taken for dead; then connections go half open."""
    inside, outside = free_ports(2)
    addresses = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{outside}"}
    plan = _plan(seed, workers=2, session=6.0)
    with (
        KafkaBroker(folder / "kafka", port=inside, extra=addresses),
        Proxy(outside, inside, delay=0.1, loss=0.01) as network,
        _started(folder, plan, f"kafka://127.0.0.1:{outside}", "F08 slow network") as f,
    ):
        until(lambda: all(map(partitions, f.workers)), within=f.plan.deadline, what="both have partitions")
        before = [worker.log_text().count("Successfully synced group") for worker in f.workers]
        slow = time.monotonic()
        while time.monotonic() < slow + 15:
            _progress(f, "work goes on slowly")
        after = [worker.log_text().count("Successfully synced group") for worker in f.workers]
        assert before == after, f"rebalances on a slow network: {before} -> {after}"
        network.half_open()
        f.report.kills += 2
        _progress(f, "work goes on over new connections")
        return f.finish()


# -- topics


def source_expired(folder: Path, seed: int) -> Report:
    """F09: retention passes the committed offset while the worker is away: it says which records it never saw, and goes on."""
    with KafkaBroker(folder / "kafka") as broker, _started(folder, _plan(seed), broker.url, "F09 retention") as f:
        (worker,) = f.workers
        _progress(f, "something is committed")
        worker.kill()
        gone = asyncio.run(_expire(broker))
        f.report.kills += 1
        worker.start()
        worker.wait_ready(f.plan.deadline)
        text = worker.log_text()
        assert all(f"{tp.topic}[{tp.partition}]: records" in text for tp in gone), text[-3000:]
        f.stop_producing()
        f.work_off()
        assert worker.stop(within=30) == 0, worker.log_text()[-3000:]
        # What was deleted cannot be compared; that nothing else is missing the other scenarios show.
        return f.report


async def _expire(broker: KafkaBroker) -> list[TopicPartition]:
    """Delete all records of the source that are there now."""
    async with connect(broker.url) as client:
        reader = client.reader()
        await reader.start()
        tps = [TopicPartition(TopicNames.TRANSACTIONS, number) for number in range(4)]
        committed = await client.committed(APP)
        deadline = time.monotonic() + 30
        ends = await reader.end_offsets(tps)
        while any(ends[tp] <= committed.get(tp, 0) for tp in tps):
            assert time.monotonic() < deadline, "nothing arrives"
            await asyncio.sleep(0.2)
            ends = await reader.end_offsets(tps)
        await reader.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({KafkaPartition(*tp): RecordsToDelete(before_offset=ends[tp]) for tp in tps})
    finally:
        await admin.close()
    return [tp for tp in tps if ends[tp] > committed.get(tp, 0)]


def source_made_anew(folder: Path, seed: int) -> Report:
    """F09: the source topic is deleted and made again: the worker ends with a reason instead of passing over its records."""
    with KafkaBroker(folder / "kafka") as broker, _started(folder, _plan(seed), broker.url, "F09 topic anew") as f:
        (worker,) = f.workers
        _progress(f, "something is committed")
        f.stop_producing()
        worker.kill()
        asyncio.run(_delete(broker, TopicNames.TRANSACTIONS))
        asyncio.run(campaign.seed_topics(broker.url))
        f.report.kills += 1
        worker.start()
        assert worker.process is not None
        assert worker.process.wait(60) == 1, worker.log_text()[-3000:]
        assert "the topic was made anew" in worker.log_text()
        return f.report


async def _delete(broker: KafkaBroker, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        deadline = time.monotonic() + 30
        while topic in await admin.list_topics():
            assert time.monotonic() < deadline, f"{topic} is still there"
            await asyncio.sleep(0.1)
    finally:
        await admin.close()


def changelog_compacted(folder: Path, seed: int) -> Report:
    """F10: the changelog is compacted all the time, and full of aborted transactions, while workers are killed."""
    plan = _plan(seed, kills=12, snapshot_every=3600.0)
    with KafkaBroker(folder / "kafka", extra={"log.cleaner.backoff.ms": "300"}) as broker:
        asyncio.run(_create(broker.url, CHANGELOG, COMPACTING))
        report = campaign.run(folder, plan, broker=broker.url)
        report.name = f"F10 compacted seed {seed}"
        kept, written = asyncio.run(_kept(broker.url, CHANGELOG))
        assert kept < written / 2, f"the changelog was not compacted: {kept} of {written}"
        return report


async def _create(broker: str, topic: str, config: Mapping[str, str]) -> None:
    async with connect(broker) as client:
        await client.create_topic(topic, 4, config)


async def _kept(broker: str, topic: str) -> tuple[int, int]:
    """Records that a reader gets, and offsets that were given out."""
    async with connect(broker) as client:
        reader = client.reader()
        await reader.start()
        tps = [TopicPartition(topic, number) for number in range(4)]
        ends = await reader.end_offsets(tps)
        await reader.stop()
    found = await campaign.read_topic(broker, topic)
    return sum(map(len, found.values())), sum(ends.values())


def changelog_lost(folder: Path, seed: int) -> Report:
    """F10: the changelog is deleted: the state is built again from the source, and what was alerted before is alerted again with its id."""
    with KafkaBroker(folder / "kafka") as broker, _started(folder, _plan(seed), broker.url, "F10 lost") as f:
        (worker,) = f.workers
        f.report.repeats_allowed = True
        _progress(f, "something is committed")
        worker.kill()
        asyncio.run(_delete(broker, CHANGELOG))
        f.report.kills += 1
        worker.start()
        _all_ready(f)
        return f.finish()


# -- the disk


def damaged(folder: Path, seed: int, store: str) -> Report:
    """F24: local state is damaged in all ways while the worker is away: what cannot be used is found and built again."""
    chance = random.Random(seed)
    with KafkaBroker(folder / "kafka") as broker:
        plan = _plan(seed, store=store)
        with _started(folder, plan, broker.url, f"F24 damaged {store}") as f:
            (worker,) = f.workers
            pattern = "snapshots/**/*.snapshot" if store == "memory" else "rocksdb/**/*"
            where = worker.folder / "data" / APP
            for turn in range(6):
                _progress(f, "something is committed")
                until(lambda: any(where.glob(pattern)), within=60, what="there is local state")
                if turn % 2:
                    assert worker.stop(within=30) == 0, worker.log_text()[-3000:]
                else:
                    worker.kill()
                files = [path for path in where.glob(pattern) if path.is_file() and "fraud" in str(path)]
                for path in files if store == "memory" else chance.sample(files, min(4, len(files))):
                    _damage(path, chance)
                f.report.kills += 1
                worker.start()
                _ready_again(f)
            return f.finish()


def _ready_again(workers: Fleet) -> None:
    """Ready, perhaps with a start more: a damaged block that is found late ends the worker, and the next start is without it."""
    (worker,) = workers.workers

    def ready() -> bool:
        if not worker.running:
            assert "damaged" in worker.log_text(), worker.log_text()[-3000:]
            worker.start()
        return worker.get("/readyz") is not None

    started = time.monotonic()
    until(ready, within=workers.plan.deadline, what="the worker is ready", every=0.1)
    workers.report.ready_seconds.append(time.monotonic() - started)


def _damage(path: Path, chance: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    match chance.choice(("bit", "torn", "deleted", "zeros")):
        case "bit" if raw:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            path.write_bytes(raw)
        case "torn":
            path.write_bytes(raw[: chance.randrange(len(raw) + 1)])
        case "zeros":
            start = chance.randrange(len(raw) + 1)
            path.write_bytes(raw[:start] + bytes(len(raw) - start))
        case _:
            path.unlink()


# -- a function


def blocked_loop(folder: Path, seed: int) -> Report:
    """F41: a function holds the event loop for longer than the session: the worker keeps its place in the group."""
    plan = _plan(seed, workers=2)
    with KafkaBroker(folder / "kafka") as broker, fleet(folder, plan, broker=broker.url) as f:
        f.report.name = f"F41 blocked seed {seed}"
        first, second = f.workers
        first.start()
        first.wait_ready(f.plan.deadline)
        second.env["FAULT_BLOCK"] = f"20:{1.5 * plan.session}"
        second.start()
        until(lambda: all(map(partitions, f.workers)), within=f.plan.deadline, what="both have partitions")
        joined = first.log_text().count("Successfully synced group")
        until(lambda: second.get("/livez") is None, within=f.plan.deadline, what="the loop is held", every=0.1)
        until(lambda: second.get("/readyz") is not None, within=f.plan.deadline, what="the loop goes on")
        f.report.kills += 1
        _progress(f, "work goes on")
        assert second.running, second.log_text()[-3000:]
        assert first.log_text().count("Successfully synced group") == joined, "the group took the worker for dead"
        return f.finish()


class Scenario(Protocol):
    def __call__(self, folder: Path, seed: int) -> Report: ...


SCENARIOS: Mapping[str, Scenario] = {
    "F02": all_at_once,
    "F03-F04-F21": rolling,
    "F05": zombie,
    "F05-at-least-once": lambda folder, seed: zombie(folder, seed, "at_least_once"),
    "F06": broker_killed,
    "F06-starting": broker_killed_while_starting,
    "F07": broker_silent,
    "F08": slow_network,
    "F09-retention": source_expired,
    "F09-anew": source_made_anew,
    "F10-compacted": changelog_compacted,
    "F10-lost": changelog_lost,
    "F21-scaled": scaled,
    "F24-snapshot": lambda folder, seed: damaged(folder, seed, "memory"),
    "F24-rocksdb": lambda folder, seed: damaged(folder, seed, "rocksdb"),
    "F41": blocked_loop,
}
