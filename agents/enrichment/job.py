"""The enrichment job: user events in, the same with profiles out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from agents.enrichment.lookup import LookupOptions, ProfileLookup
from agents.functions.enrichment import ProfileEnrichment
from agents.operator import OperatorSpec, keyed_source
from agents.operator.metrics import OperatorMetrics
from models.events import UserEvent
from models.topics import TopicNames

#: Of a lookup.  The runtime waits a little longer, so that the lookup's own answer in time is the one that counts.
TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True)
class EnrichmentOptions:
    """Where profiles are and how they are asked for.

    Without ``postgres_url`` they are in ``profiles_file`` (SQLite, made with example profiles if it is not there).  ``capacity``: lookups in
    flight per worker.  ``ordered``: results leave in the order of the events.
    """

    postgres_url: str | None = None
    redis_url: str | None = None
    profiles_file: Path = Path("var/profiles.sqlite")
    capacity: int = 50
    ordered: bool = True


def lookup_of(options: EnrichmentOptions) -> Callable[[OperatorMetrics], ProfileLookup]:
    """Makes the lookup, and imports the drivers, once the worker needs it."""

    def make(metrics: OperatorMetrics) -> ProfileLookup:
        from agents.enrichment.postgres import PostgresProfiles
        from agents.enrichment.redis import RedisProfiles
        from agents.enrichment.sqlite import SqliteProfiles

        capacity = options.capacity
        return ProfileLookup(
            PostgresProfiles(options.postgres_url, capacity=capacity)
            if options.postgres_url
            else SqliteProfiles(options.profiles_file),
            RedisProfiles(options.redis_url, capacity=capacity) if options.redis_url else None,
            LookupOptions(timeout=TIMEOUT, capacity=capacity),
            metrics,
        )

    return make


def enrichment(options: EnrichmentOptions | None = None) -> OperatorSpec:
    """The operator for these options."""
    chosen = options or EnrichmentOptions()
    return OperatorSpec(
        uid="enrichment",
        name="Enrichment with profiles",
        job="enrichment",
        function=lambda: ProfileEnrichment(
            lookup_of(chosen),
            ordered=chosen.ordered,
            capacity=chosen.capacity,
            timeout=TIMEOUT + timedelta(seconds=1),
        ),
        source=keyed_source(TopicNames.USER_EVENTS, msgspec.json.Decoder(UserEvent).decode, "user_id"),
        output=TopicNames.ENRICHED_USER_EVENTS,
    )


ENRICHMENT = enrichment()
