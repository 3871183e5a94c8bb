"""A worker that kills itself, with SIGKILL, at the N-th passage of a named point: ``FAILPOINT=NAME:N``.

The points are patched in from outside; the product knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

POINTS = ("after-fetch", "after-state-write", "before-write", "after-write", "after-cut", "during-recovery")
#: Within a part's way to Kafka: records sent, offsets added to the transaction, transaction about to be committed, committed.
KAFKA_POINTS = ("kafka-after-send", "kafka-after-offsets", "kafka-before-commit", "kafka-after-commit")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _countdown(times: int) -> Callable[[], None]:
    left = times

    def passed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            _die()

    return passed


def install(point: str, times: int) -> None:
    """Arm one failpoint."""
    from agents.lane import Lane
    from agents.operator.driver import OperatorTask
    from tables.store import PartitionStore

    passed = _countdown(times)

    def before(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
            passed()
            return original(self, *args, **kwargs)

        setattr(owner, name, patched)

    def after(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            passed()
            return result

        setattr(owner, name, patched)

    if point == "after-fetch":
        before(OperatorTask, "run")
    elif point == "after-state-write":
        after(OperatorTask, "run")
    elif point == "after-cut":
        after(Lane, "_cut")
    elif point == "during-recovery":
        before(PartitionStore, "apply")
    elif point in KAFKA_POINTS:
        _in_a_transaction(point, passed)
    elif point in ("before-write", "after-write"):
        _around_write(Lane, passed, first=point == "before-write")
    else:
        raise SystemExit(f"no failpoint {point!r}; there are {', '.join(POINTS + KAFKA_POINTS)}")


def _in_a_transaction(point: str, passed: Callable[[], None]) -> None:
    from aiokafka import AIOKafkaProducer

    method = {"kafka-after-send": "send_batch", "kafka-after-offsets": "send_offsets_to_transaction"}.get(
        point, "commit_transaction"
    )
    original = getattr(AIOKafkaProducer, method)

    async def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if point == "kafka-before-commit":
            passed()
        result = await original(self, *args, **kwargs)
        if point != "kafka-before-commit":
            passed()
        return result

    setattr(AIOKafkaProducer, method, patched)


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


def main() -> None:
    point, _, times = os.environ.pop("FAILPOINT", "").partition(":")
    if point:
        install(point, int(times))
    from faust.cli.faust import cli

    sys.argv = ["faust", "-A", "app", "worker", "-l", "info"]
    cli()


if __name__ == "__main__":
    main()
