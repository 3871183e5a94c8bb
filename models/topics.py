"""The catalogue of topics: name, partitions, key and retention of each, and the dead letter topic that belongs to it.

Whoever creates one of these topics asks here, so a producer that comes first and a worker that comes first make the
same topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from models.time import millis

DLQ_SUFFIX = ".dlq"
#: Partitions of a topic that is not in the catalogue.
DEFAULT_PARTITIONS = 4


class TopicNames:
    """Names used in code, so that a misspelt one is an error of the type checker."""

    TRANSACTIONS = "user-transactions"
    RULES = "fraud-rules"
    ALERTS = "fraud-alerts"
    USER_EVENTS = "user-events"
    SESSION_EVENTS = "session-events"
    SESSION_INSIGHTS = "session-insights"
    SESSION_SUMMARIES = "session-summaries"
    ORDERS = "orders"
    PAYMENTS = "payments"
    ENRICHED_ORDERS = "enriched-orders"
    ENRICHED_USER_EVENTS = "enriched-user-events"
    USER_INSIGHTS = "user-insights"
    LATE_EVENTS = "late-events"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like.  ``retention`` is how long a record is kept at least, ``None`` for ever."""

    name: str
    partitions: int
    #: Field of the record that is the record's key.
    key_field: str
    retention: timedelta | None
    #: Largest batch of records in bytes, ``None`` for the broker's default (1 MiB on Kafka).
    max_message_bytes: int | None = None

    @property
    def config(self) -> Mapping[str, str]:
        """The topic's configuration in Kafka's names."""
        retention_ms = -1 if self.retention is None else millis(self.retention)
        config = {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
        if self.max_message_bytes is not None:
            config["max.message.bytes"] = str(self.max_message_bytes)
        return MappingProxyType(config)


_WEEK = timedelta(days=7)
_MONTH = timedelta(days=30)

#: What the worker writes may hold a whole input record and more: a record that its own topic refuses would end the worker again and
#: again.  A broker bounds batches as they come, compressed, so an input record may be many times the broker's bound.
_LARGE = 64 << 20

#: Rules are never compacted: their history is the log itself.
CATALOGUE: Mapping[str, TopicSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            TopicSpec(TopicNames.TRANSACTIONS, 4, "user_id", _WEEK),
            TopicSpec(TopicNames.RULES, 1, "rule_id", None),
            TopicSpec(TopicNames.ALERTS, 4, "user_id", _MONTH, _LARGE),
            TopicSpec(TopicNames.USER_EVENTS, 4, "user_id", _WEEK),
            TopicSpec(TopicNames.SESSION_EVENTS, 4, "user_id", _WEEK),
            TopicSpec(TopicNames.SESSION_INSIGHTS, 4, "user_id", _WEEK),
            TopicSpec(TopicNames.SESSION_SUMMARIES, 4, "user_id", _MONTH),
            TopicSpec(TopicNames.ORDERS, 4, "order_id", _WEEK),
            TopicSpec(TopicNames.PAYMENTS, 4, "order_id", _WEEK),
            TopicSpec(TopicNames.ENRICHED_ORDERS, 4, "order_id", _WEEK, _LARGE),
            TopicSpec(TopicNames.ENRICHED_USER_EVENTS, 4, "user_id", _WEEK, _LARGE),
            TopicSpec(TopicNames.USER_INSIGHTS, 4, "user_id", _WEEK),
            TopicSpec(TopicNames.LATE_EVENTS, 4, "key", _MONTH, _LARGE),
            TopicSpec("health-status", 1, "operator", _WEEK),
        )
    }
)


def dlq_topic(topic: str) -> str:
    """Name of the topic that takes the bad records of ``topic``."""
    return topic + DLQ_SUFFIX


def origin_topic(dlq: str) -> str:
    """Name of the topic whose bad records ``dlq`` takes; a name without the suffix is its own origin."""
    return dlq.removesuffix(DLQ_SUFFIX)


def spec_of(topic: str) -> TopicSpec | None:
    """The catalogue's entry, derived for a dead letter topic from its origin; ``None`` for a topic that is not ours."""
    origin = CATALOGUE.get(origin_topic(topic))
    if origin is None or origin.name == topic:
        return origin
    return TopicSpec(topic, origin.partitions, origin.key_field, _MONTH, _LARGE)
