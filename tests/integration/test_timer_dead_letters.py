"""A timer that raises in a real worker, on both logs: one dead letter each, also over kill -9, and nothing around it is affected."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.partitioning import partition_of
from tests.integration.test_fraud_job import Log
from tests.support.waiting import until
from tests.support.worker import BIN, Worker

NOW = int(time.time() * 1000)
HOUR = 3_600_000
BROKEN = [f"broken{n}" for n in range(10)]
FINE = [f"fine{n}" for n in range(10)]


def event(user: str, timestamp: int) -> tuple[bytes, bytes]:
    value = {"event_id": f"{user}-{timestamp}", "user_id": user, "event_type": "CLICK", "timestamp": timestamp}
    return user.encode(), json.dumps(value).encode()


def closers() -> list[str]:
    """One user per partition, whose event lets the sessions of the others end."""
    by_partition = {partition_of(f"closer{n}".encode(), 4): f"closer{n}" for n in range(40)}
    assert len(by_partition) == 4
    return list(by_partition.values())


def famulus(worker: Worker, *args: str) -> list[Any]:
    done = subprocess.run(
        [str(BIN / "famulus"), *args, "--json"], env=worker.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("log_kind", ["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def test_a_timer_that_raises_is_one_dead_letter_also_over_a_kill(
    log_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    broker = request.getfixturevalue("kafka_url") if log_kind == "kafka" else None
    worker = Worker(
        tmp_path,
        broker=broker,
        command=[sys.executable, "-m", "tests.integration.breaking_timers"],
        FAMULUS_JOBS="sessions",
    )
    log = Log(worker.broker)
    log.append("user-events", [event(user, NOW - 2 * HOUR) for user in (*BROKEN, *FINE)])
    with worker:
        worker.wait_ready(60)
        until(lambda: len(log.read("session-insights")) == 20, within=30, what="every session has begun")
        log.append("user-events", [event(user, NOW) for user in closers()])
        until(lambda: log.read("user-events.dlq"), within=30, what="a timer is a dead letter", every=0.01)
        worker.kill()
        worker.start()
        worker.wait_ready(60)
        until(lambda: len(log.read("session-summaries")) == 10, within=30, what="the others' sessions have ended")
        until(lambda: len(log.read("user-events.dlq")) == 10, within=30, what="all ten are dead letters")
        until(lambda: len(log.read("session-insights")) == 24, within=30, what="the records went on")
        letters = famulus(worker, "dlq", "show", "user-events")
        assert worker.stop() == 0
    assert sorted(letter["key"] for letter in letters) == BROKEN
    for letter in letters:
        assert letter["value"] is None
        assert letter["timer"] == {"domain": "event", "timestamp": NOW - 2 * HOUR + HOUR // 2}
        assert letter["error"] == {"class": "ValueError", "message": f"no session ends for {letter['key']}"}
        assert letter["origin"] == {"topic": "user-events", "partition": letter["partition"], "offset": -1}
    assert sorted(json.loads(one.value)["user_id"] for one in log.read("session-summaries")) == FINE
    # Replaying passes them over: they are no records.
    assert famulus(worker, "dlq", "replay", "user-events") == [{"by_topic": {}, "skipped": 10}]
    assert len(log.read("user-events")) == 24
