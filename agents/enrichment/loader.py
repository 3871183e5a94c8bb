"""Asks a source for many users at once, and for each of them once.

Keys wanted in the same turn of the event loop travel in one request (as ``MGET`` or ``= ANY(...)``).  Whoever wants a key that is being
asked for already waits for that answer: ten thousand misses of one key are one query.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from models.profiles import UserProfile

#: Users of one request.
MAX_BATCH = 256

Fetch = Callable[[Sequence[str]], Awaitable[Mapping[str, UserProfile]]]


class _Flight:
    """One key on its way, and those who wait for it.  ``deadline``: when the last of them gives up."""

    __slots__ = ("deadline", "key", "waiters")

    def __init__(self, key: str, deadline: float) -> None:
        self.key = key
        self.deadline = deadline
        # A future for each of them: with a shared one, ten thousand who give up would take a quadratic time.
        self.waiters: set[asyncio.Future[UserProfile | None]] = set()


class Loader:
    """``fetch`` gives the profiles of the users it is called with, as far as there are any.

    At most ``concurrency`` requests are under way, each for at most ``timeout_s`` seconds.
    """

    def __init__(self, fetch: Fetch, *, concurrency: int, timeout_s: float) -> None:
        self._fetch = fetch
        self._free = concurrency
        self._timeout_s = timeout_s
        self._flights: dict[str, _Flight] = {}
        self._waiting: deque[_Flight] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def get(self, key: str, deadline: float, *, patience: float | None = None) -> UserProfile | None:
        """The profile, or ``None`` if the source has none.

        ``deadline`` is a time of the running loop.  Raises ``TimeoutError`` once it or the request's own time is over, and what ``fetch``
        raised.  With a ``patience`` the caller waits no longer than that (seconds), but the request goes on until the deadline.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(key, deadline)
            self._waiting.append(flight)
            if not self._scheduled:
                self._scheduled = True
                # After everybody who is ready in this turn has asked.
                asyncio.get_running_loop().call_soon(self._dispatch)
        elif flight.deadline < deadline:
            flight.deadline = deadline
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[UserProfile | None] = loop.create_future()
        flight.waiters.add(waiter)
        # A plain timer, at a third of what `asyncio.timeout_at` takes: there is one for each look-up.
        until = deadline if patience is None else min(deadline, loop.time() + patience)
        timer = loop.call_at(until, _give_up, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            flight.waiters.discard(waiter)

    def release(self, error: Exception) -> None:
        """Let nobody wait any longer: all get the error.  Requests that are under way come to their own end."""
        while self._waiting:
            self._fail(self._waiting.popleft(), error)
        for flight in self._flights.values():
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_exception(error)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._waiting.clear()
        for flight in list(self._flights.values()):  # also those whose task never began
            self._fail(flight, TimeoutError("stopped"))

    def _dispatch(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._waiting and self._free:
            batch: list[_Flight] = []
            now = loop.time()
            while self._waiting and len(batch) < MAX_BATCH:
                flight = self._waiting.popleft()
                if flight.deadline <= now:  # nobody waits any more
                    self._fail(flight, TimeoutError("the source was busy until the deadline"))
                else:
                    batch.append(flight)
            if batch:
                self._free -= 1
                task = loop.create_task(self._run(batch))
                self._tasks.add(task)
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        if self._waiting:
            self._dispatch()

    async def _run(self, batch: list[_Flight]) -> None:
        now = asyncio.get_running_loop().time()
        seconds = min(self._timeout_s, max(flight.deadline for flight in batch) - now)
        try:
            async with asyncio.timeout(seconds):
                found = await self._fetch([flight.key for flight in batch])
        except asyncio.CancelledError:
            for flight in batch:
                self._fail(flight, TimeoutError("stopped"))
            raise
        except Exception as exc:
            for flight in batch:
                self._fail(flight, exc)
        else:
            for flight in batch:
                del self._flights[flight.key]
                profile = found.get(flight.key)
                for waiter in flight.waiters:
                    if not waiter.done():
                        waiter.set_result(profile)

    def _fail(self, flight: _Flight, exc: Exception) -> None:
        del self._flights[flight.key]
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_exception(exc)


def _give_up(waiter: asyncio.Future[UserProfile | None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError("no answer until the deadline"))
