"""Failures that aiokafka keeps to itself.

Its background tasks store an error until somebody asks for records, and Faust does not ask before the first assignment: refused group
joins, missing rights and missing topics would leave a worker idle for ever.  The watch finds them within seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from time import monotonic

import aiokafka
from aiokafka.errors import KafkaError

from app.transport.kafka.failures import in_our_words
from app.transport.kafka.metadata import partition_counts
from models.errors import LogError, UnknownTopic

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.25
#: A topic may be missing so long: it is being created, or the metadata is old.
MISSING_TOPIC_SECONDS = 6.0
_METADATA_SECONDS = 2.0


class Watch:
    """Looks at a consumer of a group until it finds what cannot mend itself."""

    def __init__(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        topics: Callable[[], Collection[str]],
        fatal: Callable[[BaseException, str], None],
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._fatal = fatal
        self._missing_since: float | None = None
        self._asked_at = 0.0

    async def run(self) -> None:
        """Ends after the first failure that it reported."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            error = self._of_tasks() or self._of_the_group() or await self._of_topics()
            if error is not None:
                if not isinstance(error, LogError):
                    error = in_our_words(error, "the consumer group")
                self._fatal(error, "reading from Kafka")
                return

    def _of_tasks(self) -> Exception | None:
        coordinator, fetcher = self._consumer._coordinator, self._consumer._fetcher
        for task in (getattr(coordinator, "_coordination_task", None), fetcher._fetch_task):
            if task is not None and task.done() and not task.cancelled():
                error = task.exception()
                if isinstance(error, Exception):
                    return error
        return None

    def _of_the_group(self) -> Exception | None:
        coordinator = self._consumer._coordinator
        error: Exception | None = getattr(coordinator, "_pending_exception", None)
        if error is None or not getattr(error, "retriable", False):
            return error
        log.warning("consumer group: %s; trying again", error)
        try:
            coordinator.check_errors()  # takes the error, so that the coordination goes on
        except KafkaError as taken:
            log.debug("taken: %r", taken)
        return None

    async def _of_topics(self) -> Exception | None:
        cluster = self._consumer._client.cluster
        topics = self._topics()
        refused = sorted(set(cluster.unauthorized_topics) & set(topics))
        if refused:
            return LogError(f"not allowed to read {', '.join(refused)}; grant this user the right")
        missing = sorted(topic for topic in topics if cluster.partitions_for_topic(topic) is None)
        now = monotonic()
        if not missing or not cluster.brokers():
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since > MISSING_TOPIC_SECONDS:
            return await self._disappeared(missing)
        elif now - self._asked_at > _METADATA_SECONDS:
            self._asked_at = now
            self._consumer._client.force_metadata_update()
        return None

    async def _disappeared(self, topics: Collection[str]) -> Exception | None:
        """What a broker says of topics that this client's metadata lacks, which may be old because no broker answered lately."""
        self._missing_since = None
        try:
            await partition_counts(self._consumer._client, topics, unknown_seconds=_METADATA_SECONDS)
        except UnknownTopic:
            return UnknownTopic(f"{', '.join(topics)} has disappeared; create it again, then start the worker")
        except (KafkaError, LogError) as error:
            log.info("no broker answers a question about %s: %s", ", ".join(topics), error)
        self._consumer._client.force_metadata_update()
        return None
