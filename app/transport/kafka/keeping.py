"""Transactional ids that the broker does not forget.

A broker forgets an id that has ended no transaction for ``transactional.id.expiration.ms``, a week by default, and takes the producer that
then comes with it for one whose place was taken.  So a partition in which nothing happens ends a transaction with nothing in it now and
then.  That is fenced as any other: where another worker has taken over it fails, and takes nothing back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic

import aiokafka

from app.transport.kafka import internals, produce
from tables.log import TopicPartition

log = logging.getLogger(__name__)

#: An operator's uid and a partition of its source.
Key = tuple[str, TopicPartition]


class IdKeeper:
    """Looks after the producers of a worker's partitions.  Where aiokafka's inside is not what we know, it does nothing."""

    #: an id that was not used for so long is used
    every = timedelta(hours=6)

    def __init__(self, group: str) -> None:
        self._group = group
        self._producers: dict[Key, aiokafka.AIOKafkaProducer] = {}
        #: since when each is at rest; those in use are missing
        self._resting: dict[Key, float] = {}
        self._touches: dict[Key, asyncio.Task[None]] = {}
        self._failed: dict[Key, BaseException] = {}
        self._keeping: asyncio.Task[None] | None = None

    async def add(self, key: Key, producer: aiokafka.AIOKafkaProducer) -> None:
        """Look after this producer from now on, and not after the one before it."""
        await self.remove(key)
        self._producers[key], self._resting[key] = producer, monotonic()
        if self._keeping is None and internals.UNSUPPORTED is None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def remove(self, key: Key) -> None:
        """The partition leaves; its producer may be stopped afterwards."""
        self._producers.pop(key, None)
        self._resting.pop(key, None)
        self._failed.pop(key, None)
        touch = self._touches.pop(key, None)
        if touch is not None:
            touch.cancel()
            await asyncio.wait([touch])
        if not self._producers and self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None

    @contextlib.asynccontextmanager
    async def use(self, key: Key) -> AsyncIterator[None]:
        """The partition's producer is the caller's own.  Raises an error of aiokafka if its id was found to be lost meanwhile."""
        # Before we hear that one has ended, the next one may have begun.
        while (touch := self._touches.get(key)) is not None and not touch.done():
            await asyncio.wait([touch])
        if key in self._failed:
            raise self._failed.pop(key)
        self._resting.pop(key, None)
        yield
        if key in self._producers:
            self._resting[key] = monotonic()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self.every.total_seconds() / 4)
            for key in list(self._resting):
                since = self._resting.get(key)  # it may be in use by now
                if since is not None and monotonic() - since >= self.every.total_seconds():
                    touch = self._touches[key] = asyncio.get_running_loop().create_task(self._touch(key))
                    await asyncio.wait([touch])
                    self._touches.pop(key, None)

    async def _touch(self, key: Key) -> None:
        uid, source = key
        try:
            await produce.touch(self._producers[key], self._group)
        except Exception as error:  # whatever it is, the next part raises it
            log.warning("%s partition %d: nothing more can be written in its name (%r)", uid, source.partition, error)
            self._failed[key] = error
            self._resting.pop(key, None)
        else:
            self._resting[key] = monotonic()
