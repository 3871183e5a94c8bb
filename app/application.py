"""The Faust application: Faust's worker with batch lanes, operator state, broadcast topics and our own web server."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import entry_points, version
from typing import Any, cast

import faust
from faust.app.base import BootStrategy
from faust.transport.drivers import by_name
from faust.types import TP
from mode import ServiceT
from prometheus_client import CollectorRegistry

from agents.lane import Lane, LaneOptions
from agents.operator.spec import OperatorSpec, check_uids
from agents.transport import PartSink, SealedPart
from app.alert_follower import AlertFollower
from app.alerts import AlertFeed
from app.assignment import LaneAssignment
from app.broadcasts import BroadcastReader
from app.data_dir import make_data_dir
from app.health import LIVE, READY, STARTUP, Health
from app.local_state import LocalState
from app.members import Members, reachable_url
from app.metrics import LaneCollector
from app.partitioning import make_topics
from app.recovery import LaneTableManager, StateRestorer
from app.routed_queries import RoutedStateQueries
from app.rulebook import RuleService
from app.settings import ProcessingGuarantee, Settings
from app.standby import Standbys
from app.state_queries import LocalStateQueries
from app.topic_options import warn_of_unfit_topics
from app.transport.batches import LaneTopic
from app.transport.brokers import connect, faust_url
from app.transport.client import BrokerClient
from app.watchdog import Watchdog
from app.worker import LaneWorker
from models.errors import FamulusError, Fenced, LogUnavailable
from models.topics import CATALOGUE, TopicNames, spec_of
from tables.log import TopicPartition
from tables.table import StateTable

log = logging.getLogger(__name__)

APP_VERSION = version("famulus")
#: Commit intervals that are made one where a partition is far behind: a row is written once for all changes of its key in a part, and with
#: 10,000 keys a second holds most of them several times.  (8 of them cost 15 to 25 % more CPU a transaction.)
BACKLOG_INTERVALS = 20


class LaneBootStrategy(BootStrategy):
    """Starts our web server where Faust would start its own, and the broadcast readers before the consumer."""

    app: Any

    def web_server(self) -> Iterable[ServiceT]:
        services: list[ServiceT] = [
            *self.app.broadcast_readers,
            self.app.members,
            self.app.alert_follower,
            self.app.watchdog,
            self.app.standbys,
        ]
        if self._should_enable_web():
            for entry in entry_points(group="famulus.web"):
                services.append(entry.load()(self.app, loop=self.app.loop, beacon=self.app.beacon))
        return services


class FamulusApp(faust.App):
    """A Faust app whose operators run on batch lanes."""

    BootStrategy = LaneBootStrategy

    #: time that an orderly stop may take after a fatal error
    fatal_grace = timedelta(seconds=8)

    def __init__(self, settings: Settings, operators: Sequence[OperatorSpec]) -> None:
        self.settings = settings
        self.operators = operators
        self.health = Health(settings.app_id)
        self.alerts = AlertFeed()
        self.metrics_registry = CollectorRegistry()
        self.lanes: list[Lane] = []
        #: partitions of every topic, once the worker has looked
        self.partition_counts: Mapping[str, int] = {}
        self.broadcast_readers: list[BroadcastReader] = []
        self._fatal_error: BaseException | None = None
        self._sink: PartSink | None = None
        self._client: BrokerClient | None = None
        self._rule_service: RuleService | None = None
        super().__init__(
            settings.app_id,
            broker=faust_url(settings.broker),
            store=settings.store,
            datadir=str(settings.data_dir / settings.app_id),
            TableManager=LaneTableManager,
            Worker=LaneWorker,
            # The lanes commit on their own; what Faust is told here concerns plain agents only.
            processing_guarantee="at_least_once",
            consumer_auto_offset_reset="earliest",
            web_bind=settings.web_bind,
            web_host=settings.web_bind,
            web_port=settings.web_port,
            web_tables_enabled=False,
            topic_replication_factor=1,
            topic_disable_leader=True,
            stream_recovery_delay=0.0,
            # Operators' state has standbys of its own (app/standby.py).  With Faust's, a third worker of four partitions gets none.
            table_standby_replicas=0,
            autodiscover=False,
        )
        self.local_queries = LocalStateQueries(self)
        self.alert_follower = AlertFollower(
            TopicNames.ALERTS,
            self.alerts,
            lambda: self.client().reader(),
            self._alerting_partitions,
            beacon=self.beacon,
        )
        self.members = Members(settings.app_id, self.client, self._own_url, beacon=self.beacon)
        self.state_queries = RoutedStateQueries(self.local_queries, self.members, lambda: cast(Any, self.http_client))
        self.local_state = LocalState(settings)
        self.standbys = Standbys(
            self.lanes,
            self.members,
            self.local_state,
            lambda: self.client().reader(),
            self.local_queries.count,
            replicas=settings.standby_replicas,
            beacon=self.beacon,
        )
        self.restorer = StateRestorer(lambda: self.client().reader(), self.local_state, self.standbys.take)
        self.lane_assignment = LaneAssignment(self)
        check_uids(operators)
        for spec in operators:
            self._add_operator(spec)
        self._add_broadcast_readers()
        self.watchdog = Watchdog(
            self.lanes,
            self._highwater,
            self.waiting,
            self.fatal,
            stalled_after=settings.stall_timeout,
            beacon=self.beacon,
        )
        self._register_health()
        self.metrics_registry.register(LaneCollector(self))

    # -- construction

    def _add_operator(self, spec: OperatorSpec) -> None:
        settings = self.settings
        exactly_once = settings.processing_guarantee is ProcessingGuarantee.EXACTLY_ONCE
        lane = Lane(
            spec,
            LaneOptions(
                app_id=settings.app_id,
                app_version=APP_VERSION,
                # At least once waits for no commit: a part is written as soon as the one before it is.
                commit_interval=settings.commit_interval if exactly_once else timedelta(0),
                backlog_interval=settings.commit_interval * BACKLOG_INTERVALS,
                max_drift=settings.max_drift,
            ),
            lambda: self.sink,
            fatal=self.fatal,
            current_epoch=self._seek_epoch,
            waiting=self._has_more,
        )
        if spec.output == TopicNames.ALERTS:
            lane.listeners.append(self._feed_alerts)
        partitions = self.partitions_of(spec.source.topic)
        table = StateTable(self, uid=spec.uid, partitions=partitions)
        self.tables.add(table)
        store = table.operator_store
        store.look = lambda key: self.local_queries.look_all(lane, key)
        store.stored_keys = lambda: self.local_queries.all_keys(lane)
        topics = [source.topic for source in spec.sources]
        topic = LaneTopic(self, topics=topics, partitions=partitions, value_type=bytes, key_type=bytes)
        self._add_agent(topic, lane)
        self.lanes.append(lane)

    def _add_agent(self, topic: LaneTopic, lane: Lane) -> None:
        async def consume(batches: Any) -> None:
            await lane.consume(batches)

        consume.__name__ = consume.__qualname__ = lane.spec.uid
        consume.__module__ = f"agents.{lane.spec.job}"
        # As ``self.agent(...)``, without its note for Faust's search for agents: for that, it resolves the file names of all modules.
        settings: Any = self.conf
        agent = settings.Agent(
            consume,
            name=lane.spec.uid,
            app=self,
            channel=topic,
            concurrency=1,
            on_error=self._on_agent_error,
            use_reply_headers=True,
        )
        self.agents[agent.name] = agent
        self.topics.beacon.add(agent)

    def _add_broadcast_readers(self) -> None:
        topics = {lane.spec.broadcast for lane in self.lanes if lane.spec.broadcast}
        for topic in sorted(topics):
            lanes = [lane for lane in self.lanes if lane.spec.broadcast == topic]
            self.broadcast_readers.append(
                BroadcastReader(topic, lanes, lambda: self.client().reader(), self.fatal, beacon=self.beacon)
            )

    def _register_health(self) -> None:
        self.health.register(
            "process", lambda: f"stopping after {self._fatal_error}" if self._fatal_error else None, {LIVE, READY}
        )
        for reader in self.broadcast_readers:
            self.health.register(
                reader.topic,
                lambda reader=reader: (
                    None if reader.ready.is_set() else f"{reader.topic} has not been read to its end yet"
                ),  # type: ignore[misc]
                {READY, STARTUP},
            )
        self.health.register("partitions", self._partitions_ready, {READY, STARTUP})
        self.health.register("progress", self.watchdog.stalled, {READY})

    def waiting(self) -> str | None:
        """What outside this worker it waits for: its turn, or the broker."""
        return getattr(self.consumer, "waiting_for", None)

    def _highwater(self, tp: TopicPartition) -> int | None:
        return self.consumer.highwater(TP(tp.topic, tp.partition))

    def _partitions_ready(self) -> str | None:
        if not self.started or self._consumer is None:
            return "the worker is starting"
        waiting = self.waiting() or self.lane_assignment.waits_for
        if waiting:
            return waiting
        recovering = self.restorer.progress.text()
        if recovering:
            return recovering
        tables: Any = self.tables
        if self.rebalancing or not tables.recovery.completed.is_set():
            return "partitions are being assigned"
        return None

    # -- the log

    def _new_transport(self) -> Any:
        return _driver(self.conf.broker_consumer[0])(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return _driver(self.conf.broker_producer[0])(self.conf.broker_producer, self)

    def client(self) -> BrokerClient:
        """A client of the broker, for reading and for rare writes."""
        if self._client is None:
            self._client = connect(self.settings.broker, self.settings.credentials)
        return self._client

    @property
    def sink(self) -> PartSink:
        if self._sink is None:
            transport: Any = self.transport
            sink: PartSink = transport.part_sink()
            self._sink = sink
        return self._sink

    def _own_url(self) -> str:
        return reachable_url(str(self.conf.web_bind), int(self.conf.web_port))

    def _has_more(self, tp: TopicPartition, next_offset: int) -> bool:
        """Whether a source partition is known to hold records from this offset on."""
        highwater = getattr(self.consumer, "highwater", None)
        return highwater is not None and (highwater(TP(*tp)) or 0) > next_offset

    def partitions_of(self, topic: str) -> int:
        """Partitions of one of our topics: those that it has, before the start those of the catalogue."""
        count = self.partition_counts.get(topic)
        if count is None:
            spec = spec_of(topic)
            if spec is None:
                raise FamulusError(
                    f"topic {topic!r} is not in models/topics.py; add it there with its number of partitions"
                )
            count = spec.partitions
        return count

    def _seek_epoch(self) -> int:
        consumer: Any = self.consumer
        return int(consumer.seek_epoch)

    @property
    def rule_service(self) -> RuleService:
        if self._rule_service is None:
            self._rule_service = RuleService(self.client())
        return self._rule_service

    def _create_directories(self) -> None:
        make_data_dir(self.settings)
        for folder in (self.conf.datadir, self.conf.appdir, self.conf.tabledir):
            folder.mkdir(parents=True, exist_ok=True)

    def worker_init(self) -> None:
        """Faust's command line has found this app and is about to run a command: ours join its own."""
        from faust.cli.base import cli

        from app.cli.main import attach

        attach(cli)
        super().worker_init()

    async def on_start(self) -> None:
        client = self.client()
        try:
            await client.__aenter__()
            self.partition_counts = await make_topics(client, self.settings.app_id, self.operators)
            await client.create_topic(self.members.topic, 1, {"cleanup.policy": "compact"})
            await warn_of_unfit_topics(client, self.settings, self.partition_counts, self.operators)
        except LogUnavailable:
            if self.should_stop:  # told to end before it had begun: the client is closed
                return
            raise
        await super().on_start()

    async def on_shutdown(self) -> None:
        # Only when all services have stopped: until then they may read and write through the client.
        await super().on_shutdown()
        if self._rule_service is not None:
            await self._rule_service.close()
        if self._client is not None:
            await self._client.__aexit__(None, None, None)

    # -- partitions

    def lane_offsets(self) -> dict[TP, int]:
        """Where each source partition goes on, as the restored markers say."""
        return self.lane_assignment.offsets()

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super()._on_partitions_revoked(revoked)
        if not self.should_stop and self._fatal_error is None:
            await self.lane_assignment.close()

    async def _stop_consumer(self) -> None:
        await super()._stop_consumer()
        if self._fatal_error is None:
            await self.lane_assignment.close()
            await self.members.leave()

    # -- what the worker shows

    def _alerting_partitions(self) -> set[int]:
        """Partitions of the alerts topic that only the lanes of this worker write to."""
        alerting = [lane for lane in self.lanes if lane.spec.output == TopicNames.ALERTS]
        count = self.partitions_of(TopicNames.ALERTS)
        sources = {self.partitions_of(lane.spec.source.topic) for lane in alerting}
        if all(len(lane.partitions) == self.partitions_of(lane.spec.source.topic) for lane in alerting):
            return set(range(count)) if alerting else set()
        if sources != {count}:
            return set()
        return set.intersection(*(set(lane.partitions) for lane in alerting))

    def _feed_alerts(self, part: SealedPart) -> None:
        for tp, outputs in part.outputs.items():
            if tp.topic == TopicNames.ALERTS:
                self.alerts.feed([value for _, value, _ in outputs if value is not None])

    def rule_stats(self) -> dict[str, dict[str, int]]:
        """Per rule: how often it fired and failed on this worker since it started."""
        stats: dict[str, dict[str, int]] = {}
        for lane in self.lanes:
            count = getattr(lane.broadcasts and lane.broadcasts.function, "rule_stats", None)
            if count is not None:
                stats.update(count())
        return stats

    # -- fatal errors

    def fatal(self, error: BaseException, where: str) -> None:
        """End the process: memory may be ahead of the log, and only a restart is right.

        Says so in one line, stops in order, and exits hard if that takes longer than ``fatal_grace``.
        """
        if self._fatal_error is not None or self.should_stop:
            return
        self._fatal_error = error
        hint = "another worker has taken over" if isinstance(error, Fenced) else "start the worker again"
        log.critical("FATAL %s: %s: %s; %s", where, type(error).__name__, error, hint)
        timer = threading.Timer(self.fatal_grace.total_seconds(), _exit_hard, (error, self.fatal_grace))
        timer.daemon = True
        timer.start()
        self.loop.create_task(self.crash(error))


def _driver(url: Any) -> Any:
    """Transport class for a broker's address: our own also where Faust has one for the same scheme."""
    return by_name({"kafka": "app.transport.kafka.driver:Transport"}.get(url.scheme, url.scheme))


def _exit_hard(error: BaseException, grace: timedelta) -> None:
    sys.stderr.write(f"FATAL {error!r}: not stopped after {grace.total_seconds():.0f} s, exiting\n")
    sys.stderr.flush()
    os._exit(1)


__all__ = ["APP_VERSION", "CATALOGUE", "FamulusApp"]
