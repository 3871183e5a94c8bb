"""Profiles in Redis: JSON under ``user:USER_ID``, kept for an hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agents.enrichment.source import ProfileSourceError
from models.errors import described
from models.profiles import UserProfile

KEY_PREFIX = "user:"
TTL = timedelta(seconds=3600)
#: A longer value is no profile.
MAX_VALUE_BYTES = 16_384

_decode = msgspec.json.Decoder(UserProfile).decode
_encode = msgspec.json.Encoder().encode


class RedisProfiles:
    """A :class:`agents.enrichment.source.ProfileCache`.

    ``capacity``: connections at most.  What lies under a key and is no profile of that user counts in ``garbage`` and is written anew.
    """

    name = "redis"

    def __init__(
        self, url: str, *, capacity: int, connect_timeout: timedelta = timedelta(seconds=1), ttl: timedelta = TTL
    ) -> None:
        self.garbage = 0
        self._ttl_s = int(ttl.total_seconds())
        self._client = aioredis.Redis.from_url(
            url,
            max_connections=capacity,
            socket_connect_timeout=connect_timeout.total_seconds(),
            # A pooled connection may be stale since the server was restarted: once more, then it is an error.
            retry=Retry(NoBackoff(), 1),
        )

    async def get_many(self, user_ids: Sequence[str]) -> Mapping[str, UserProfile]:
        try:
            values = await self._client.mget([KEY_PREFIX + user_id for user_id in user_ids])
        except (RedisError, OSError, ValueError) as exc:
            raise _failed("read from", exc) from exc
        if not isinstance(values, list) or len(values) != len(user_ids):
            raise ProfileSourceError(
                "Redis: the answer to MGET is not a list of as many values; is it Redis that listens there?"
            )
        found: dict[str, UserProfile] = {}
        for user_id, value in zip(user_ids, values, strict=True):
            if value is not None:
                profile = self._profile(user_id, value)
                if profile is not None:
                    found[user_id] = profile
        return found

    async def put_many(self, profiles: Sequence[UserProfile]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for profile in profiles:
            pipeline.set(KEY_PREFIX + profile.user_id, _encode(profile), ex=self._ttl_s)
        try:
            await pipeline.execute()
        except (RedisError, OSError, ValueError) as exc:
            raise _failed("write to", exc) from exc

    async def stop(self) -> None:
        await self._client.aclose()

    def _profile(self, user_id: str, value: object) -> UserProfile | None:
        if isinstance(value, bytes) and len(value) <= MAX_VALUE_BYTES:
            try:
                profile = _decode(value)
            except (ValueError, RecursionError):
                profile = None
            if profile is not None and profile.user_id == user_id:
                return profile
        self.garbage += 1
        return None


def _failed(what: str, exc: BaseException) -> ProfileSourceError:
    return ProfileSourceError(f"cannot {what} Redis ({described(exc)}); check FAMULUS_REDIS_URL and the server")
