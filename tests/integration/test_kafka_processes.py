"""``famulus worker --processes``: several workers under one parent, on a real Kafka."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_kafka_worker import alerts, seed
from tests.support.waiting import until
from tests.support.worker import BIN, Worker

PROCESSES = 2


@pytest.fixture
def parent(tmp_path: Path, kafka_url: str) -> Iterator[Worker]:
    asyncio.run(seed(kafka_url, 40))
    command = [str(BIN / "famulus"), "worker", "--processes", str(PROCESSES)]
    with Worker(tmp_path, broker=kafka_url, command=command) as running:
        yield running


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def children(parent: Worker) -> list[int]:
    assert parent.process is not None
    listed = Path(f"/proc/{parent.process.pid}/task/{parent.process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def joins(parent: Worker, pid: int) -> int:
    """How often the worker with this process id has joined the group."""
    return sum(f"[{pid}]" in line and "(Re-)joining" in line for line in parent.log_text().splitlines())


def all_ready(parent: Worker) -> bool:
    return all(ready(parent.port + number) for number in range(PROCESSES))


def test_a_killed_worker_is_started_again_and_takes_its_own_place(parent: Worker) -> None:
    until(lambda: all_ready(parent), within=90, what="both workers are ready")
    victim, survivor = children(parent)
    joined = joins(parent, survivor)
    os.kill(victim, signal.SIGKILL)
    started = time.monotonic()
    until(lambda: victim not in children(parent) and all_ready(parent), within=90, what="both are ready again")
    # Its session of ten seconds did not have to time out.  A slow machine may need as long for a start, but then nobody lost his place.
    assert time.monotonic() - started < 9 or joins(parent, survivor) == joined
    asyncio.run(seed(parent.broker, 20))
    until(lambda: len(alerts(parent)) == 60, within=30, what="sixty alerts, none twice")
    pids = children(parent)
    assert len(pids) == PROCESSES
    assert parent.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_end_with_a_parent_that_is_killed(parent: Worker) -> None:
    until(lambda: all_ready(parent), within=90, what="both workers are ready")
    pids = children(parent)
    parent.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within=60, what="the workers have ended")


def test_wrong_settings_end_the_parent_at_once(tmp_path: Path) -> None:
    for processes, env in (("many", {}), ("0", {}), ("2", {"FAMULUS_WEB_PORT": "65535"})):
        command = [str(BIN / "famulus"), "worker", "--processes", processes]
        with Worker(tmp_path, command=command, **env) as parent:
            assert parent.process is not None
            assert parent.process.wait(60) == 2, parent.log_text()
            assert "--processes" in parent.log_text() or "FAMULUS_WEB_PORT" in parent.log_text()
