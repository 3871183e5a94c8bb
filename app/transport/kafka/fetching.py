"""Fetching for lanes: whole fetch results, woken up when there is something to look at, with a window that makes batches larger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Set
from time import monotonic
from typing import Any

import aiokafka
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import ConsumerStoppedError, IllegalStateError
from faust.types import TP

from app.transport.batches import FetchedSlice
from app.transport.kafka import internals

#: Records of one partition in one fetch, in bytes (a larger record comes alone), and how many are as good as all of these.
PARTITION_FETCH_BYTES = 1 << 20
FULL_BYTES = PARTITION_FETCH_BYTES // 2
#: How long a request that brings nothing waits at the broker.  (Faust's 1,500 ms hold up every question about offsets.)
FETCH_WAIT_MS = 250
#: The same while fetched records lie here untaken: the next request concerns other partitions only and must not be long in the way.
BUSY_FETCH_WAIT_MS = 20
#: The public interface cannot be woken up, so it waits in small steps.
_PUBLIC_WAIT_SECONDS = 0.1


class WindowFetcher(Fetcher):  # type: ignore[misc]
    """aiokafka's fetcher with at least ``window`` seconds between two requests to a broker.

    Records wait at the broker meanwhile and come all at once: fewer, larger batches.  At 5,000 records a second a window of 10 ms halves
    the CPU of a record and makes latency better, too.  An idle consumer keeps its request waiting at the broker, so a lone record is not
    delayed.  Where a fetch was full nothing need wait for more, and the next one had better come before this one is done.
    """

    window = 0.0
    #: whether the last fetch brought as much of a partition as a fetch may bring, or nearly
    full = False
    lane_topics: Collection[str] = frozenset()
    _next_request = 0.0

    def _get_actions_per_node(self, assignment: Any) -> Any:
        left = self._next_request - monotonic()
        if left > 0:
            return [], {}, left, False, []
        actions = super()._get_actions_per_node(assignment)
        requests = actions[0]
        if requests:
            self._next_request = monotonic() + (0.0 if self.full else self.window)
            if any(tp.topic in self.lane_topics for tp in self._records):
                for _, request in requests:
                    request._max_wait_ms = min(request._max_wait_ms, BUSY_FETCH_WAIT_MS)
        return actions


class Fetching:
    """What a consumer thread fetches: slices of lane partitions, and records of plain ones."""

    def __init__(self, consumer: aiokafka.AIOKafkaConsumer, epoch: Callable[[], int], *, whole_fetches: bool) -> None:
        self._consumer = consumer
        self._epoch = epoch
        self._whole_fetches = whole_fetches
        self._wake: asyncio.Future[None] | None = None
        #: held while records are taken or positions change: both together with the epoch
        self.turn = asyncio.Lock()
        #: where each lane partition stood, for the public interface, which gives records only
        self._positions: dict[Any, int] = {}
        self.lane_topics: frozenset[str] = frozenset()

    def use_window(self, seconds: float) -> None:
        """Make batches larger; only where aiokafka's inside is known."""
        fetcher = self._consumer._fetcher
        if self._whole_fetches and type(fetcher) is Fetcher:
            fetcher.__class__ = WindowFetcher
            fetcher.window = seconds

    def subscribed(self, lane_topics: frozenset[str]) -> None:
        self.lane_topics = lane_topics
        fetcher = self._consumer._fetcher
        if isinstance(fetcher, WindowFetcher):
            fetcher.lane_topics = lane_topics

    def wake(self) -> None:
        """Look again now.  To be called in the consumer's own loop."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def fetch(self, active: Set[TP], timeout: float, max_records: int | None) -> dict[Any, Any]:
        """What there is of the ``active`` partitions, waiting up to ``timeout`` seconds for something.

        The set may change meanwhile, also by another thread: a partition that has left it is not taken.
        """
        if self._whole_fetches:
            return await self._whole(active, timeout, max_records)
        return await self._public(active, timeout, max_records)

    async def _whole(self, active: Set[TP], timeout: float, max_records: int | None) -> dict[Any, Any]:
        fetcher = self._consumer._fetcher
        subscriptions = fetcher._subscriptions
        deadline = monotonic() + timeout
        with subscriptions.fetch_context():
            while True:
                if self._consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                if subscriptions.reassignment_in_progress:
                    await subscriptions.wait_for_assignment()
                fetched: dict[Any, Any] = {}
                async with self.turn:
                    epoch, now = self._epoch(), set(active)
                    lanes = {tp for tp in now if tp.topic in self.lane_topics}
                    taken = internals.take(fetcher, lanes)
                    for tp, part in taken.items():
                        fetched[tp] = FetchedSlice(part.records, part.next_offset, part.size, epoch)
                    if taken:
                        fetcher.full = max(part.size for part in taken.values()) >= FULL_BYTES
                plain = now - lanes
                if plain and any(tp in plain for tp in fetcher._records):
                    fetched.update(await fetcher.fetched_records(plain, timeout=0, max_records=max_records))
                left = deadline - monotonic()
                if fetched or left <= 0:
                    return fetched
                await self._wait(fetcher, left)

    async def _wait(self, fetcher: Any, seconds: float) -> None:
        """Until something was fetched, somebody wakes us, or time is over."""
        waiter = fetcher._create_fetch_waiter()
        wake = self._wake = asyncio.get_running_loop().create_future()
        try:
            done, _ = await asyncio.wait([waiter, wake], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiter in done:
                waiter.result()  # raises what the coordinator has to say
        finally:
            self._wake = None
            waiter.cancel()
            wake.cancel()

    async def _public(self, active: Set[TP], timeout: float, max_records: int | None) -> dict[Any, Any]:
        consumer = self._consumer
        deadline = monotonic() + timeout
        while True:
            async with self.turn:
                mine = [tp for tp in consumer.assignment() if tp in active]
                out = await self._public_step(mine, max(0.0, deadline - monotonic()), max_records) if mine else {}
            if not mine:
                return {}
            if out or monotonic() >= deadline:
                return out

    async def _public_step(self, mine: list[Any], left: float, max_records: int | None) -> dict[Any, Any]:
        epoch = self._epoch()
        wait = min(_PUBLIC_WAIT_SECONDS, left)
        fetched = await self._consumer.getmany(*mine, timeout_ms=int(1000 * wait), max_records=max_records)
        out: dict[Any, Any] = {
            tp: _slice(records, epoch) if tp.topic in self.lane_topics else records
            for tp, records in fetched.items()
            if records
        }
        self._positions.update({tp: part.next_offset for tp, part in out.items() if isinstance(part, FetchedSlice)})
        return out or await self._undelivered([tp for tp in mine if tp.topic in self.lane_topics], epoch)

    async def _undelivered(self, lanes: list[Any], epoch: int) -> dict[Any, FetchedSlice]:
        """Slices without records, of partitions that went on over what is never delivered."""
        out = {}
        for tp in lanes:
            try:
                position = await self._consumer.position(tp)
            except IllegalStateError:  # given back meanwhile
                continue
            if position > self._positions.get(tp, 0):
                self._positions[tp] = position
                out[tp] = FetchedSlice([], position, 0, epoch)
        return out


def _slice(records: list[Any], epoch: int) -> FetchedSlice:
    size = sum(len(record.key or b"") + len(record.value or b"") for record in records)
    return FetchedSlice(records, records[-1].offset + 1, size, epoch)
