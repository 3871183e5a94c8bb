"""Async I/O: a database that answers slowly, a cache that answers rubbish, and what comes out all the same."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

import msgspec

from agents.operator import AsyncFunction, ExponentialRetry
from models.time import Millis


class Event(msgspec.Struct, gc=False):
    user_id: str
    timestamp: Millis


class Profile(msgspec.Struct):
    user_id: str
    name: str = "unknown"
    tier: str = "none"


class Enriched(msgspec.Struct):
    event: Event
    profile: Profile
    enrichment: str


class Database(Protocol):
    async def profile(self, user_id: str) -> Profile | None: ...

    async def close(self) -> None: ...


# AsyncDatabaseEnrichment


class AsyncDatabaseEnrichment(AsyncFunction[Event, Enriched]):
    def __init__(self, database: Database) -> None:
        super().__init__(
            ordered=False,
            capacity=100,  # make the database's pool as large, or calls wait in its queue while their time runs
            timeout=timedelta(seconds=5),
            retry=ExponentialRetry(attempts=3, retry_error=lambda error: isinstance(error, ConnectionError)),
        )
        self.database = database

    async def invoke(self, event: Event) -> Enriched:
        profile = await self.database.profile(event.user_id)
        return Enriched(event, profile, "database") if profile else self.timeout(event)

    def timeout(self, event: Event) -> Enriched:
        return Enriched(event, Profile(event.user_id), "default")

    async def close(self) -> None:
        await self.database.close()


# AsyncRedisEnrichment


class AsyncRedisEnrichment(AsyncFunction[Event, Enriched]):
    def __init__(self, redis: Any) -> None:
        super().__init__(ordered=True, capacity=100, timeout=timedelta(seconds=2))
        self.redis = redis

    async def invoke(self, event: Event) -> Enriched:
        cached = await self.redis.get(f"user:{event.user_id}")
        try:
            return Enriched(event, msgspec.json.decode(cached, type=Profile), "cache")
        except (TypeError, msgspec.DecodeError):  # nothing there, or nothing that is a profile
            return self.timeout(event)

    def timeout(self, event: Event) -> Enriched:
        return Enriched(event, Profile(event.user_id), "default")
