"""Cache-aside lookup of profiles, made to bend: whatever the sources do, an answer comes in time.

    not there a moment ago? -> default
    cache (Redis)           -> "cache"
    database                -> "database", and into the cache
    otherwise               -> "default"

Each source has a share of the time, a circuit breaker, and is asked for a user once at a time (see :mod:`agents.enrichment.loader`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from agents.enrichment.breaker import BreakerState, CircuitBreaker
from agents.enrichment.loader import Loader
from agents.enrichment.source import ProfileCache, ProfileSource, ProfileSourceError
from agents.operator.metrics import OperatorMetrics
from models.errors import described
from models.profiles import Enrichment, UserProfile

log = logging.getLogger(__name__)

#: Profiles that wait for being written to the cache; more are not written, which costs a query later.
MAX_UNWRITTEN = 10_000
#: Writes to the cache that fail in a row until that is said.
WRITES_FAILED = 5
#: Users remembered as unknown.
MAX_ABSENT = 10_000
#: Waiting longer than this (seconds) holds up the events behind.  So nobody waits longer for the request that finds out whether a source that
#: failed is back, though the request goes on; and one that fails only after this counts for each look-up that it kept waiting.
LONG_S = 0.2


@dataclass(frozen=True, kw_only=True)
class LookupOptions:
    """``timeout`` is the whole time of one lookup, ``cache_timeout`` the cache's share of it, ``capacity`` the number of lookups in
    flight that connections are kept for, ``absent_for`` how long a user without a profile is not asked about again."""

    timeout: timedelta = timedelta(seconds=5)
    cache_timeout: timedelta = timedelta(milliseconds=500)
    capacity: int = 50
    absent_for: timedelta = timedelta(seconds=60)


class Found(NamedTuple):
    profile: UserProfile
    enrichment: Enrichment


@dataclass
class SourceStats:
    """Counted since start.  ``absent``: the source answered that it knows no such user."""

    found: int = 0
    absent: int = 0
    failed: int = 0
    #: not asked, because the breaker was open
    skipped: int = 0
    requests: int = 0


@dataclass
class LookupStats:
    """Lookups that asked nobody, and profiles that were not written to the cache."""

    #: answered from the memory of absent users
    known_absent: int = 0
    unwritten: int = 0


class Guarded:
    """A source behind its loader and its circuit breaker.

    When the breaker opens, those who wait for the source are let go, so that a source that hangs costs its time once and not again for
    everything that began to wait meanwhile.
    """

    def __init__(self, source: ProfileSource, breaker: CircuitBreaker, *, concurrency: int, timeout_s: float) -> None:
        self.source = source
        self.breaker = breaker
        self.stats = SourceStats()
        self._loader = Loader(self._fetch, concurrency=concurrency, timeout_s=timeout_s)
        self._said = ""

    async def get(self, user_id: str, deadline: float) -> UserProfile | None:
        """Raises ``ProfileSourceError`` or ``TimeoutError``."""
        patience = None
        if self.breaker.state is not BreakerState.CLOSED:
            if not self.breaker.allows():
                self.stats.skipped += 1
                raise self._left_alone()
            patience = LONG_S
        found = await self._loader.get(user_id, deadline, patience=patience)
        if found is None:
            self.stats.absent += 1
        else:
            self.stats.found += 1
        return found

    async def stop(self) -> None:
        await self._loader.stop()
        await self.source.stop()

    async def _fetch(self, user_ids: Sequence[str]) -> Mapping[str, UserProfile]:
        self.stats.requests += 1
        clock = asyncio.get_running_loop().time
        started = clock()

        def kept_waiting() -> int:
            return len(user_ids) if clock() - started > LONG_S else 1

        try:
            found = await self.source.get_many(user_ids)
        except asyncio.CancelledError:
            self.failed("no answer in time", kept_waiting())
            raise
        except ProfileSourceError as exc:
            self.failed(str(exc), kept_waiting())
            raise
        except Exception as exc:  # whatever a driver does: events must not be lost for it
            self.failed(described(exc), kept_waiting())
            raise ProfileSourceError(f"{self.source.name}: {described(exc)}") from exc
        self.succeeded()
        return found

    def succeeded(self) -> None:
        self.breaker.succeeded()
        if self._said:
            log.info("%s answers again", self.source.name)
            self._said = ""

    def failed(self, reason: str, lookups: int) -> None:
        self.stats.failed += 1
        opened = self.breaker.opened
        self.breaker.failed(lookups)
        if self.breaker.opened == opened:
            return
        self._loader.release(self._left_alone())
        if not self._said:
            self._said = reason
            log.warning(
                "%s: %s; events go on without it, and it is tried again every few seconds", self.source.name, reason
            )

    def _left_alone(self) -> ProfileSourceError:
        return ProfileSourceError(f"{self.source.name} fails and is left alone for a moment")


class ProfileLookup:
    """Finds the profile of a user.  Never raises, but when cancelled, and never takes longer than ``options.timeout``.

    One per worker; belongs to the event loop in which it is first used.  Into ``metrics`` it counts ``profiles`` by where they came from,
    measures ``lookup_ms`` and says how many ``sources_failing`` there are.
    """

    def __init__(
        self,
        database: ProfileSource,
        cache: ProfileCache | None = None,
        options: LookupOptions | None = None,
        metrics: OperatorMetrics | None = None,
    ) -> None:
        metrics = metrics or OperatorMetrics()
        self._outcomes = {enrichment: metrics.counter("profiles", enrichment.value) for enrichment in Enrichment}
        self._latency = metrics.histogram("lookup_ms")
        self._failing = metrics.gauge("sources_failing")
        self.options = options or LookupOptions()
        capacity, timeout_s = self.options.capacity, self.options.timeout.total_seconds()
        self._timeout_s = timeout_s
        self._cache_s = self.options.cache_timeout.total_seconds()
        self.stats = LookupStats()
        self.database = Guarded(database, CircuitBreaker(), concurrency=capacity, timeout_s=timeout_s)
        self.cache: Guarded | None = None
        self._writer: _CacheWriter | None = None
        if cache is not None:
            # Requests carry many keys, so a few connections are plenty; the others are for when the server is slow.
            self.cache = Guarded(cache, CircuitBreaker(), concurrency=capacity, timeout_s=self._cache_s)
            self._writer = _CacheWriter(cache, self.cache, timeout_s=self._cache_s)
        self._absent = _Absent(self.options.absent_for.total_seconds())

    async def find(self, user_id: str) -> Found:
        loop = asyncio.get_running_loop()
        now = loop.time()
        found = await self._find(user_id, now, now + self._timeout_s)
        self._outcomes[found.enrichment].inc()
        self._latency.observe((loop.time() - now) * 1000)
        self._failing.set(len(self.failing()))
        return found

    def failing(self) -> list[str]:
        """Names of the sources that are left alone now."""
        guarded = [self.database] if self.cache is None else [self.cache, self.database]
        return [one.source.name for one in guarded if one.breaker.state.value != "closed"]

    async def stop(self) -> None:
        if self._writer is not None:
            await self._writer.stop()
        if self.cache is not None:
            await self.cache.stop()
        await self.database.stop()

    async def _find(self, user_id: str, now: float, deadline: float) -> Found:
        if self._absent.knows(user_id, now):
            self.stats.known_absent += 1
            return _default(user_id)
        if self.cache is not None and self._writer is not None:
            unwritten = self._writer.waiting.get(user_id)
            if unwritten is not None:
                return Found(unwritten, Enrichment.CACHE)
            try:
                profile = await self.cache.get(user_id, min(deadline, now + self._cache_s))
            except (ProfileSourceError, TimeoutError):
                profile = None
            if profile is not None:
                return Found(profile, Enrichment.CACHE)
        try:
            profile = await self.database.get(user_id, deadline)
        except (ProfileSourceError, TimeoutError):
            return _default(user_id)
        if profile is None:
            self._absent.add(user_id, asyncio.get_running_loop().time())
            return _default(user_id)
        if self._writer is not None and not self._writer.write(profile):
            self.stats.unwritten += 1
        return Found(profile, Enrichment.DATABASE)


class _Absent:
    """Users without a profile, for a while; bounded, the oldest are forgotten first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[str, float] = OrderedDict()

    def knows(self, user_id: str, now: float) -> bool:
        until = self._until.get(user_id)
        if until is None:
            return False
        if until > now:
            return True
        del self._until[user_id]
        return False

    def add(self, user_id: str, now: float) -> None:
        self._until[user_id] = now + self._seconds
        self._until.move_to_end(user_id)
        if len(self._until) > MAX_ABSENT:
            self._until.popitem(last=False)


