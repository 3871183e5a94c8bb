"""Profiles in PostgreSQL: the table ``user_profiles(user_id, name, tier, created_at)``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg

from agents.enrichment.messages import CheckedMessages
from agents.enrichment.source import ProfileSourceError, profile_of
from models.errors import described
from models.profiles import UserProfile

QUERY = "SELECT user_id, name, tier FROM user_profiles WHERE user_id = ANY($1::text[])"
#: After the server had no connection left for us: how long until we ask for one more again.
GROW_AFTER_S = 5.0
#: Refused as often as the only one who asks, a request fails.
MAX_REFUSED = 10


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """What it receives is looked at first."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *args: Any) -> None:
        super().__init__(protocol, transport, *args)
        transport.set_protocol(CheckedMessages(protocol))

    # We only ever SELECT, so there is nothing to reset when a connection goes back to the pool: a round trip less.
    def get_reset_query(self) -> str:
        return ""


class PostgresProfiles:
    """A :class:`agents.enrichment.source.ProfileSource`.

    ``capacity``: connections at most, as many as there may be requests in flight, so that none queues for one.  Where the server allows
    fewer, as many as it allows.  A row that is no profile (a name of thousands of characters) counts in ``garbage`` and is left out.
    """

    name = "postgres"

    def __init__(self, url: str, *, capacity: int, connect_timeout: timedelta = timedelta(seconds=2)) -> None:
        self.garbage = 0
        self._url = url
        self._capacity = capacity
        self._connect_timeout_s = connect_timeout.total_seconds()
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self._limit = capacity
        self._busy = 0
        self._freed = asyncio.Event()
        self._grow: asyncio.TimerHandle | None = None

    async def get_many(self, user_ids: Sequence[str]) -> Mapping[str, UserProfile]:
        # PostgreSQL has no NUL in texts, so no user has one in the name.
        wanted = [user_id for user_id in user_ids if "\0" not in user_id]
        rows = await self._rows(wanted) if wanted else []
        found: dict[str, UserProfile] = {}
        for user_id, name, tier in rows:
            profile = profile_of(user_id, name, tier)
            if profile is None:
                self.garbage += 1
            else:
                found[user_id] = profile
        return found

    async def stop(self) -> None:
        if self._grow is not None:
            self._grow.cancel()
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _rows(self, user_ids: Sequence[str]) -> Sequence[Any]:
        refused = 0
        while True:
            while self._busy >= self._limit:
                self._freed.clear()
                await self._freed.wait()
            self._busy += 1
            try:
                return await self._query(user_ids)
            except asyncpg.TooManyConnectionsError as exc:
                # Those that are just being refused count, too, so the last one may be refused for their sake.
                refused += self._busy == 1
                if refused > MAX_REFUSED:
                    raise _failed(exc) from exc
                self._shrink()
                await asyncio.sleep(0.02 if refused else 0)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as exc:
                raise _failed(exc) from exc
            finally:
                self._busy -= 1
                self._freed.set()

    async def _query(self, user_ids: Sequence[str]) -> Sequence[Any]:
        pool = await self._opened()
        connection = await pool.acquire()
        try:
            rows: Sequence[Any] = await connection.fetch(QUERY, user_ids)
        except BaseException:
            # Also when cancelled: a connection that hangs would keep whoever gives it back waiting.
            connection.terminate()
            raise
        finally:
            await pool.release(connection)
        return rows

    async def _opened(self) -> Any:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._url,
                        min_size=0,
                        max_size=self._capacity,
                        timeout=self._connect_timeout_s,
                        connection_class=_Connection,
                        server_settings={"application_name": "famulus"},
                    )
        return self._pool

    def _shrink(self) -> None:
        """The server has no connection left: get by with those that we have, and ask again later."""
        self._limit = max(1, self._busy - 1)
        if self._grow is None:
            self._grow = asyncio.get_running_loop().call_later(GROW_AFTER_S, self._grow_again)

    def _grow_again(self) -> None:
        self._limit = min(self._capacity, self._limit * 2)
        self._freed.set()
        grown = self._limit == self._capacity
        self._grow = None if grown else asyncio.get_running_loop().call_later(GROW_AFTER_S, self._grow_again)


def _failed(exc: BaseException) -> ProfileSourceError:
    return ProfileSourceError(
        f"cannot read profiles from PostgreSQL ({described(exc)}); check FAMULUS_POSTGRES_URL, the server and "
        "the table user_profiles(user_id, name, tier, created_at)"
    )
