"""State that a worker keeps on its own disk: used by the next start, and never believed against the changelog."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_fraud_job import VELOCITY, Log, tx
from tests.support.waiting import until
from tests.support.worker import Worker

NOW = int(time.time() * 1000)


def known(worker: Worker, user: str) -> int:
    """Transactions that the worker remembers of a user."""
    answer: Any = worker.get(f"/v1/state/fraud/history/{user}")
    return len(answer["value"]) if answer else 0


def read_back(worker: Worker) -> int:
    """Changelog records of the fraud operator that the running worker read at its start."""
    found = re.findall(r"(\d+) changelog records read back", worker.log_text())
    return int(found[-1])


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_a_clean_stop_leaves_state_of_which_the_next_start_reads_only_the_last_parts(
    store: str, tmp_path: Path
) -> None:
    worker = Worker(tmp_path, FAMULUS_STORE=store)
    log = Log(worker.broker)
    log.rules(VELOCITY)
    sent = 0
    with worker:
        worker.wait_ready()
        for number in range(12):
            log.transactions(*(tx(sent + n, user=f"u{n}", timestamp=NOW - 60_000 + sent) for n in range(20)))
            sent += 20
            until(lambda want=number + 1: known(worker, "u0") == want, within=10, what="the transactions are in")  # type: ignore[misc]
        assert worker.stop() == 0
    with worker:
        worker.wait_ready()
        assert read_back(worker) <= 4 * 25  # the last part of each of four partitions; all together there were 12
        for n in range(20):
            until(lambda n=n: known(worker, f"u{n}") == sent // 20, within=10, what="the state is as it was")  # type: ignore[misc]
    fired = [(alert["rule_id"], alert["transaction_id"]) for alert in log.alerts()]
    assert len(fired) == len(set(fired)) == 20 * 10


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_a_killed_worker_goes_on_with_exactly_the_committed_state(store: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path, FAMULUS_STORE=store)
    log = Log(worker.broker)
    log.rules(VELOCITY)
    sent = 0
    for _ in range(3):
        with worker:
            worker.wait_ready()
            log.transactions(*(tx(sent + n, user=f"u{n % 10}", timestamp=NOW - 60_000 + sent + n) for n in range(200)))
            sent += 200
            half = sent - 100
            until(lambda half=half: len(log.alerts()) >= half, within=15, what="about half is judged")  # type: ignore[misc]
            worker.kill()
    with worker:
        until(lambda: len(log.alerts()) >= sent - 20, within=20, what="everything is judged")
        fired = [alert["transaction_id"] for alert in log.alerts()]
        assert len(fired) == len(set(fired)) == sent - 20
        worker.wait_ready()
        assert [known(worker, f"u{n}") for n in range(10)] == [sent // 10] * 10


def test_local_state_of_another_log_is_discarded(tmp_path: Path) -> None:
    worker = Worker(tmp_path, FAMULUS_STORE="rocksdb://")
    log = Log(worker.broker)
    log.rules(VELOCITY)
    log.transactions(*(tx(n, user="u", timestamp=NOW - 1000 + n) for n in range(3)))
    with worker:
        until(lambda: known(worker, "u") == 3, within=20, what="the transactions are in")
        assert worker.stop() == 0
    other = Worker(tmp_path, broker=f"embedded://{tmp_path}/other", FAMULUS_STORE="rocksdb://")
    log = Log(other.broker)
    log.rules(VELOCITY)
    log.transactions(tx(9, user="v", timestamp=NOW))
    with other:
        until(lambda: known(other, "v") == 1, within=20, what="the other log is processed")
        assert known(other, "u") == 0
        assert "is discarded" in other.log_text()


def test_a_damaged_database_is_rebuilt_from_the_changelog(tmp_path: Path) -> None:
    worker = Worker(tmp_path, FAMULUS_STORE="rocksdb://")
    log = Log(worker.broker)
    log.rules(VELOCITY)
    log.transactions(*(tx(n, user=f"u{n}", timestamp=NOW - 1000 + n) for n in range(50)))
    with worker:
        until(lambda: [known(worker, f"u{n}") for n in range(50)] == [1] * 50, within=20, what="all are in")
        assert worker.stop() == 0
    damaged = 0
    for manifest in (tmp_path / "data").rglob("MANIFEST-*"):
        manifest.write_bytes(manifest.read_bytes()[:40] + b"\xff" * 40)
        damaged += 1
    assert damaged
    with worker:
        until(lambda: [known(worker, f"u{n}") for n in range(50)] == [1] * 50, within=20, what="all are back")
        assert "is rebuilt from the changelog" in worker.log_text()
