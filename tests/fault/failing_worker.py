"""A worker that kills itself, with SIGKILL, at the N-th passage of a named point: ``FAILPOINT=NAME:N``; ``NAME:N:STOP`` pauses it there.

The points are patched in from outside; the product knows nothing of them.  Further variables, for what would take too long otherwise:
``FAULT_SNAPSHOT_SECONDS`` between two local snapshots, ``FAULT_SESSION_SECONDS`` until the group gives a silent worker up, and
``FAULT_BLOCK=N:SECONDS``, a function that holds the event loop at its N-th batch, and ``FAULT_SLOW_SEEK``, seconds between the seek to where
the state ends and the moment when records flow again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

#: On every transport.
POINTS = (
    "after-fetch",
    "after-state-write",
    "before-cut",
    "after-cut",
    "before-write",
    "after-write",
    "after-fence",
    "during-recovery",
    "before-seek",
)
#: Of the store in memory: a step of a snapshot, and what makes it the snapshot.
SNAPSHOT_POINTS = ("during-snapshot", "before-publish", "after-publish")
#: Of RocksDB: a durable part is taken over.
ROCKSDB_POINTS = ("before-store", "after-store")
#: Within a part's way to Kafka in a transaction.
KAFKA_POINTS = (
    "kafka-before-send",
    "kafka-after-send",
    "kafka-after-offsets",
    "kafka-before-commit",
    "kafka-after-commit",
)
#: The same without one; the lease is looked at before the outputs and between them and the rows.
AT_LEAST_ONCE_POINTS = ("kafka-after-lease", "kafka-before-send", "kafka-after-send")


def points(*, kafka: bool, exactly_once: bool = True, rocksdb: bool = False) -> tuple[str, ...]:
    """Names of the points that a worker of this kind passes."""
    of_kafka = (KAFKA_POINTS if exactly_once else AT_LEAST_ONCE_POINTS) if kafka else ()
    return (*POINTS, *(ROCKSDB_POINTS if rocksdb else SNAPSHOT_POINTS), *of_kafka)


def _signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _countdown(times: int, act: Callable[[], None]) -> Callable[[], None]:
    left = times

    def passed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            act()

    return passed


def _before(owner: type, name: str, passed: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        passed()
        return original(self, *args, **kwargs)

    setattr(owner, name, patched)


def _after(owner: type, name: str, passed: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        passed()
        return result

    setattr(owner, name, patched)


def _after_awaiting(owner: type, name: str, passed: Callable[[], None]) -> None:
    original = getattr(owner, name)

    async def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await original(self, *args, **kwargs)
        passed()
        return result

    setattr(owner, name, patched)


def install(point: str, times: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Arm one failpoint."""
    passed = _countdown(times, _signal(number))
    if point.startswith("kafka-"):
        _on_the_way_to_kafka(point, passed)
        return
    from agents.lane import Lane, LaneContext, LanePartition
    from agents.operator.driver import OperatorTask
    from app.transport.batches import LaneConsumerMixin
    from tables.rocksdb import RocksStore
    from tables.snapshot import SnapshotWriter
    from tables.store import PartitionStore

    match point:
        case "after-fetch":
            _before(OperatorTask, "run", passed)
        case "after-state-write":
            _after(OperatorTask, "run", passed)
        case "before-cut":
            _before(LanePartition, "cut", passed)
        case "after-cut":
            _after(LanePartition, "cut", passed)
        case "before-write" | "after-write":
            _around_write(LaneContext, passed, first=point == "before-write")
        case "after-fence":
            _after_awaiting(Lane, "fence", passed)
        case "during-recovery":
            _before(PartitionStore, "apply", passed)
            _before(RocksStore, "apply", passed)
        case "before-seek":
            _before(LaneConsumerMixin, "perform_seek", passed)
        case "during-snapshot":
            _before(SnapshotWriter, "step", passed)
        case "before-publish":
            _before(SnapshotWriter, "publish", passed)
        case "after-publish":
            _after(SnapshotWriter, "publish", passed)
        case "before-store":
            _before(RocksStore, "committed", passed)
        case "after-store":
            _after(RocksStore, "committed", passed)
        case _:
            raise SystemExit(f"no failpoint {point!r}; see tests/fault/failing_worker.py")


def _on_the_way_to_kafka(point: str, passed: Callable[[], None]) -> None:
    from aiokafka import AIOKafkaProducer

    from app.transport.kafka.consumer import Consumer

    match point:
        case "kafka-before-send":
            _before(AIOKafkaProducer, "send_batch", passed)
        case "kafka-after-send":
            _after_awaiting(AIOKafkaProducer, "send_batch", passed)
        case "kafka-after-offsets":
            _after_awaiting(AIOKafkaProducer, "send_offsets_to_transaction", passed)
        case "kafka-before-commit":
            _before(AIOKafkaProducer, "commit_transaction", passed)
        case "kafka-after-commit":
            _after_awaiting(AIOKafkaProducer, "commit_transaction", passed)
        case "kafka-after-lease":
            _after_awaiting(Consumer, "hold", passed)
        case _:
            raise SystemExit(f"no failpoint {point!r}; see tests/fault/failing_worker.py")


def _around_write(lane: type, passed: Callable[[], None], *, first: bool) -> None:
    original = lane.sink.fget  # type: ignore[attr-defined]

    class Around:
        def __init__(self, sink: Any) -> None:
            self._sink = sink

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sink, name)

        async def write(self, part: Any) -> int:
            if first:
                passed()
            written: int = await self._sink.write(part)
            if not first:
                passed()
            return written

    lane.sink = property(lambda self: Around(original(self)))  # type: ignore[attr-defined]


def _adjust() -> None:
    """What the further variables say."""
    seconds = os.environ.pop("FAULT_SNAPSHOT_SECONDS", "")
    if seconds:
        from app.local_state import LocalState

        LocalState.snapshot_interval = timedelta(seconds=float(seconds))
    seconds = os.environ.pop("FAULT_SESSION_SECONDS", "")
    if seconds:
        from app.transport.kafka import membership

        membership.SESSION_SECONDS = float(seconds)
    pause = os.environ.pop("FAULT_SLOW_SEEK", "")
    if pause:
        from app.transport.kafka.consumer import Consumer

        async def slow(self: Consumer) -> None:
            await original(self)
            await asyncio.sleep(float(pause))

        original, Consumer.perform_seek = Consumer.perform_seek, slow  # type: ignore[method-assign]
    times, _, seconds = os.environ.pop("FAULT_BLOCK", "").partition(":")
    if seconds:
        from agents.operator.driver import OperatorTask

        _before(OperatorTask, "run", _countdown(int(times), lambda: time.sleep(float(seconds))))


def main() -> None:
    point, times, *how = os.environ.pop("FAILPOINT", ":").split(":")
    _adjust()
    if point:
        install(point, int(times), signal.SIGSTOP if how == ["STOP"] else signal.SIGKILL)
    from faust.cli.faust import cli

    sys.argv = ["faust", "-A", "app", "worker", "-l", "info"]
    cli()


if __name__ == "__main__":
    main()
