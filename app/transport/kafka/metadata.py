"""Which topics there are, asked of a broker, without creating what is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.metadata import MetadataRequest

from models.errors import LogUnavailable, UnknownTopic

#: How long a topic may be about to exist: just created, or its leader just elected.
_SETTLE_TRIES = 20
_SETTLE_SECONDS = 0.05


async def partition_counts(client: Any, topics: Collection[str] | None = None) -> dict[str, int]:
    """Topic -> number of partitions for these topics, or for all but Kafka's internal ones.

    ``client`` is an ``AIOKafkaClient``.  Raises :class:`models.errors.UnknownTopic` or an error of aiokafka.
    """
    names = None if topics is None else list(topics)
    failed: dict[str, int] = {}
    for attempt in range(_SETTLE_TRIES):
        if attempt:
            await asyncio.sleep(_SETTLE_SECONDS)
        answer = await _ask(client, names)
        found = {name: len(partitions) for code, name, internal, partitions in answer if not code and not internal}
        failed = {name: code for code, name, _, _ in answer if code}
        if names is None or not failed:
            return found
        if any(kafka.for_code(code) is kafka.TopicAuthorizationFailedError for code in failed.values()):
            raise kafka.TopicAuthorizationFailedError(", ".join(sorted(failed)))
        if attempt >= 3 and all(kafka.for_code(code) is kafka.UnknownTopicOrPartitionError for code in failed.values()):
            break
    raise UnknownTopic(f"there is no topic {', '.join(sorted(failed))}; create it, or start a worker, which does")


async def _ask(client: Any, names: list[str] | None) -> list[tuple[int, str, bool, list[Any]]]:
    node = client.get_random_node()
    if node is None:
        raise LogUnavailable("no broker of the cluster is known; is it starting?")
    answer = await client.send(node, MetadataRequest(names, allow_auto_topic_creation=False))
    return [(topic[0], topic[1], topic[2], topic[3]) for topic in answer.topics]
