"""The job graph on one screen.

user-transactions ──> fraud ──> fraud-alerts
fraud-rules ─ ─ ─ ─ ─ ─┘ (broadcast)
fraud-rules ──> rules ──> fraud-rules.dlq (refused rules)

user-events ──> sessions ──> session-insights, session-events, session-summaries
user-events ──> profiles ──> fraud-alerts (suspicious patterns)
user-events ──> enrichment ──> enriched-user-events ──> insights ──> user-insights
                    └─ ─ Redis, then PostgreSQL or a SQLite file

orders ───┬──> orders ──> enriched-orders
payments ─┘

What comes too late goes to late-events, what cannot be read to TOPIC.dlq.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.enrichment.job import ENRICHMENT, EnrichmentOptions, enrichment
from agents.fraud import FRAUD, RULES
from agents.insights import INSIGHTS
from agents.operator import OperatorSpec
from agents.orders import ORDERS, orders
from agents.profiles import PROFILES
from agents.sessions import SESSIONS
from app.settings import EnrichmentOrder, Settings

#: job name -> its operators; ``FAMULUS_JOBS`` chooses among the names
JOBS: Mapping[str, Sequence[OperatorSpec]] = {
    "fraud": (FRAUD, RULES),
    "sessions": (SESSIONS,),
    "profiles": (PROFILES,),
    "orders": (ORDERS,),
    "enrichment": (ENRICHMENT,),
    "insights": (INSIGHTS,),
}


def operators(jobs: Sequence[str] | None = None, settings: Settings | None = None) -> list[OperatorSpec]:
    """Operators of the jobs, of all jobs without a choice, made as the settings say."""
    chosen = [spec for name, specs in JOBS.items() if jobs is None or name in jobs for spec in specs]
    return chosen if settings is None else [configured(spec, settings) for spec in chosen]


def configured(spec: OperatorSpec, settings: Settings) -> OperatorSpec:
    """The operator as the settings want it."""
    if spec is ORDERS:
        return orders(settings.join_time)
    if spec is ENRICHMENT:
        return enrichment(
            EnrichmentOptions(
                postgres_url=settings.postgres_url,
                redis_url=settings.redis_url,
                profiles_file=settings.data_dir / "profiles.sqlite",
                capacity=settings.enrichment_capacity,
                ordered=settings.enrichment_order is EnrichmentOrder.ORDERED,
            )
        )
    return spec
