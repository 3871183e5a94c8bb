"""Example profiles: those of the exercise, and those of the simulator's users.

``docker/postgres/profiles.sql`` makes the same ones in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator

from models.profiles import UserProfile

#: Simulated users with an index from here on have no profile.
SAMPLE_USERS = 10_000

_NAMED = (
    UserProfile("user1", "John Doe", "gold"),
    UserProfile("user2", "Jane Smith", "silver"),
    UserProfile("user3", "Bob Johnson", "bronze"),
)


def sample_profiles() -> Iterator[UserProfile]:
    """Of ten users one is gold, two are silver, seven are bronze; every twelfth has no profile at all."""
    yield from _NAMED
    known = {profile.user_id for profile in _NAMED}
    for index in range(SAMPLE_USERS):
        user_id = f"user{index}"
        if index % 12 != 11 and user_id not in known:
            tier = "gold" if index % 10 == 0 else "silver" if index % 10 < 3 else "bronze"
            yield UserProfile(user_id, f"User {index}", tier)
