"""When a partition cuts, on a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from agents.lane import Lane, LaneOptions
from agents.transport import SealedPart
from agents.virtual_time import VirtualLoop
from tables.store import PartitionStore
from tests.unit.test_lane import SPEC, Bench, HeldSink

INTERVAL = 0.050
BACKLOG_INTERVAL = 0.400


class Paced(Bench):
    """Partition 0 of a lane that commits every 50 ms, and when each of its parts was sealed."""

    def __init__(self, loop: VirtualLoop, interval: float = INTERVAL) -> None:
        self.loop = loop
        self.cuts: list[float] = []
        self.offsets: list[int] = []
        self.sink = HeldSink()
        self.epoch = 2
        self.next = 0
        options = LaneOptions(
            app_id="app",
            app_version="1",
            commit_interval=timedelta(seconds=interval),
            backlog_interval=timedelta(seconds=BACKLOG_INTERVAL),
            max_drift=timedelta(days=10_000),
            tick=None,
        )
        #: records that the log is known to hold
        self.known = 0
        self.lane = Lane(
            SPEC,
            options,
            lambda: self.sink,
            fatal=_raise,
            current_epoch=lambda: self.epoch,
            waiting=lambda tp, offset: self.known > offset,
        )
        loop.complete(self._open())

    async def _open(self) -> None:
        self.lane.open(0, PartitionStore())
        self.lane.listeners.append(self._noted)

    def _noted(self, part: SealedPart) -> None:
        self.cuts.append(round(self.loop.time(), 4))
        self.offsets.append(part.next_offset)

    def arrive(self, at: float) -> None:
        """A batch of one record at a time of the clock."""
        self.loop.run_to(at)
        self.loop.complete(self.give(1, first=self.next))
        self.next += 1
        self.loop.settle()


def _raise(error: BaseException, where: str) -> None:
    raise error


@pytest.fixture
def paced() -> Iterator[Paced]:
    loop = VirtualLoop()
    made = Paced(loop)
    yield made
    loop.complete(made.lane.close(0))
    loop.discard()


def test_the_first_batch_after_an_idle_time_is_committed_at_once(paced: Paced) -> None:
    paced.arrive(1.0)
    assert paced.cuts == [1.0]


def test_what_comes_within_the_interval_waits_for_its_end(paced: Paced) -> None:
    paced.arrive(1.0)
    paced.arrive(1.010)
    paced.arrive(1.020)
    paced.loop.run_to(1.2)
    assert (paced.cuts, paced.offsets) == ([1.0, 1.05], [1, 3])


def test_batches_at_the_pace_of_the_interval_fall_into_step_with_its_commits(paced: Paced) -> None:
    paced.arrive(1.0)
    for number in range(10):
        paced.arrive(1.015 + 0.052 * number)
    # Two wait for an interval, which is at least halved each time; from then on none does.
    assert paced.cuts == [1.0, 1.05, 1.075, *(round(1.015 + 0.052 * number, 4) for number in range(2, 10))]


def test_a_batch_that_comes_shortly_before_its_commit_is_due_is_committed_with_it(paced: Paced) -> None:
    for number in range(5):
        paced.arrive(1.0 + 0.047 * number)
    assert paced.cuts == [round(1.0 + 0.047 * number, 4) for number in range(5)]


def test_many_small_batches_cause_no_more_commits_than_a_few(paced: Paced) -> None:
    for number in range(200):
        paced.arrive(1.0 + 0.005 * number)
    paced.loop.run_to(3.0)
    assert len(paced.cuts) <= 2 + 1.0 / (INTERVAL * 7 / 8)  # besides the first and the last


def test_commits_are_never_closer_than_half_the_interval(paced: Paced) -> None:
    for number in range(20):  # each just behind a commit, so that the next commit would be due just behind the last
        paced.arrive(1.0 + 0.026 * number)
    paced.loop.run_to(3.0)
    assert min(after - before for before, after in zip(paced.cuts, paced.cuts[1:], strict=False)) >= INTERVAL / 2 - 1e-9


@pytest.mark.parametrize("interval", [INTERVAL, 0.0], ids=["exactly once", "at least once"])
def test_a_partition_that_is_far_behind_commits_less_often_until_it_has_caught_up(interval: float) -> None:
    loop = VirtualLoop()
    paced = Paced(loop, interval)
    paced.known = 10_000
    for number in range(10):
        paced.arrive(1.0 + 0.1 * number)
    assert len(paced.cuts) in (3, 4)  # 0.3 to 0.4 s apart: from an arrival on
    paced.known = 0
    for number in range(10, 20):
        paced.arrive(1.0 + 0.1 * number)
    # What was collected when it caught up does not wait for the end of the long interval either.
    assert 2.0 <= paced.cuts[-10] <= 2.0 + interval
    assert paced.cuts[-9:] == [round(1.0 + 0.1 * number, 4) for number in range(11, 20)]
    loop.complete(paced.lane.close(0))
    loop.discard()
