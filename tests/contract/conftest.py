"""The transports that have to pass the contract.  Adding one means adding a class here and its name to the fixture."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from agents.transport import PartSink
from app.transport.client import BrokerClient, connect
from app.transport.embedded.location import locate
from app.transport.embedded.lock import WorkerLock
from app.transport.embedded.sink import EmbeddedPartSink


class Broker(Protocol):
    """A broker under test, empty or shared: tests use topic names of their own."""

    #: what ``FAMULUS_BROKER`` takes
    url: str
    #: size of a value that it refuses
    too_large: int

    def sink(self, app_id: str) -> PartSink:
        """The sink of a worker of this application."""

    def rival(self, app_id: str) -> PartSink:
        """The sink of a second worker that takes the first one's place although that one still runs."""

    async def close(self) -> None: ...


class EmbeddedBroker:
    too_large = 65 << 20

    def __init__(self, directory: Path) -> None:
        self.url = f"embedded://{directory}?synchronous=off"
        self._locks: list[WorkerLock] = []

    def sink(self, app_id: str) -> PartSink:
        location = locate(self.url)
        self._locks.append(WorkerLock(location, app_id))
        return EmbeddedPartSink(location, self._locks[-1])

    def rival(self, app_id: str) -> PartSink:
        # A worker holds its place by a file lock; it can only be lost with the file.
        self._locks[-1].path.unlink()
        return self.sink(app_id)

    async def close(self) -> None:
        for lock in self._locks:
            lock.release()


@pytest.fixture(params=["embedded"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    brokers = {"embedded": EmbeddedBroker}
    under_test: Broker = brokers[request.param](tmp_path / "log")
    yield under_test
    await under_test.close()


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[BrokerClient]:
    async with connect(broker.url) as connected:
        yield connected


_numbers = itertools.count()


@pytest.fixture
def topic(tmp_path: Path) -> str:
    """A topic name that no other test uses."""
    return f"contract-{next(_numbers)}-{tmp_path.name[:40]}"
