"""What all users of one log share within a process: the writer, the watcher and a few reading threads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import ClassVar, TypeVar

from app.transport.embedded.files import explained, open_log
from app.transport.embedded.hub import Hub
from app.transport.embedded.location import Location
from app.transport.embedded.log import Log, Topic, Transaction
from app.transport.embedded.maintenance import Maintenance
from app.transport.embedded.writer import Writer
from models.errors import UnknownTopic
from tables.log import TopicPartition

T = TypeVar("T")

READERS = 2


class Engine:
    """One per process and directory.  ``open`` it, ``close`` it as often; the last one ends its threads."""

    _open: ClassVar[dict[tuple[int, Location], Engine]] = {}
    _open_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, location: Location) -> None:
        self.location = location
        self._users = 0
        self._topics: dict[str, Topic] = {}
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._connections_lock = threading.Lock()
        self._small_lock = threading.Lock()
        with ExitStack() as opened:
            self._small = Log(open_log(location))
            opened.callback(self._small.db.close)
            self.hub = Hub(open_log(location, read_only=True))
            opened.callback(self.hub.close)
            self.writer = Writer(location, self.hub.announce)
            opened.callback(self.writer.close)
            opened.pop_all()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="embedded-log-reader")
        self._maintenance = Maintenance(location, self.writer)

    @classmethod
    async def open(cls, location: Location) -> Engine:
        """Raises :class:`models.errors.LogUnavailable` or :class:`models.errors.LogCorrupt`."""
        return await asyncio.to_thread(cls._acquire, location)

    @classmethod
    def _acquire(cls, location: Location) -> Engine:
        # A forked child must not use its parent's connections, hence the process id.
        key = (os.getpid(), location)
        with cls._open_lock:
            engine = cls._open.get(key)
            if engine is None:
                engine = cls._open[key] = cls(location)
            engine._users += 1
            return engine

    async def close(self) -> None:
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        with self._open_lock:
            self._users -= 1
            if self._users:
                return
            del self._open[(os.getpid(), self.location)]
            self._maintenance.close()
            self.writer.close()
            self.hub.close()
            self._readers.shutdown()
            for db in [*self._connections, self._small.db]:
                db.close()

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a write transaction; returns when it is durable."""
        return await asyncio.wrap_future(self.writer.submit(work))

    async def read(self, work: Callable[[Log], T]) -> T:
        """Run ``work`` on a reading thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Callable[[Log], T]) -> T:
        with explained(self.location.file):
            log: Log | None = getattr(self._local, "log", None)
            if log is None:
                log = self._local.log = Log(open_log(self.location, read_only=True))
                with self._connections_lock:
                    self._connections.append(log.db)
            return work(log)

    def topic(self, name: str) -> Topic:
        """A topic, from memory where possible (topics never change or vanish).

        Raises :class:`models.errors.UnknownTopic`.
        """
        found = self._topics.get(name) or self.topics().get(name)
        if found is None:
            raise UnknownTopic(f"topic {name!r} does not exist; `famulus topics` lists those that do")
        return found

    def topics(self) -> dict[str, Topic]:
        """All topics: one small read (a few microseconds), which never waits for writers."""
        with self._small_lock, explained(self.location.file):
            self._topics = self._small.topics()
        return self._topics

    def row_id(self, tp: TopicPartition) -> int:
        """Raises :class:`models.errors.UnknownTopic`."""
        topic = self.topic(tp[0])
        if not 0 <= tp[1] < len(topic.partitions):
            raise UnknownTopic(f"topic {tp[0]!r} has {len(topic.partitions)} partitions, none with number {tp[1]}")
        return topic.partitions[tp[1]]
