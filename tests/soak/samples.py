"""What is measured again and again: a worker's process from /proc and its probes, and how far the log has grown."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.transport.brokers import connect
from app.transport.client import BrokerClient
from tables.log import LogReader, TopicPartition
from tests.bench.machine import cpu_seconds, rss_mb
from tests.support.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A worker at one moment.  ``seconds`` since the soak began, ``cpu`` seconds used so far, ``memory`` resident MB."""

    seconds: float
    memory: float
    cpu: float
    files: int
    sockets: int
    threads: int
    ready: bool


def sample(worker: Worker, seconds: float) -> Sample:
    """Look at a worker as an orchestrator and Prometheus do, then at its process."""
    if worker.process is None or not worker.running:
        raise AssertionError(f"a worker ended by itself: {worker.log_file}\n{worker.log_text()[-3000:]}")
    ready = worker.get("/readyz") is not None
    metrics(worker)
    pid = worker.process.pid
    targets = open_files(pid)
    sockets = sum(target.startswith("socket:") for target in targets)
    return Sample(
        seconds=seconds,
        memory=rss_mb(pid),
        cpu=cpu_seconds(pid),
        files=len(targets) - sockets,
        sockets=sockets,
        threads=len(os.listdir(f"/proc/{pid}/task")),
        ready=ready,
    )


def metrics(worker: Worker) -> dict[str, float]:
    """Each line of the worker's metrics, name with labels to value; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    named = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in named}


def open_files(pid: int) -> list[str]:
    """What each descriptor of a process leads to."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


@contextlib.asynccontextmanager
async def looking(broker: str) -> AsyncIterator[tuple[BrokerClient, LogReader]]:
    """A client of the log and a reader that has been started."""
    async with connect(broker) as client:
        reader = client.reader()
        await reader.start()
        try:
            yield client, reader
        finally:
            await reader.stop()


async def ends(client: BrokerClient, reader: LogReader) -> dict[TopicPartition, int]:
    """End offsets of every topic that is not the broker's own."""
    tps = [
        TopicPartition(topic, number)
        for topic, count in (await client.topics()).items()
        if not topic.startswith("__")
        for number in range(count)
    ]
    return dict(await reader.end_offsets(tps))


def grown(before: Mapping[TopicPartition, int], after: Mapping[TopicPartition, int]) -> dict[str, int]:
    """Offsets by which each topic has grown, those that have not left out."""
    found: dict[str, int] = {}
    for tp, end in after.items():
        more = end - before.get(tp, 0)
        if more:
            found[tp.topic] = found.get(tp.topic, 0) + more
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes that the files of a folder take, whatever appears and goes meanwhile."""
    return sum(_size(path) for path in _files(folder))


def _files(folder: Path) -> Iterable[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield Path(root, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
