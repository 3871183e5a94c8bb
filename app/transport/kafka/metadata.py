"""Which topics there are, asked of a broker, without creating what is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from time import monotonic
from typing import Any

from aiokafka import errors as kafka
from aiokafka.protocol.metadata import MetadataRequest

from models.errors import LogUnreachable, UnknownTopic

#: A topic that is not there is asked for once more after so long: it may just be coming.
UNKNOWN_SECONDS = 0.2
#: A topic that is there gets its leaders within so long, and one that was just created is known to all brokers.
SETTLE_SECONDS = 20.0
_AGAIN_SECONDS = 0.05


async def partition_counts(
    client: Any, topics: Collection[str] | None = None, *, unknown_seconds: float = UNKNOWN_SECONDS
) -> dict[str, int]:
    """Topic -> number of partitions for these topics, or for all but Kafka's internal ones.

    ``client`` is an ``AIOKafkaClient``.  Raises :class:`models.errors.UnknownTopic` after ``unknown_seconds``, or an error of aiokafka.
    """
    names = None if topics is None else list(topics)
    started = monotonic()
    while True:
        answer = await _ask(client, names)
        found = {name: len(partitions) for code, name, internal, partitions in answer if not code and not internal}
        failed = {name: kafka.for_code(code) for code, name, _, _ in answer if code}
        if names is None or not failed:
            return found
        if kafka.TopicAuthorizationFailedError in failed.values():
            raise kafka.TopicAuthorizationFailedError(", ".join(sorted(failed)))
        if not any(error.retriable for error in failed.values()):  # no name for a topic, say: waiting changes nothing
            patience = 0.0
        elif kafka.UnknownTopicOrPartitionError in failed.values():
            patience = unknown_seconds
        else:
            patience = SETTLE_SECONDS
        if monotonic() - started >= patience:
            raise UnknownTopic(
                f"there is no topic {', '.join(sorted(failed))}; create it, or start a worker, which does"
            )
        await asyncio.sleep(_AGAIN_SECONDS)


async def _ask(client: Any, names: list[str] | None) -> list[tuple[int, str, bool, list[Any]]]:
    node = client.get_random_node()
    if node is None:
        raise LogUnreachable("no broker of the cluster is known; is it starting?")
    request = MetadataRequest(names, allow_auto_topic_creation=False)
    try:
        answer = await client.send(node, request)
    except kafka.KafkaConnectionError:
        # A broker closes a connection that was idle for minutes, perhaps while we ask.  Once more, on a new one.
        answer = await client.send(node, request)
    return [(topic[0], topic[1], topic[2], topic[3]) for topic in answer.topics]
