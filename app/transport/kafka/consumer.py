"""Faust's Kafka consumer, delivering lane partitions as batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiokafka
from aiokafka.errors import ConsumerStoppedError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as base
from faust.types import TP

from app.outages import outlast
from app.settings import ProcessingGuarantee
from app.transport.batches import LaneConsumerMixin
from app.transport.kafka import internals, membership, quiet, stopping
from app.transport.kafka.failures import connecting, in_our_words
from app.transport.kafka.fetching import FETCH_WAIT_MS, PARTITION_FETCH_BYTES, Fetching
from app.transport.kafka.watch import Watch
from models.errors import LogError, LogUnavailable
from tables.log import TopicPartition

if TYPE_CHECKING:
    from app.application import FamulusApp
    from app.transport.kafka.driver import Transport

log = logging.getLogger(__name__)

#: Records of all partitions in one fetch, in bytes.
FETCH_BYTES = 16 << 20
#: Time between two fetches, in seconds, where no commit is waited for.
WINDOW = 0.010
#: Where one is, records wait for it anyway: fetches divide the time between two commits evenly, with so many seconds between them at most,
#: and leave a tenth for what a fetch takes, so that a commit follows a fetch (see agents.lane.partition).
LARGEST_WINDOW = 0.050
FETCH_SHARE = 0.1


#: A worker that has not heard of its group for so long is not ready.
SILENCE_SECONDS = 5.0


class ConsumerThread(base.AIOKafkaConsumerThread):
    """The thread that talks to the broker."""

    app: FamulusApp
    consumer: Consumer
    transport: Transport
    _fetching: Fetching | None = None
    _watching: asyncio.Task[None] | None = None
    _lease: membership.LeasedCoordinator | None = None

    # -- life

    async def on_start(self) -> None:
        quiet.install()
        if self.app.client_only:
            await self._connect()
        else:
            await outlast("connecting to Kafka", self._connect, lambda: self.should_stop)
        consumer = self._ensure_consumer()
        self._fetching = Fetching(
            consumer, lambda: self.consumer.seek_epoch, whole_fetches=self.transport.whole_fetches
        )
        self._fetching.use_window(self._window())
        if not self.app.client_only:
            self._lease = membership.lease(consumer._coordinator)
            watch = Watch(consumer, lambda: self._fetching.lane_topics if self._fetching else (), self._fatal)
            self._watching = asyncio.get_running_loop().create_task(watch.run())

    async def _connect(self) -> None:
        try:
            with connecting(self.transport.connection.url):
                await super().on_start()
        except BaseException:
            if self._consumer is not None:
                await stopping.stop(self._consumer)
            raise

    async def on_thread_stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._lease is not None:
            self._lease.leave_for_good()
        await super(base.AIOKafkaConsumerThread, self).on_thread_stop()  # without its way to stop the consumer
        if self._consumer is not None:
            await stopping.stop(self._consumer)

    def _stopped_set(self) -> None:
        try:
            super()._stopped_set()
        except RuntimeError:  # a failure has ended the thread already, and with it its loop
            self._stopped.set()

    def _window(self) -> float:
        settings = self.app.settings
        if settings.processing_guarantee is not ProcessingGuarantee.EXACTLY_ONCE:
            return WINDOW
        interval = settings.commit_interval.total_seconds()
        return max(WINDOW, interval / ceil(interval / LARGEST_WINDOW) * (1 - FETCH_SHARE))

    def _fatal(self, error: BaseException, where: str) -> None:
        self.parent_loop.call_soon_threadsafe(self.app.fatal, error, where)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        # Faust's own assignor also where there is no table of Faust's: partitions of the same number of all topics stay together.
        self._assignor = self.app.assignor
        return aiokafka.AIOKafkaConsumer(
            **self.transport.connection.arguments("consumer"),
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id or membership.instance_id(self.app.settings.web_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records,
            # An agent may take its time: whether records move on is watched elsewhere.
            max_poll_interval_ms=2**31 - 1,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            fetch_max_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            session_timeout_ms=int(1000 * membership.SESSION_SECONDS),
            heartbeat_interval_ms=int(1000 * membership.HEARTBEAT_SECONDS),
            rebalance_timeout_ms=int(1000 * membership.REBALANCE_SECONDS),
            # The answer to a join comes when all have joined; what takes longer comes over a connection that is half open.
            request_timeout_ms=int(1000 * (membership.REBALANCE_SECONDS + 5)),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
        )

    def _create_client_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        return aiokafka.AIOKafkaConsumer(
            **self.transport.connection.arguments("client"),
            enable_auto_commit=False,
            auto_offset_reset=self.app.conf.consumer_auto_offset_reset,
            isolation_level="read_committed",
        )

    # -- fetching

    async def subscribe(self, topics: Iterable[str]) -> None:
        if self._fetching is not None:
            self._fetching.subscribed(frozenset(self.consumer.lane_topics()))
        await super().subscribe(topics)

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP] | None,
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Mapping[Any, Any]:
        if not self.consumer.flow_active:
            return {}
        if consumer._closed or self._fetching is None:
            raise ConsumerStoppedError
        # Faust changes this set in place while we wait.
        active = active_partitions if active_partitions is not None else consumer.assignment()
        try:
            return await self._fetching.fetch(active, timeout or 0.0, max_records)
        except ConsumerStoppedError:
            raise
        except KafkaError as error:
            # Raised from here it would end Faust's fetcher first and the worker seconds later, with a traceback for each of them.
            if error.retriable:
                log.warning("reading from Kafka: %s; trying again", error)
            else:
                self._fatal(in_our_words(error, "reading the sources"), "reading from Kafka")
            await asyncio.sleep(timeout or 0.0)
            return {}

    async def seek_lanes(self, positions: Mapping[TP, int]) -> None:
        await self.call_thread(self._seek_lanes, positions)

    async def _seek_lanes(self, positions: Mapping[TP, int]) -> None:
        consumer, fetching = self._ensure_consumer(), self._fetching
        if fetching is None:
            raise ConsumerStoppedError
        async with fetching.turn:
            for tp, offset in positions.items():
                consumer.seek(aiokafka.TopicPartition(*tp), offset)
            self.consumer.seek_epoch += 1

    def wake(self) -> None:
        """From any thread: look at what has been fetched."""
        fetching, loop = self._fetching, self.thread_loop
        if fetching is not None and not loop.is_closed():
            loop.call_soon_threadsafe(fetching.wake)

    # -- the group

    @property
    def owned(self) -> bool:
        """Whether the group has confirmed this member within its session.  Unknown counts as yes: then only the group's own timing helps."""
        return self._lease is None or monotonic() < self._lease.lease_end

    @property
    def silent_seconds(self) -> float:
        """How long ago the group was last heard of, 0.0 where that is not known."""
        if self._lease is None or not self._lease.heard:
            return 0.0
        return monotonic() - self._lease.heard

    async def commit_lanes(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self.call_thread(self._commit_lanes, offsets)

    async def _commit_lanes(self, offsets: Mapping[TopicPartition, int]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        mine = {
            aiokafka.TopicPartition(*tp): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if aiokafka.TopicPartition(*tp) in assigned
        }
        if not mine:
            return
        try:
            await consumer.commit(mine)
        except KafkaError as error:
            log.info("the group's offsets were not committed (%s); the lanes do not depend on them", error)


class Consumer(LaneConsumerMixin, base.Consumer):
    """Runs in the application's loop and delegates to its thread."""

    _thread: ConsumerThread
    transport: Transport

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def wake_fetch(self) -> None:
        self._thread.wake()

    @property
    def waiting_for(self) -> str | None:
        """Why this worker is not ready, in words: the broker is silent."""
        silent = self._thread.silent_seconds
        if silent < SILENCE_SECONDS:
            return None
        return f"Kafka has not answered for {silent:.0f} s; the worker goes on by itself when it does"

    async def seek_lanes(self, positions: Mapping[TP, int]) -> None:
        await self._thread.seek_lanes(positions)
        self._read_offset.update({tp: offset or None for tp, offset in positions.items()})

    async def perform_seek(self) -> None:
        await super().perform_seek()
        wanted = {tp: offset for tp, offset in self.lane_positions().items() if tp in self.assignment()}
        if wanted:
            # The group may not know what its last owner processed before it was killed: it would show a lag until a next record comes.
            processed = {TopicPartition(*tp): offset for tp, offset in wanted.items() if offset}
            compared = outlast(
                "looking at the sources", lambda: self._compare_with_the_log(wanted), lambda: self.should_stop
            )
            await asyncio.gather(compared, self.commit_lanes(processed))

    async def _compare_with_the_log(self, wanted: Mapping[TP, int]) -> None:
        """A marker that the source's log does not reach means that the topic was made anew: going on would pass over its records."""
        starts, ends = await self._bounds([TopicPartition(*tp) for tp in wanted])
        for source, offset in wanted.items():
            tp = TopicPartition(*source)
            where = f"{tp.topic}[{tp.partition}]"
            if offset > ends[tp]:
                raise LogError(
                    f"{where} ends at {ends[tp]}, but the state of {self.app.conf.id} contains it up to {offset}: the topic was made "
                    "anew; start under a new FAMULUS_APP_ID, or delete the application's changelog topics to begin again"
                )
            if 0 < offset < starts[tp]:
                log.error(
                    "%s: records %d to %d were deleted before they were processed; raise the topic's retention.ms",
                    where,
                    offset,
                    starts[tp] - 1,
                )

    async def _bounds(self, tps: list[TopicPartition]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where the sources begin and end.  Asked over a connection of its own: on the consumer's it would wait behind two idle fetches."""
        reader = self.app.client().reader()
        await reader.start()
        try:
            return await reader.start_offsets(tps), await reader.end_offsets(tps)
        finally:
            await reader.stop()

    # -- what the sink asks (app.transport.kafka.sink.Membership)

    async def hold(self) -> None:
        waited = False
        while not self._thread.owned:
            if self.should_stop:
                raise LogUnavailable("the worker is stopping and the group has not confirmed its partitions")
            if not waited:
                waited = True
                log.warning("the group has not answered within the session: nothing is written until it does")
            await asyncio.sleep(0.02)

    async def commit_lanes(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self._thread.started and not self.should_stop:
            await self._thread.commit_lanes(offsets)


def explain_fallback() -> None:
    """Say once why records go through aiokafka's public interface."""
    if internals.UNSUPPORTED is not None:
        log.warning(
            "%s: records go through its public interface, at twice the CPU; install the version of setup.cfg",
            internals.UNSUPPORTED,
        )
