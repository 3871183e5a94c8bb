"""Partitions that are opened while the group changes its mind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from faust.tables.recovery import RebalanceAgain

from agents.lane import Lane, LaneOptions
from agents.transport import SealedPart
from app.assignment import LaneAssignment
from app.broadcasts import BroadcastReader
from app.settings import Settings
from models.errors import LogUnreachable
from tables.log import TopicPartition
from tables.store import PartitionStore
from tests.unit.test_lane import SPEC


class Sink:
    """Remembers which partitions are taken over."""

    def __init__(self) -> None:
        self.opened: set[TopicPartition] = set()

    async def open(self, uid: str, source: TopicPartition, changelog: TopicPartition) -> None:
        self.opened.add(source)

    async def close(self, uid: str, source: TopicPartition) -> None:
        self.opened.discard(source)

    async def write(self, part: SealedPart) -> int:
        return 0

    def partitions(self, topic: str) -> int:
        return 4


class Store(PartitionStore):
    open_stores = 0

    def __init__(self) -> None:
        super().__init__()
        Store.open_stores += 1

    def close(self) -> None:
        Store.open_stores -= 1


class Restorer:
    """Reads state back when the test lets it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def restore(self, wanted: Mapping[str, Iterable[int]]) -> dict[TopicPartition, Store]:
        self.asked.set()
        await self.gate.wait()
        return {TopicPartition(changelog, n): Store() for changelog, numbers in wanted.items() for n in numbers}


class App:
    """Of the application only what opens lanes."""

    should_stop = False

    def __init__(self) -> None:
        self.sink_ = Sink()
        options = LaneOptions(
            app_id="app", app_version="1", commit_interval=timedelta(0), max_drift=timedelta(hours=1), tick=None
        )
        self.lane = Lane(SPEC, options, lambda: self.sink_, fatal=self.fail, current_epoch=lambda: 0)
        self.lanes = [self.lane]
        self.broadcast_readers: list[BroadcastReader] = []
        self.partition_counts = {"numbers": 4}
        self.restorer: Any = Restorer()
        self.claims: list[Mapping[str, list[int]]] = []
        self.members: Any = SimpleNamespace(claim=self._claim)
        self.alert_follower: Any = SimpleNamespace(partitions_changed=lambda: None)
        self.consumer: Any = SimpleNamespace(assignment=lambda: {TopicPartition("numbers", n) for n in range(2)})
        self.failures: list[BaseException] = []
        self.local_state: Any = None
        self.settings = Settings(broker="embedded:///nowhere")
        self.silent: str | None = None
        self.assignment = LaneAssignment(self)

    def waiting(self) -> str | None:
        return self.silent

    def partitions_of(self, topic: str) -> int:
        return self.partition_counts[topic]

    def client(self) -> Any:
        return SimpleNamespace(reader=lambda: None)

    async def _claim(self, partitions: Mapping[str, list[int]]) -> None:
        self.claims.append(partitions)

    def fail(self, error: BaseException, where: str) -> None:
        self.failures.append(error)

    fatal = fail


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(Store, "open_stores", 0)
    return App()


async def _close(app: App) -> None:
    for number in list(app.lane.partitions):
        await app.lane.close(number)


async def test_partitions_that_were_taken_over_and_not_opened_are_given_back(app: App) -> None:
    opening = asyncio.ensure_future(app.assignment.open())
    await app.restorer.asked.wait()
    assert len(app.sink_.opened) == 2
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert app.sink_.opened == set()
    assert not app.lane.partitions


async def test_a_partition_whose_fold_was_not_given_everything_is_not_kept(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaying = asyncio.Event()

    async def replay(*args: Any) -> None:
        replaying.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("app.assignment.replay_source", replay)
    app.restorer.gate.set()
    opening = asyncio.ensure_future(app.assignment.open())
    await replaying.wait()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert not app.lane.partitions
    assert app.sink_.opened == set()
    assert Store.open_stores == 0


async def test_partitions_given_back_while_they_are_being_opened_are_not_opened_after_that(app: App) -> None:
    opening = asyncio.ensure_future(app.assignment.open())
    await app.restorer.asked.wait()
    await app.assignment.close()
    app.restorer.gate.set()
    with pytest.raises(RebalanceAgain):
        await opening
    assert not app.lane.partitions
    assert not app.claims
    assert not app.failures


async def test_a_library_that_swallows_a_cancellation_does_not_keep_partitions_from_being_given_back(app: App) -> None:
    app.assignment.cancel_again = timedelta(milliseconds=20)
    swallowed = asyncio.Event()

    class Swallowing(Restorer):
        async def restore(self, wanted: Mapping[str, Iterable[int]]) -> dict[TopicPartition, Store]:
            try:
                return await super().restore(wanted)
            except asyncio.CancelledError:
                swallowed.set()
                return await super().restore(wanted)

    app.restorer = Swallowing()
    opening = asyncio.ensure_future(app.assignment.open())
    await app.restorer.asked.wait()
    async with asyncio.timeout(10):
        await app.assignment.close()
    assert swallowed.is_set()
    with pytest.raises(RebalanceAgain):
        await opening
    assert app.sink_.opened == set()


async def test_what_a_new_assignment_opens_is_not_closed_by_the_one_before(app: App) -> None:
    first = asyncio.ensure_future(app.assignment.open())
    await app.restorer.asked.wait()
    app.restorer.gate.set()
    first.cancel()
    await app.assignment.open()
    await asyncio.gather(first, return_exceptions=True)
    assert set(app.lane.partitions) == {0, 1}
    assert len(app.sink_.opened) == 2
    await _close(app)


class Away(Restorer):
    """The broker is away the first times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times
        self.gate.set()

    async def restore(self, wanted: Mapping[str, Iterable[int]]) -> dict[TopicPartition, Store]:
        if self.left:
            self.left -= 1
            raise LogUnreachable("nobody answers")
        return await super().restore(wanted)


async def test_a_broker_that_is_away_is_waited_for_and_what_was_taken_over_is_given_back_meanwhile(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str | None, set[TopicPartition]]] = []

    async def sleep(seconds: float) -> None:
        said.append((app.assignment.waits_for, set(app.sink_.opened)))

    monkeypatch.setattr("app.outages.asyncio.sleep", sleep)
    app.restorer = Away(2)
    await app.assignment.open()
    assert said == [("nobody answers", set())] * 2
    assert set(app.lane.partitions) == {0, 1}
    assert app.assignment.waits_for is None
    assert not app.failures
    await _close(app)


@pytest.mark.parametrize("group_is_silent", [False, True])
async def test_what_does_not_work_while_the_group_answers_ends_the_worker_in_the_end(
    group_is_silent: bool, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += 60.0

    monkeypatch.setattr("app.outages.asyncio.sleep", sleep)
    monkeypatch.setattr("app.assignment.monotonic", lambda: clock)
    app.silent = "Kafka has not answered" if group_is_silent else None
    app.restorer = Away(10)
    if group_is_silent:
        await app.assignment.open()
        await _close(app)
        assert not app.failures
    else:
        with pytest.raises(LogUnreachable):
            await app.assignment.open()
        assert clock == 180.0  # more than twice the time of a stall
        assert len(app.failures) == 1
    assert app.sink_.opened == set()
