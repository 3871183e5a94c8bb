"""What a profile source and a profile cache must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from models.errors import FamulusError
from models.profiles import UNKNOWN, UserProfile


class ProfileSourceError(FamulusError):
    """A profile source could not be asked.  Events go on with the default profile; the text says what to look at."""


class ProfileSource(Protocol):
    """Knows profiles.  Connects when first asked and again after it was cut off; nothing is opened before."""

    @property
    def name(self) -> str:
        """What metrics and log lines call it."""

    async def get_many(self, user_ids: Sequence[str]) -> Mapping[str, UserProfile]:
        """Profiles of those users that it knows.

        Raises :class:`ProfileSourceError` if it cannot tell.  May be cancelled at any time and frees what it holds then.
        """

    async def stop(self) -> None:
        """Close all connections; waits for nobody who hangs."""


class ProfileCache(ProfileSource, Protocol):
    """A source that can be written to."""

    async def put_many(self, profiles: Sequence[UserProfile]) -> None:
        """Remember profiles.  Raises :class:`ProfileSourceError` if it cannot."""


def profile_of(user_id: object, name: object, tier: object) -> UserProfile | None:
    """The profile that a row of a table says, with what is empty unknown; ``None`` where it is no profile."""
    try:
        return msgspec.convert({"user_id": user_id, "name": name or UNKNOWN, "tier": tier or UNKNOWN}, UserProfile)
    except msgspec.ValidationError:
        return None
