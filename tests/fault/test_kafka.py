"""The faults of the campaign and of a cluster, on a real Kafka: nothing lost, nothing doubled, the state exact."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.transport.client import NewRecord, connect
from models.topics import TopicNames
from tests.fault import campaign
from tests.fault.campaign import APP, Report
from tests.support.kafka import KafkaBroker, NoKafka, jars
from tests.support.waiting import until
from tests.support.worker import Worker
from tests.support.workload import transactions

pytestmark = pytest.mark.slow


def test_kills_lose_nothing_double_nothing_and_leave_the_state_exact(tmp_path: Path, kafka_url: str) -> None:
    report = campaign.run(tmp_path, seed=21, kills=5, count=8_000, broker=kafka_url)
    assert report.expected > 1_000
    assert report.exact, report.row()
    assert report.ready_seconds[0] < 10  # a killed worker takes its own place; no session has to time out


def test_at_least_once_loses_nothing_and_leaves_the_state_exact(tmp_path: Path, kafka_url: str) -> None:
    report = campaign.run(
        tmp_path, seed=22, kills=3, count=6_000, broker=kafka_url, FAMULUS_PROCESSING_GUARANTEE="at_least_once"
    )
    assert report.expected > 1_000
    assert (report.lost, report.state_differs) == (0, 0), report.row()


class Two:
    """Two workers of one application while transactions arrive."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.broker = broker
        self.report = Report(seed=0, transactions=20_000)
        asyncio.run(campaign.seed_topics(broker))
        self.first, self.second = (Worker(folder / name, broker=broker, FAMULUS_APP_ID=APP) for name in ("a", "b"))
        self.producing = campaign._produce_beside(broker, self.report.transactions, 5, slow=6)
        for worker in (self.first, self.second):
            worker.start()
        for worker in (self.first, self.second):
            worker.wait_ready()

    def lag(self) -> int:
        return asyncio.run(campaign.lag(self.broker))

    def end(self) -> None:
        for worker in (self.first, self.second):
            worker.kill()
        self.producing.kill()
        self.producing.wait(10)

    def compare(self, owner: Worker) -> None:
        """``owner`` has all partitions: once everything is worked off, state and outputs equal the oracle."""
        until(lambda: self.producing.poll() is not None, within=90, what="the producer is done")
        until(lambda: self.lag() == 0, within=60, what="all transactions are worked off", every=0.3)
        campaign._compare_state(owner, self.report)
        assert owner.stop() == 0, owner.log_text()[-3000:]
        campaign._compare_outputs(self.broker, self.report)
        assert self.report.expected > 1_000
        assert self.report.exact, self.report.row()


@pytest.fixture
def two(tmp_path: Path, kafka_url: str) -> Iterator[Two]:
    pair = Two(tmp_path, kafka_url)
    yield pair
    pair.end()


def test_workers_that_come_and_go_in_order_hand_their_partitions_over_at_once(two: Two) -> None:
    for _ in range(2):
        started = time.monotonic()
        assert two.first.stop() == 0
        until(lambda: len(partitions(two.second)) == 4, within=15, what="the other one has all partitions")
        assert time.monotonic() - started < 8
        two.first.start()
        two.first.wait_ready()
        until(lambda: 0 < len(partitions(two.first)) < 4, within=15, what="the partitions are shared again")
    assert two.first.stop() == 0
    until(lambda: len(partitions(two.second)) == 4, within=15, what="the other one has all partitions")
    two.compare(two.second)


def test_a_killed_worker_is_replaced_when_its_session_is_over(two: Two) -> None:
    two.first.kill()
    started = time.monotonic()
    until(lambda: len(partitions(two.second)) == 4, within=30, what="the other one has all partitions")
    assert time.monotonic() - started < 14
    two.compare(two.second)


def test_a_worker_that_slept_through_its_session_writes_nothing_more(two: Two) -> None:
    assert two.first.process is not None
    two.first.process.send_signal(signal.SIGSTOP)
    until(lambda: len(partitions(two.second)) == 4, within=30, what="the other one has all partitions")
    two.first.process.send_signal(signal.SIGCONT)
    # What it has in hand is refused, and it ends; with nothing in hand it may come back as a member.
    until(
        lambda: not two.first.running or partitions(two.first) != {0, 1, 2, 3} - partitions(two.second),
        within=20,
        what="the sleeper is fenced, or has joined again",
    )
    if two.first.running:
        two.first.stop()
    else:
        assert two.first.process.returncode == 1
        assert "another worker has taken over" in two.first.log_text()
    until(lambda: len(partitions(two.second)) == 4, within=30, what="the other one has all partitions again")
    two.compare(two.second)


def partitions(worker: Worker) -> set[int]:
    """Partitions of the fraud operator that the worker has open."""
    answer = worker.get("/v1/operators") or {"operators": []}
    for operator in answer["operators"]:
        if operator["uid"] == "fraud":
            return {one["partition"] for one in operator["partitions"]}
    return set()


def test_a_broker_that_is_killed_and_comes_back_costs_nothing_but_time(tmp_path: Path) -> None:
    sent = list(transactions(9_000, seed=3))
    report = Report(seed=3, transactions=len(sent))
    with own_broker(tmp_path / "kafka") as broker:
        asyncio.run(campaign.seed_topics(broker.url))
        asyncio.run(append(broker.url, sent[:3_000]))
        with Worker(tmp_path / "worker", broker=broker.url, FAMULUS_APP_ID=APP) as worker:
            worker.wait_ready()
            asyncio.run(append(broker.url, sent[3_000:6_000]))
            broker.kill()
            until(lambda: worker.get("/readyz") is None, within=15, what="the worker says that it is not ready")
            assert worker.running
            broker.start()
            asyncio.run(append(broker.url, sent[6_000:]))
            until(
                lambda: asyncio.run(campaign.lag(broker.url)) == 0,
                within=60,
                what="everything is worked off",
                every=0.3,
            )
            worker.wait_ready()
            campaign._compare_state(worker, report)
            assert worker.stop() == 0
            assert worker.runs == 1
        campaign._compare_outputs(broker.url, report)
    assert report.expected > 500
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
