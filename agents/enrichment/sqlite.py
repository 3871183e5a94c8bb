"""Profiles in a SQLite file: what the enrichment job uses where no PostgreSQL is configured."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agents.enrichment.samples import sample_profiles
from agents.enrichment.source import ProfileSourceError, profile_of
from models.profiles import UserProfile

SCHEMA = (
    "CREATE TABLE user_profiles (user_id TEXT PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL, "
    "created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID"
)


class SqliteProfiles:
    """A :class:`agents.enrichment.source.ProfileSource` on one file, read in a thread of its own.

    A file that is not there is made, with the example profiles in it.  A row that is no profile is left out.
    """

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="profiles")
        self._connection: sqlite3.Connection | None = None

    async def get_many(self, user_ids: Sequence[str]) -> Mapping[str, UserProfile]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._select, user_ids)

    async def stop(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    # -- in the thread

    def _select(self, user_ids: Sequence[str]) -> dict[str, UserProfile]:
        marks = ",".join("?" * len(user_ids))
        query = f"SELECT user_id, name, tier FROM user_profiles WHERE user_id IN ({marks})"
        try:
            rows = self._opened().execute(query, list(user_ids)).fetchall()
        except (sqlite3.Error, OSError) as exc:
            self._close()
            raise ProfileSourceError(
                f"cannot read profiles from {self._path} ({exc}); delete the file to have it made anew, or set FAMULUS_POSTGRES_URL"
            ) from exc
        # A table that somebody else made may hold anything.
        profiles = (profile_of(*row) for row in rows)
        return {profile.user_id: profile for profile in profiles if profile is not None}

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None)
            try:
                self._fill(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @staticmethod
    def _fill(connection: sqlite3.Connection) -> None:
        """Several workers may come at the same time: one of them fills, in one transaction."""
        connection.execute("BEGIN IMMEDIATE")
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'user_profiles'").fetchone()
        if there is None:
            connection.execute(SCHEMA)
            connection.executemany(
                "INSERT INTO user_profiles (user_id, name, tier) VALUES (?, ?, ?)",
                ((profile.user_id, profile.name, profile.tier) for profile in sample_profiles()),
            )
        connection.execute("COMMIT")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
