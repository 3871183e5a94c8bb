"""The broker as commands, checks and views use it: topics, appends and group-less readers, the same on every transport."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.time import Millis
from tables.log import LogReader, TopicPartition

#: Options of a topic that decide what it takes and what becomes of its records.
OPTIONS = ("cleanup.policy", "retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes")


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append.  Without ``partition`` the key decides (murmur2, as Kafka's default partitioner does)."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: Millis | None = None
    partition: int | None = None


class BrokerClient(Protocol):
    """One connection to the log.  Use as an async context manager."""

    async def __aenter__(self) -> BrokerClient: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def topics(self) -> dict[str, int]:
        """Every topic with its number of partitions."""

    async def create_topic(self, topic: str, partitions: int, config: Mapping[str, str] = {}) -> bool:
        """Create the topic if it is missing; ``True`` if it was.  ``config`` has Kafka's names (``cleanup.policy``, ``retention.ms``)."""

    async def configurations(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        """What the log does with the records of each topic, by Kafka's names (:data:`OPTIONS`), with its defaults.

        An option that a log does not have is missing.  Raises :class:`models.errors.UnknownTopic` or another
        :class:`models.errors.LogError`, for instance where this user may not ask.
        """

    async def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append and return (partition, offset) per record once all are durable.

        Raises :class:`models.errors.UnknownTopic`, :class:`models.errors.RecordTooLarge` (nothing of the call is stored then) or
        another :class:`models.errors.LogError`.
        """

    def reader(self) -> LogReader: ...

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """Next offset to be read by the consumer group, per partition that it ever committed."""

    async def check_membership(self, group: str) -> None:
        """Raise :class:`models.errors.LogError` if a worker may not be in the consumer group.  Changes nothing in it."""
