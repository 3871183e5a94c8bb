"""Enrichment: each user event with the profile of its user."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from agents.operator import AsyncFunction
from agents.operator.metrics import OperatorMetrics
from models.errors import StateError
from models.events import UserEvent
from models.profiles import EnrichedUserEvent, Enrichment, UserProfile


class Lookup(Protocol):
    """Finds profiles; :class:`agents.enrichment.lookup.ProfileLookup` does."""

    async def find(self, user_id: str) -> tuple[UserProfile, Enrichment]:
        """The profile and where it came from.  Answers in time, whatever the sources do."""

    async def stop(self) -> None:
        """Close connections."""


class ProfileEnrichment(AsyncFunction[UserEvent, EnrichedUserEvent]):
    """``lookup`` makes the lookup when the worker starts.  No event is lost for want of a profile: it gets the default one."""

    def __init__(
        self,
        lookup: Callable[[OperatorMetrics], Lookup],
        *,
        ordered: bool = True,
        capacity: int = 50,
        timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(ordered=ordered, capacity=capacity, timeout=timeout)
        self._make_lookup = lookup
        self.lookup: Lookup | None = None

    async def open(self) -> None:
        self.lookup = self._make_lookup(self.metrics)

    async def close(self) -> None:
        lookup, self.lookup = self.lookup, None
        if lookup is not None:
            await lookup.stop()

    async def invoke(self, event: UserEvent) -> EnrichedUserEvent:
        if self.lookup is None:
            raise StateError("the enrichment is used before it is open")
        profile, enrichment = await self.lookup.find(event.user_id)
        return EnrichedUserEvent(event, profile, enrichment)

    def timeout(self, event: UserEvent) -> EnrichedUserEvent:
        return EnrichedUserEvent(event, UserProfile.default(event.user_id), Enrichment.DEFAULT)
