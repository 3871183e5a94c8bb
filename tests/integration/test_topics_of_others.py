"""Topics that somebody else made, with numbers of partitions of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from app.transport.brokers import connect
from app.transport.client import NewRecord
from tests.integration.test_fraud_job import HIGH, Log, tx
from tests.support.waiting import until
from tests.support.worker import BIN, Worker


def _make(broker: str, topic: str, partitions: int, *records: NewRecord) -> None:
    async def go() -> None:
        async with connect(broker) as client:
            await client.create_topic(topic, partitions)
            await client.append(topic, records)

    asyncio.run(go())


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_a_source_with_six_partitions_is_worked_on_whole(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    worker = Worker(
        tmp_path,
        broker=request.getfixturevalue("kafka_url") if kind == "kafka" else None,
        FAMULUS_JOBS="fraud",
    )
    log = Log(worker.broker)
    sent = [tx(n, user=f"user{n}") for n in range(60)]
    records = [NewRecord(one["user_id"].encode(), json.dumps(one).encode()) for one in sent]
    _make(worker.broker, "user-transactions", 6, *records, NewRecord(b"user1", b"no JSON", partition=5))
    log.rules(HIGH)
    with worker:
        worker.wait_ready(60)
        until(lambda: len(log.alerts()) == 60, within=20, what="an alert for each transaction")
        (dead,) = until(lambda: log.read("user-transactions.dlq"), within=60, what="the dead letter")
        assert dict(dead.headers)["origin-partition"] == b"5"
        for one in sent:
            found = worker.get(f"/v1/state/fraud/history/{one['user_id']}")
            assert found is not None
            assert found["value"][0]["timestamp"] == one["timestamp"]
        assert worker.get("/v1/state/fraud/history?limit=100")["partial"] is False


def test_state_that_was_split_for_another_number_of_partitions_ends_the_worker_with_the_way_out(tmp_path: Path) -> None:
    worker = Worker(tmp_path, FAMULUS_JOBS="fraud")
    _make(worker.broker, "famulus-fraud-changelog", 4)
    _make(worker.broker, "user-transactions", 6)
    began = time.monotonic()
    with worker:
        assert worker.process is not None
        assert worker.process.wait(60) == 1
    assert time.monotonic() - began < 10
    assert (
        "has 4 partitions and its source user-transactions has 6; start under a new FAMULUS_APP_ID" in worker.log_text()
    )


def test_a_rules_topic_with_several_partitions_is_refused_because_its_records_have_no_one_order(tmp_path: Path) -> None:
    worker = Worker(tmp_path, FAMULUS_JOBS="fraud")
    _make(worker.broker, "fraud-rules", 3)
    with worker:
        assert worker.process is not None
        assert worker.process.wait(60) == 1
    assert "topic fraud-rules has 3 partitions and must have 1" in worker.log_text()


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_rules_that_the_log_will_forget_are_named_by_the_worker_and_by_the_doctor(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    worker = Worker(
        tmp_path,
        broker=request.getfixturevalue("kafka_url") if kind == "kafka" else None,
        FAMULUS_JOBS="fraud",
    )
    _make(worker.broker, "fraud-rules", 1)  # the broker's defaults: a week
    finding = "has retention.ms=604800000: what is older than 7 days is lost, and it must be kept for ever"
    with worker:
        worker.wait_ready(60)
        assert f"topic fraud-rules {finding}; to mend it, " in worker.log_text()
        doctor = subprocess.run(
            [BIN / "famulus", "doctor", "--json"], env=worker.env, capture_output=True, text=True, timeout=60
        )
    assert doctor.returncode == 1
    wrong = [check for check in json.loads(doctor.stdout)["checks"] if check["verdict"] == "fail"]
    assert [(check["name"], check["finding"]) for check in wrong] == [("topic fraud-rules", finding)]
    assert "retention.ms" in wrong[0]["fix"]


def test_a_job_that_joins_later_begins_at_the_start_of_a_source_that_another_job_has_read(tmp_path: Path) -> None:
    event = {"event_type": "PAGE_VIEW", "page": "/", "user_id": "u1"}
    now = int(time.time() * 1000)
    events: list[dict[str, Any]] = [{**event, "event_id": f"e{n}", "timestamp": now + n} for n in range(5)]
    first = Worker(tmp_path, FAMULUS_JOBS="sessions")
    _make(first.broker, "user-events", 4, *(NewRecord(b"u1", json.dumps(one).encode()) for one in events))
    with first:
        first.wait_ready()
        until(lambda: first.get("/v1/state/sessions/metrics/u1"), within=60, what="the first job has read the events")
    with Worker(tmp_path, broker=first.broker, FAMULUS_JOBS="profiles") as later:
        later.wait_ready()
        found = until(lambda: later.get("/v1/state/profiles/profile/u1"), within=60, what="the later job has read them")
        assert found["value"]["event_count"] == 5
