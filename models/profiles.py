"""Who a user is: the profile that sources know, and the record on ``enriched-user-events``."""

from __future__ import annotations

import enum

import msgspec

from models.events import UserEvent
from models.transactions import Identifier, ShortText

UNKNOWN = "unknown"


class UserProfile(msgspec.Struct, frozen=True, gc=False):
    """A user's profile, as it lies in the table ``user_profiles`` and, as JSON, in the cache under ``user:USER_ID``."""

    user_id: Identifier
    name: ShortText
    tier: ShortText

    @classmethod
    def default(cls, user_id: str) -> UserProfile:
        """The profile of a user whom no source knows, or whom none could be asked about in time."""
        return cls(user_id, UNKNOWN, UNKNOWN)


class Enrichment(enum.Enum):
    """Where a profile came from.  ``DEFAULT``: from nowhere, see :meth:`UserProfile.default`."""

    CACHE = "cache"
    DATABASE = "database"
    DEFAULT = "default"


class EnrichedUserEvent(msgspec.Struct, frozen=True, gc=False):
    """A user event with the profile of its user."""

    event: UserEvent
    profile: UserProfile
    enrichment: Enrichment

    @property
    def user_id(self) -> str:
        return self.event.user_id

    @property
    def timestamp(self) -> int:
        return self.event.timestamp
