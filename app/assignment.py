"""The partitions of the lanes come and go as the consumer group assigns them: taken over, restored, opened; drained and closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol

from faust.tables.recovery import RebalanceAgain
from faust.types import TP

from agents.lane import Lane
from app.alert_follower import AlertFollower
from app.broadcasts import BroadcastReader
from app.local_state import LocalState
from app.members import Members
from app.outages import all_ended, outlast
from app.recovery import StateRestorer, replay_source
from app.settings import Settings
from app.transport.client import BrokerClient
from models.errors import LogUnreachable, StateError
from tables.log import TopicPartition

log = logging.getLogger(__name__)


class Worker(Protocol):
    """What is asked of the application."""

    settings: Settings
    lanes: list[Lane]
    broadcast_readers: list[BroadcastReader]
    members: Members
    alert_follower: AlertFollower
    restorer: StateRestorer
    local_state: LocalState

    def waiting(self) -> str | None: ...
    @property
    def consumer(self) -> Any: ...
    @property
    def should_stop(self) -> bool: ...
    def client(self) -> BrokerClient: ...
    def partitions_of(self, topic: str) -> int: ...
    def fatal(self, error: BaseException, where: str) -> None: ...


class LaneAssignment:
    """Opens and closes partitions of all lanes of one worker."""

    #: time that processed records get to become durable when partitions leave or the worker stops
    drain_timeout = timedelta(seconds=4)
    #: what was told to end is told again after this time
    cancel_again = timedelta(seconds=10)

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        #: why partitions that are assigned cannot be opened, in words: the broker is away
        self.waits_for: str | None = None
        self._failing_since: float | None = None
        self._opening: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Restore and open every lane partition that is assigned, once the broadcast topics have been read.

        Called by recovery, with the sources still paused.  Raises ``RebalanceAgain`` if the partitions are given back meanwhile.
        """
        await self._stop_opening()
        self.waits_for = self._failing_since = None
        taking = outlast("taking over partitions", self._attempt, self._hopeless)
        opening = self._opening = asyncio.ensure_future(taking)
        try:
            await opening
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            if self._opening is opening:  # not given back: waiting for another assignment would be waiting for ever
                self._worker.fatal(StateError("it was broken off by a library"), "restoring state")
            raise RebalanceAgain from None
        except Exception as exc:
            self._worker.fatal(exc, "restoring state")
            raise

    async def _attempt(self) -> None:
        try:
            await self._open()
        except LogUnreachable as error:
            self.waits_for = str(error)
            raise
        self.waits_for = self._failing_since = None

    def _hopeless(self) -> bool:
        """Whether to end instead: the group goes on answering, so the broker is not away, and still nothing works."""
        now = monotonic()
        if self._worker.waiting() is not None or self._failing_since is None:
            self._failing_since = now
        limit = 2 * self._worker.settings.stall_timeout.total_seconds()
        return self._worker.should_stop or now - self._failing_since > limit

    async def _stop_opening(self) -> None:
        """What is being opened belongs to an assignment that is over."""
        opening, self._opening = self._opening, None
        while opening is not None and not opening.done():
            opening.cancel()
            # Again if it is not over then: libraries take a cancellation for one of their own now and then.
            await asyncio.wait([opening], timeout=self.cancel_again.total_seconds())

    async def _open(self) -> None:
        for reader in self._worker.broadcast_readers:
            await reader.ready.wait()
        assignment = [TopicPartition(*tp) for tp in self._worker.consumer.assignment()]
        missing: list[tuple[Lane, int]] = []
        for lane in self._worker.lanes:
            wanted = assigned_partitions(lane, assignment)
            self._refuse_growth(lane, wanted)
            for partition in set(lane.partitions) - wanted:
                await lane.close(partition)
            missing += ((lane, partition) for partition in sorted(wanted - set(lane.partitions)))
        try:
            # All at once: each takeover waits for the broker, and so does each read.
            await all_ended(lane.fence(partition) for lane, partition in missing)
            await self._restore(missing)
        except BaseException:
            taken = ((lane, partition) for lane, partition in missing if partition not in lane.partitions)
            await asyncio.gather(*(lane.give_back(partition) for lane, partition in taken))
            raise
        await self._worker.members.claim({lane.spec.uid: sorted(lane.partitions) for lane in self._worker.lanes})
        self._worker.alert_follower.partitions_changed()

    async def _restore(self, missing: Sequence[tuple[Lane, int]]) -> None:
        wanted: dict[str, list[int]] = {}
        for lane, partition in missing:
            wanted.setdefault(lane.changelog, []).append(partition)
        stores = await self._worker.restorer.restore(wanted)
        try:
            for lane, partition in missing:
                lane.open(partition, stores.pop(TopicPartition(lane.changelog, partition)))
                try:
                    await replay_source(lane, partition, self._worker.client().reader())
                except BaseException:
                    await lane.close(partition)  # it knows a part of what it must know
                    raise
        finally:
            for store in stores.values():
                store.close()

    def _refuse_growth(self, lane: Lane, wanted: set[int]) -> None:
        topic = lane.spec.source.topic
        if wanted and max(wanted) >= self._worker.partitions_of(topic):
            raise StateError(
                f"topic {topic} has got partitions while this worker was running, and the state of operator {lane.spec.uid!r} is split as "
                f"it was before; start under a new FAMULUS_APP_ID, which builds the state anew from the source"
            )

    def offsets(self) -> dict[TP, int]:
        """Where each source partition goes on, as the restored markers say.

        Operators that share a source may stand at different places: it goes on at the first of them, and the others skip what they
        have.  One that has no state of it yet begins at its start, whatever the consumer group committed: a changelog that was lost is built
        again instead of being missed.
        """
        offsets: dict[TP, list[int]] = {}
        for lane in self._worker.lanes:
            for tp, offset in lane.offsets().items():
                offsets.setdefault(TP(tp.topic, tp.partition), []).append(offset)
        return {tp: min(found) for tp, found in offsets.items()}

    async def close(self) -> None:
        """Make durable what was processed, then forget the partitions; their state is read back when they return."""
        await self._stop_opening()
        drained = await asyncio.gather(*(lane.drain(self.drain_timeout) for lane in self._worker.lanes))
        if not all(drained):
            log.warning("not everything was written within %s; it will be processed again", self.drain_timeout)
        elif self._worker.should_stop:
            await self._worker.local_state.save(
                opened.task.store for lane in self._worker.lanes for opened in lane.partitions.values()
            )
        await asyncio.gather(*(lane.close(*lane.partitions) for lane in self._worker.lanes))


def assigned_partitions(lane: Lane, assignment: Iterable[TopicPartition]) -> set[int]:
    """Partition numbers that an assignment gives the lane: those that it has of every source."""
    assigned = list(assignment)
    return set.intersection(
        *({tp.partition for tp in assigned if tp.topic == source.topic} for source in lane.spec.sources)
    )
