"""The transports that have to pass the contract.  Adding one means adding a class here and its name to the fixture."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from agents.transport import PartSink
from app.transport.brokers import connect
from app.transport.client import BrokerClient
from app.transport.embedded.location import locate
from app.transport.embedded.lock import WorkerLock
from app.transport.embedded.sink import EmbeddedPartSink
from app.transport.kafka import internals, produce
from app.transport.kafka.connection import Connection
from app.transport.kafka.sink import KafkaPartSink
from tables.log import TopicPartition


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


class NoGroup:
    """The sink of a worker that is in no consumer group."""

    async def hold(self) -> None: ...

    async def commit_lanes(self, offsets: Mapping[TopicPartition, int]) -> None: ...


class SettledSink(KafkaPartSink):
    """A commit is answered before its last records are visible; the next owner waits for them, and so does this one when it closes."""

    async def close(self, uid: str, source: TopicPartition) -> None:
        await super().close(uid, source)
        next_owner = produce.producer(
            self._connection, "settle", transactional_id=f"{self._app_id}-{uid}-{source.partition}"
        )
        await produce.start(next_owner)
        await produce.stop(next_owner)


class KafkaBroker:
    too_large = 2 << 20

    def __init__(self, bootstrap: str) -> None:
        self.url = f"kafka://{bootstrap}"

    def sink(self, app_id: str) -> PartSink:
        return SettledSink(Connection(self.url), app_id, NoGroup(), exactly_once=True)

    #: Whoever opens a partition takes it over.
    rival = sink

    async def close(self) -> None: ...


@pytest.fixture(params=["embedded", "kafka", "kafka through the public interface of its client"])
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broker]:
    under_test: Broker
    if request.param == "embedded":
        under_test = EmbeddedBroker(tmp_path / "log")
    else:
        under_test = KafkaBroker(request.getfixturevalue("kafka"))
    if "public" in request.param:
        monkeypatch.setattr(internals, "UNSUPPORTED", "its inside is left alone by this test")
    yield under_test
    await under_test.close()


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[BrokerClient]:
    async with connect(broker.url) as connected:
        yield connected


_numbers = itertools.count()
#: The broker may have been there before this run.
_run = uuid.uuid4().hex[:8]


@pytest.fixture
def topic(tmp_path: Path) -> str:
    """A topic name that no other test uses."""
    return f"contract-{_run}-{next(_numbers)}-{tmp_path.name[:40]}"
