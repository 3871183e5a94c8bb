"""Answers queries from the operators' live state in this process."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from agents.lane import Lane, LanePartition
from app.queries import OperatorInfo, StateAnswer, StateInfo, StatePage
from models.errors import NotFound, StateUnavailable
from models.partitioning import partition_of
from tables.state import declared_states


class Worker(Protocol):
    """What is asked of the application."""

    @property
    def lanes(self) -> Sequence[Lane]: ...
    @property
    def consumer(self) -> Any: ...
    def partitions_of(self, topic: str) -> int: ...


#: keys looked at before the loop gets its turn
SCAN_STEP = 20_000


class LocalStateQueries:
    """Reads the lanes of one worker.  Runs on the event loop between two batches, so it never sees half a record."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        #: operator uid -> its states
        self._states: dict[str, Sequence[StateInfo]] = {}

    def operators(self) -> list[OperatorInfo]:
        return [self._info(lane) for lane in self._worker.lanes]

    async def get(self, operator: str, state: str, key: str, partition: int | None = None) -> StateAnswer:
        """``partition`` spares finding it anew."""
        lane = self._lane(operator)
        self._must_have(lane, state)
        opened = self._owner(lane, self._partition(lane, key) if partition is None else partition)
        value = opened.task.states[state].look(key)
        if value is None:
            raise NotFound(f"operator {operator!r} has no {state!r} for the key {key!r}")
        return self._answer(lane, state, key, value, opened)

    async def list(self, operator: str, state: str, prefix: str, limit: int, cursor: str | None) -> StatePage:
        lane = self._lane(operator)
        self._must_have(lane, state)
        found: list[tuple[str, int]] = []
        for number in list(lane.partitions):
            opened = lane.partitions.get(number)
            if opened is None:
                continue
            keys = list(opened.task.states[state].stored_keys())
            for start in range(0, len(keys), SCAN_STEP):
                wanted = (key for key in keys[start : start + SCAN_STEP] if key.startswith(prefix))
                after = ((key, number) for key in wanted if cursor is None or key > cursor)
                found = heapq.nsmallest(limit + 1, chain(found, after))
                await asyncio.sleep(0)  # records go on being processed between two steps
        answers = []
        for key, number in found[:limit]:
            opened = lane.partitions.get(number)
            value = None if opened is None else opened.task.states[state].look(key)
            if opened is not None and value is not None:
                answers.append(self._answer(lane, state, key, value, opened))
        return StatePage(
            answers=answers,
            cursor=found[limit - 1][0] if len(found) > limit else None,
            partial=len(lane.partitions) < self._count(lane),
        )

    def look_all(self, lane: Lane, key: str) -> dict[str, Any] | None:
        """All states of a key on this worker, ``None`` without any."""
        for opened in lane.partitions.values():
            values = {name: state.look(key) for name, state in opened.task.states.items()}
            found = {name: value for name, value in values.items() if value is not None}
            if found:
                return found
        return None

    def all_keys(self, lane: Lane) -> Iterator[str]:
        for opened in lane.partitions.values():
            keys: set[str] = set()
            for state in opened.task.states.values():
                keys.update(state.stored_keys())
            yield from keys

    def count(self, operator: str) -> int:
        """Partitions of the operator, over all workers."""
        return self._count(self._lane(operator))

    def partitions(self, operator: str) -> set[int]:
        """Partitions of the operator that this worker has."""
        return set(self._lane(operator).partitions)

    def has(self, operator: str) -> bool:
        """Whether this worker runs the operator."""
        return any(lane.spec.uid == operator for lane in self._worker.lanes)

    def place(self, operator: str, key: str) -> tuple[int, bool]:
        """Partition that a key belongs to, and whether it is this worker's."""
        lane = self._lane(operator)
        partition = self._partition(lane, key)
        return partition, partition in lane.partitions

    def _lane(self, operator: str) -> Lane:
        for lane in self._worker.lanes:
            if lane.spec.uid == operator:
                return lane
        names = ", ".join(sorted(lane.spec.uid for lane in self._worker.lanes)) or "none"
        raise NotFound(f"no operator {operator!r} runs here; there are: {names}")

    def _must_have(self, lane: Lane, state: str) -> None:
        states = self._states_of(lane)
        if not any(info.name == state for info in states):
            names = ", ".join(info.name for info in states) or "none"
            raise NotFound(f"operator {lane.spec.uid!r} has no state {state!r}; there are: {names}")

    def _states_of(self, lane: Lane) -> Sequence[StateInfo]:
        # Kept: a function is made for it.
        found = self._states.get(lane.spec.uid)
        if found is None:
            declared = declared_states(lane.spec.function())
            found = [StateInfo(name, state.kind, "string") for name, (_, state) in declared.items()]
            self._states[lane.spec.uid] = found
        return found

    def _partition(self, lane: Lane, key: str) -> int:
        return partition_of(key.encode(), self._count(lane))

    @staticmethod
    def _owner(lane: Lane, partition: int) -> LanePartition:
        opened = lane.partitions.get(partition)
        if opened is None:
            raise StateUnavailable(
                f"partition {partition} of operator {lane.spec.uid!r} is being recovered; ask again in a moment"
            )
        return opened

    def _count(self, lane: Lane) -> int:
        return self._worker.partitions_of(lane.spec.source.topic)

    @staticmethod
    def _answer(lane: Lane, state: str, key: str, value: Any, opened: LanePartition) -> StateAnswer:
        return StateAnswer(
            operator=lane.spec.uid,
            state=state,
            key=key,
            value=value,
            partition=opened.tp.partition,
            source_offset=opened.next_offset,
            watermark=opened.task.context.watermark_ms,
        )

    def _info(self, lane: Lane) -> OperatorInfo:
        highwater = getattr(self._worker.consumer, "highwater", None)
        lag = {}
        for number, opened in lane.partitions.items():
            end = highwater(opened.tp) if highwater is not None else opened.next_offset
            lag[number] = max(0, (end or 0) - opened.next_offset)
        return OperatorInfo(
            uid=lane.spec.uid,
            name=lane.spec.name,
            states=self._states_of(lane),
            partitions=sorted(lane.partitions),
            watermarks=lane.watermarks(),
            lag=lag,
        )
