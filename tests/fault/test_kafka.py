"""The faults of the campaign and of a cluster, on a real Kafka: nothing lost, nothing doubled, the state exact."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.transport.brokers import connect
from app.transport.client import NewRecord
from models.topics import TopicNames
from tests.fault import campaign
from tests.fault.campaign import APP, TAKEN_OVER, Fleet, Plan, Report
from tests.fault.scenarios import partitions
from tests.support.kafka import KafkaBroker, NoKafka, jars
from tests.support.waiting import until
from tests.support.worker import Worker
from tests.support.workload import transactions

pytestmark = pytest.mark.slow


def test_kills_lose_nothing_double_nothing_and_leave_the_state_exact(tmp_path: Path, kafka_url: str) -> None:
    report = campaign.run(tmp_path, Plan(seed=21, kills=4, count=50_000, patience=4), broker=kafka_url)
    assert report.expected > 100
    assert report.exact, report.row()


def test_at_least_once_repeats_alerts_with_equal_ids_only_and_leaves_the_state_exact(
    tmp_path: Path, kafka_url: str
) -> None:
    plan = Plan(seed=22, kills=3, count=50_000, patience=4, guarantee="at_least_once", store="rocksdb")
    report = campaign.run(tmp_path, plan, broker=kafka_url)
    assert report.expected > 100
    assert report.exact, report.row()


@pytest.fixture
def two(tmp_path: Path, kafka_url: str) -> Iterator[Fleet]:
    """Two workers of one application while transactions arrive."""
    with campaign.fleet(tmp_path, Plan(seed=5, kills=0, count=50_000, workers=2, session=6), broker=kafka_url) as pair:
        for worker in pair.workers:
            worker.start()
        until(pair.all_ready, within=60, what="both are ready")
        shared(pair)
        yield pair


def shared(pair: Fleet) -> None:
    until(lambda: all(map(partitions, pair.workers)), within=60, what="both have partitions")


def has_all(worker: Worker) -> None:
    until(lambda: len(partitions(worker)) == 4, within=60, what="the other one has all partitions")


def exact(pair: Fleet) -> None:
    report = pair.finish()
    assert report.expected > 100
    assert report.exact, report.row()


def test_a_worker_that_ends_in_order_hands_its_partitions_over_without_waiting_for_its_session(two: Fleet) -> None:
    first, second = two.workers
    assert first.stop(within=30) == 0
    assert "LeaveGroup request succeeded" in first.log_text()
    has_all(second)
    first.start()
    shared(two)
    exact(two)


def test_a_killed_worker_is_replaced_when_its_session_is_over(two: Fleet) -> None:
    first, second = two.workers
    first.kill()
    has_all(second)
    exact(two)


def test_a_worker_that_slept_through_its_session_with_a_part_in_hand_is_fenced_and_ends(two: Fleet) -> None:
    first, second = two.workers
    first.kill()
    first.env["FAILPOINT"] = "before-write:30:STOP"
    first.start()
    shared(two)
    has_all(second)  # the first has fallen asleep, and its session is over
    assert first.process is not None
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(60) == 1
    assert TAKEN_OVER in first.log_text()
    exact(two)


def test_what_arrives_between_a_seek_and_the_first_fetch_is_not_passed_over(tmp_path: Path, kafka_url: str) -> None:
    plan = Plan(seed=6, kills=0, count=50_000, rate=600)
    with campaign.fleet(tmp_path, plan, broker=kafka_url) as alone:
        (worker,) = alone.workers
        worker.env["FAULT_SLOW_SEEK"] = "1.5"
        for _ in range(3):
            worker.start()
            worker.wait_ready(60)
            worker.kill()
        report = alone.finish()
    assert report.expected > 100
    assert report.exact, report.row()


def test_a_broker_that_is_killed_and_comes_back_costs_nothing_but_time(tmp_path: Path) -> None:
    sent = list(transactions(9_000, seed=3))
    report = Report(seed=3, transactions=len(sent))
    with own_broker(tmp_path / "kafka") as broker:
        asyncio.run(campaign.seed_topics(broker.url))
        asyncio.run(append(broker.url, sent[:3_000]))
        with Worker(tmp_path / "worker", broker=broker.url, FAMULUS_APP_ID=APP) as worker:
            worker.wait_ready(60)
            asyncio.run(append(broker.url, sent[3_000:6_000]))
            broker.kill()
            until(lambda: worker.get("/readyz") is None, within=30, what="the worker says that it is not ready")
            assert worker.running
            broker.start()
            asyncio.run(append(broker.url, sent[6_000:]))
            until(
                lambda: asyncio.run(campaign.lag(broker.url)) == 0,
                within=90,
                what="everything is worked off",
                every=0.3,
            )
            worker.wait_ready(60)
            report.compare_state(broker.url, worker)
            assert worker.stop(within=30) == 0
            assert worker.runs == 1
        report.compare_outputs(broker.url)
    assert report.expected > 100
    assert report.exact, report.row()


async def append(url: str, sent: list[tuple[str, bytes]]) -> None:
    async with connect(url) as client:
        await client.append(TopicNames.TRANSACTIONS, [NewRecord(user.encode(), value) for user, value in sent])


def own_broker(folder: Path) -> KafkaBroker:
    """A broker that a test may kill."""
    try:
        jars()
    except NoKafka as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    return KafkaBroker(folder)
