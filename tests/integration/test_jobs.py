"""The jobs in a real worker with a real PostgreSQL and a real Redis, which fail and come back."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_fraud_job import Log
from tests.support.waiting import until
from tests.support.worker import Worker

NOW = int(time.time() * 1000)


def events(first: int, count: int, users: int = 10) -> list[tuple[bytes | None, bytes | None]]:
    return [
        (
            user.encode(),
            json.dumps({"event_id": f"e{n}", "user_id": user, "event_type": "CLICK", "timestamp": NOW + n}).encode(),
        )
        for n in range(first, first + count)
        for user in [f"user{1 + n % users}"]
    ]


def enriched(log: Log) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in log.read("enriched-user-events")]


def origins(log: Log, first: int) -> set[str]:
    return {one["enrichment"] for one in enriched(log) if int(one["event"]["event_id"][1:]) >= first}


def test_events_flow_whatever_becomes_of_redis_and_postgres(tmp_path: Path, own_postgres: Any, redis: Any) -> None:
    worker = Worker(
        tmp_path,
        FAMULUS_JOBS="enrichment",
        FAMULUS_POSTGRES_URL=own_postgres.url,
        FAMULUS_REDIS_URL=redis.url,
    )
    log = Log(worker.broker)
    sent = 0

    def flow(count: int = 50) -> int:
        """Send some more and wait until they are through; the number of the first."""
        nonlocal sent
        first, sent = sent, sent + count
        log.append("user-events", events(first, count))
        until(lambda: len(enriched(log)) == sent, within=20, what=f"{sent} enriched events")
        return first

    with worker:
        worker.wait_ready()
        flow()
        assert origins(log, flow()) == {"cache"}
        redis.kill()
        assert origins(log, flow()) == {"database"}
        own_postgres.kill()
        assert origins(log, flow()) == {"default"}
        until(lambda: origins(log, flow(20)) == {"default"}, within=10, what="events flow with both down")
        own_postgres.start()
        until(lambda: "database" in origins(log, flow(10)), within=20, what="PostgreSQL is used again")
        redis.start()
        until(lambda: origins(log, flow(10)) == {"cache"}, within=20, what="Redis is used again")
        assert worker.stop() == 0
    found = enriched(log)
    assert sorted(int(one["event"]["event_id"][1:]) for one in found) == list(range(sent))
    assert {one["profile"]["name"] for one in found if one["event"]["user_id"] == "user1"} <= {"John Doe", "unknown"}


@pytest.mark.parametrize(
    ("log_kind", "point"),
    [("embedded", "before-write:3"), pytest.param("kafka", "kafka-after-send:3", marks=pytest.mark.slow)],
)
def test_unordered_look_ups_lose_and_double_nothing_over_a_kill(
    log_kind: str, point: str, tmp_path: Path, redis: Any, request: pytest.FixtureRequest
) -> None:
    worker = Worker(
        tmp_path,
        broker=request.getfixturevalue("kafka_url") if log_kind == "kafka" else None,
        command=[sys.executable, "-m", "tests.fault.failing_worker"],
        FAMULUS_JOBS="enrichment",
        FAMULUS_REDIS_URL=redis.url,
        FAMULUS_ENRICHMENT_ORDER="unordered",
        FAILPOINT=point,
    )
    log = Log(worker.broker)
    log.append("user-events", events(0, 3_000, users=1_000))
    with worker:
        until(lambda: not worker.running, within=60, what="it was killed with answers in hand")
        worker.kill()
        assert worker.process is not None
        assert worker.process.returncode == -9
        assert len(enriched(log)) < 3_000
        del worker.env["FAILPOINT"]
        log.append("user-events", events(3_000, 500, users=1_000))
        worker.start()
        until(lambda: len(enriched(log)) >= 3_500, within=30, what="all events are through")
        assert worker.stop() == 0
    assert sorted(int(one["event"]["event_id"][1:]) for one in enriched(log)) == list(range(3_500))


def test_operators_that_share_a_topic_may_be_added_later_and_begin_at_its_start(tmp_path: Path) -> None:
    worker = Worker(tmp_path, FAMULUS_JOBS="sessions")
    log = Log(worker.broker)
    log.append("user-events", events(0, 100))
    with worker:
        until(lambda: len(log.read("session-insights")) == 100, within=30, what="all events are in sessions")
        assert worker.stop() == 0
        worker.env["FAMULUS_JOBS"] = "sessions,profiles"
        worker.start()
        worker.wait_ready()
        until(
            lambda: (worker.get("/v1/state/profiles/user-counts/user1") or {}).get("value") == 10,
            within=10,
            what="the new operator has seen every event",
        )
    assert len(log.read("session-insights")) == 100
