"""Faust's transport on the embedded log: ``broker="embedded://PATH"`` (entry point group ``faust.transports``)."""

from __future__ import annotations

import asyncio
import sqlite3

from faust.transport import base
from faust.types import AppT
from yarl import URL

from agents.transport import PartSink
from app.transport.client import BrokerClient
from app.transport.embedded.client import EmbeddedClient
from app.transport.embedded.consumer import Consumer
from app.transport.embedded.fetcher import Fetcher
from app.transport.embedded.location import locate
from app.transport.embedded.lock import WorkerLock
from app.transport.embedded.producer import Producer
from app.transport.embedded.sink import EmbeddedPartSink
from app.transport.embedded.transactions import TransactionManager


class Transport(base.Transport):
    """One worker per application is active on a log; further ones stand by.  Nothing is opened before the app starts."""

    Consumer = Consumer
    Producer = Producer
    TransactionManager = TransactionManager
    Fetcher = Fetcher

    driver_version = f"embedded log, SQLite {sqlite3.sqlite_version}"

    def __init__(self, url: list[URL], app: AppT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(url, app, loop)
        self.location = locate(str(url[0]))
        self.lock = WorkerLock(self.location, app.conf.id)

    def client(self) -> BrokerClient:
        """The log as a broker, for whatever is not a stream."""
        return EmbeddedClient(self.location.url)

    def part_sink(self) -> PartSink:
        """Where the lanes of this worker commit."""
        return EmbeddedPartSink(self.location, self.lock)

    def default_partitions(self, topic: str) -> int:
        """How many partitions a topic gets that nobody has created: as declared in the app, or Faust's default."""
        for declared in self.app.topics:
            if topic in declared.topics and declared.partitions:
                return declared.partitions
        return int(self.app.conf.topic_partitions)
