"""Faust's consumer on the embedded log."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from aiokafka.errors import IllegalStateError
from faust.transport import base
from faust.types import TP, ConsumerMessage
from mode import Service, get_logger

from app.transport.batches import FetchedSlice, LaneConsumerMixin
from app.transport.embedded.acks import DeliveryTracker
from app.transport.embedded.engine import Engine
from app.transport.embedded.hub import Bell
from app.transport.embedded.log import Bounds, Fetched, Log
from app.transport.embedded.reader import fetch
from app.transport.embedded.records import Record
from models.errors import LogError, LogUnavailable, UnknownTopic
from models.partitioning import partition_of
from tables.log import TopicPartition

if TYPE_CHECKING:
    from app.transport.embedded.driver import Transport

logger = get_logger(__name__)

#: Plain records taken from a partition at once: the other partitions wait while agents work on them one by one.
PLAIN_RECORDS = 500
#: Name of the only member in Faust's assignment.
MEMBER = "worker"


class Cluster:
    """What Faust's assignor asks about topics."""

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._partitions = partitions

    def topics(self) -> set[str]:
        return set(self._partitions)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._partitions.get(topic)
        return set(range(count)) if count else None


class Consumer(LaneConsumerMixin, base.Consumer):
    """The only active consumer of its application: it waits for the worker lock, then assigns itself every partition."""

    logger = logger
    transport: Transport
    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._engine: Engine | None = None
        self._bell: Bell | None = None
        self._subscribed: set[str] = set()
        self._rejoin = asyncio.Event()
        self._assigned: set[TP] = set()
        self._generation = 0
        #: between giving partitions back and getting new ones nothing is committed
        self._frozen = False
        self._positions: dict[TP, int] = {}
        self._seeks: Counter[TP] = Counter()
        self._ends: dict[TP, int] = {}
        self._deliveries: defaultdict[TP, DeliveryTracker] = defaultdict(DeliveryTracker)
        self._finishing: dict[TP, set[int]] = {}

    # -- life

    async def on_start(self) -> None:
        self._engine = await Engine.open(self.transport.location)
        self._bell = Bell()
        self._engine.hub.add(self._bell)
        await super().on_start()

    async def on_stop(self) -> None:
        await super().on_stop()
        engine, bell, self._engine, self._bell = self._engine, self._bell, None, None
        if engine is not None and bell is not None:
            engine.hub.discard(bell)
            self.transport.lock.release()
            await engine.close()

    def close(self) -> None:
        self.wake_fetch()

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise LogUnavailable(f"the consumer on {self.transport.location.directory} is not started")
        return self._engine

    @property
    def waiting_for(self) -> str | None:
        """Why this worker is not active, in words; ``None`` when it is (or is not started yet)."""
        return self.transport.lock.waiting_for

    # -- membership

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Create what is missing, and have the partitions assigned (again)."""
        self._subscribed = set(topics)
        known = self.engine.topics()
        for topic in sorted(self._subscribed - set(known)):
            count = self.transport.default_partitions(topic)
            await self.engine.write(lambda tx, topic=topic, count=count: tx.create_topic(topic, count, {}))  # type: ignore[misc]
        if self.app.client_only:
            await self._follow_ends()
        else:
            self._rejoin.set()

    async def _follow_ends(self) -> None:
        """A client has no group: it reads what comes from now on."""
        self._assigned = {
            TP(topic, partition)
            for topic in self._subscribed
            for partition in range(len(self.engine.topic(topic).partitions))
        }
        for tp, bounds in (await self._bounds(self._assigned)).items():
            if tp not in self._positions:
                self._set_position(tp, bounds.end)
        self._set_active_tps(self._assigned)

    @Service.task
    async def _membership(self) -> None:
        while not await self.wait_for_stopped(cast(Any, self._rejoin)):
            self._rejoin.clear()
            try:
                await self.transport.lock.acquire(self.engine)
                await self._join()
            except Exception as exc:  # a worker without partitions must not look healthy
                self.log.exception("joining failed: %r", exc)
                await self.app.crash(exc)
                return

    async def _join(self) -> None:
        app = cast(Any, self.app)
        if self._assigned:
            await self._quiesce()
        app.on_rebalance_start()
        self._frozen = True
        await self.on_partitions_revoked(set(self._assigned))
        if app.producer.staging:
            raise LogError(
                f"{len(app.producer.staging)} records of a transaction could not be committed before the partitions "
                "were given back; start the worker again to go on from the last commit"
            )
        topics = self.engine.topics()
        plan = app.assignor.assign(
            Cluster({name: len(topic.partitions) for name, topic in topics.items()}),
            {MEMBER: app.assignor.metadata(self._subscribed)},
        )[MEMBER]
        app.assignor.on_assignment(plan)
        assigned = {TP(topic, partition) for topic, partitions in plan.assignment for partition in partitions}
        await self._start_positions(assigned)
        self._frozen = False
        self._generation += 1
        app.consumer_generation_id = self._generation
        await self.on_partitions_assigned(set(assigned), self._generation)

    async def _start_positions(self, assigned: set[TP]) -> None:
        committed = await self._committed()
        bounds = await self._bounds(assigned)
        self._positions.clear()
        self._assigned = assigned
        for tp in assigned:
            self._set_position(tp, self._resolve(tp, committed.get(tp), bounds[tp]))

    async def _quiesce(self) -> None:
        """Finish and commit what agents are working on, before partitions are given back.

        Faust forgets the acknowledgements before it lets the streams finish, so records done since the last commit would
        be done again, on top of tables that already contain them.
        """
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await cast(Any, self.app)._stop_fetcher()
        await self.wait_empty()
        # Its last commit is left out where another one is under way, which may have begun before the last record was done.
        await self.commit_and_end_transactions()

    def assignment(self) -> set[TP]:
        return self._assigned

    # -- topics

    def topic_partitions(self, topic: str) -> int | None:
        try:
            return len(self.engine.topic(topic).partitions)
        except UnknownTopic:
            return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        count = self.topic_partitions(topic)
        if count is None or partition is not None:
            return partition
        return partition_of(key, count) if key is not None else None

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        await self.app.producer.create_topic(topic, partitions, replication, **options)

    # -- positions

    async def _committed(self) -> dict[TP, int]:
        app_id = self.app.conf.id
        found = await self.engine.read(lambda log: log.committed(app_id))
        return {TP(*tp): offset for tp, offset in found.items()}

    async def _bounds(self, tps: Iterable[TP]) -> dict[TP, Bounds]:
        rows = {tp: self.engine.row_id(TopicPartition(*tp)) for tp in tps}
        bounds = await self.engine.read(Log.bounds)
        out = {tp: bounds[row_id] for tp, row_id in rows.items()}
        self._ends.update({tp: found.end for tp, found in out.items()})
        return out

    def _resolve(self, tp: TP, committed: int | None, bounds: Bounds) -> int:
        if committed is None:
            latest = self.app.conf.consumer_auto_offset_reset == "latest" and not self._is_changelog_tp(tp)
            return bounds.end if latest else bounds.start
        if bounds.start <= committed <= bounds.end:
            return committed
        self.log.warning(
            "%s: the committed offset %s is outside of the log (%s to %s; records expired or the topic was made anew): "
            "reading from %s",
            tp,
            committed,
            *bounds,
            bounds.start,
        )
        return bounds.start

    def _set_position(self, tp: TP, offset: int) -> None:
        self._positions[tp] = offset
        self._seeks[tp] += 1
        self._deliveries.pop(tp, None)
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        self.wake_fetch()

    async def _seek(self, partition: TP, offset: int) -> None:
        self._set_position(partition, offset)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            if offset is None or tp not in self._assigned:
                # Faust takes this error for "another rebalance has begun".
                raise IllegalStateError(f"{tp}: assigned anew while seeking")
            await self.seek(tp, offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        committed = await self._committed()
        sources = {tp for tp in self._assigned if not self._is_changelog_tp(tp)}
        for tp, bounds in (await self._bounds(sources)).items():
            self._set_position(tp, self._resolve(tp, committed.get(tp), bounds))
        return cast("dict[TP, int]", {tp: committed.get(tp) for tp in sources})

    async def position(self, tp: TP) -> int | None:
        return self._positions.get(tp)

    def highwater(self, tp: TP) -> int:
        return self._ends.get(tp, 0)

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: bounds.end for tp, bounds in (await self._bounds(partitions)).items()}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: bounds.start for tp, bounds in (await self._bounds(partitions)).items()}

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    # -- fetching

    def wake_fetch(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, Any]:
        engine, bell = self.engine, self._bell
        deadline = monotonic() + timeout
        while bell is not None and not self.should_stop and self.flow_active:
            bell.silence()
            # Faust changes this set in place while we wait.
            tps = self._assigned if active_partitions is None else active_partitions & self._assigned
            wanted = [(TopicPartition(*tp), engine.row_id(TopicPartition(*tp)), self._positions[tp]) for tp in tps]
            bell.partitions = frozenset(row_id for _, row_id, _ in wanted)
            seeks = {tp: self._seeks[tp] for tp in tps}
            found = await engine.read(lambda log, wanted=wanted: fetch(log, wanted))  # type: ignore[misc]
            if not self.flow_active:
                break
            taken = {}
            for tp in tps & found.keys():
                current = tp in self._assigned and (active_partitions is None or tp in active_partitions)
                if current and seeks[tp] == self._seeks[tp]:
                    taken[tp] = self._take(tp, found[TopicPartition(*tp)])
            if any(taken.values()):
                return taken
            if not taken and not await bell.wait(max(0.0, deadline - monotonic())):
                break
        return {}

    def _take(self, tp: TP, part: Fetched) -> FetchedSlice | list[Record]:
        self._ends[tp] = max(self._ends.get(tp, 0), part.next_offset)
        if tp.topic in self.lane_topics():
            self._positions[tp] = part.next_offset
            return FetchedSlice(part.records, part.next_offset, part.size, self.seek_epoch)
        records = part.records[:PLAIN_RECORDS]
        self._positions[tp] = part.next_offset if len(records) == len(part.records) else records[-1].offset + 1
        return records

    def _to_message(self, tp: TP, record: Record) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp / 1000.0,
            0,
            cast(Any, record.headers or []),
            record.key,
            record.value,
            None,
            None,
            None,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    # -- committing

    def delivering(self, tp: TP, offset: int) -> None:
        self._deliveries[tp].deliver(offset)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing to remember: what is committed follows from what was delivered."""

    def stop_flow(self) -> None:
        if self.flow_active:
            # From here on Faust acknowledges what its streams skip.  Believed are only records done or begun by now.
            self._finishing = {tp: set(offsets) for tp, offsets in self._acked_index.items()}
            for message in self._unacked_messages:
                self._finishing.setdefault(message.tp, set()).add(message.offset)
        super().stop_flow()

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked_index[tp]
        if not self.flow_active:
            acked &= self._finishing.get(tp, set())
        committable = self._deliveries[tp].advance(acked)
        self._acked[tp] = [offset for offset in self._acked[tp] if offset in acked]
        return committable

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        if self._frozen:
            return False
        return await super().commit(*args, **kwargs)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        try:
            await self.app.producer.commit(offsets, {})
        except LogError as exc:
            await self.app.crash(exc)
            return False
        return True