class _CacheWriter:
    """Writes profiles to the cache behind the lookup's back.

    ``waiting`` has those that are not there yet: whoever wants one of them meanwhile gets it from here.
    """

    def __init__(self, cache: ProfileCache, guarded: Guarded, *, timeout_s: float) -> None:
        self.waiting: dict[str, UserProfile] = {}
        self._cache = cache
        self._guarded = guarded
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    def write(self, profile: UserProfile) -> bool:
        """``False``: the cache is left alone now, or too much waits already."""
        if len(self.waiting) >= MAX_UNWRITTEN or self._guarded.breaker.state.value == "open":
            return False
        self.waiting[profile.user_id] = profile
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write())
        return True

    async def _write(self) -> None:
        try:
            while self.waiting:
                batch = list(self.waiting.values())[:256]
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await self._cache.put_many(batch)
                except Exception as exc:  # as above; not cached means asked for again
                    self._failed(exc)
                else:
                    self._succeeded()
                for profile in batch:
                    if self.waiting.get(profile.user_id) is profile:
                        del self.waiting[profile.user_id]
        finally:
            self._task = None

    def _failed(self, exc: Exception) -> None:
        """Said once: a cache that may only be read answers all questions, so nothing else would show why there are ever more misses."""
        self._failures += 1
        if self._failures == WRITES_FAILED:
            reason = str(exc) or f"{self._cache.name} does not take profiles in time"
            log.warning("%s; profiles are asked of the database again and again meanwhile", reason)

    def _succeeded(self) -> None:
        if self._failures >= WRITES_FAILED:
            log.info("%s can be written to again", self._cache.name)
        self._failures = 0

    async def stop(self) -> None:
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _default(user_id: str) -> Found:
    return Found(UserProfile.default(user_id), Enrichment.DEFAULT)
