"""The watchdog, with a clock in its hand."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from app.watchdog import Watchdog
from models.errors import Stalled
from tables.log import TopicPartition


class Bed:
    def __init__(self) -> None:
        self.now = 0.0
        self.end = 0
        self.waiting: str | None = None
        self.ended: list[BaseException] = []
        self.opened = SimpleNamespace(tp=TopicPartition("t", 0), next_offset=0, durable=0)
        lane: Any = SimpleNamespace(spec=SimpleNamespace(uid="fraud"), partitions={0: self.opened})
        self.dog = Watchdog(
            [lane],
            lambda tp: self.end,
            lambda: self.waiting,
            lambda error, where: self.ended.append(error),
            stalled_after=timedelta(seconds=10),
            clock=lambda: self.now,
        )

    def after(self, seconds: float) -> str | None:
        self.now += seconds
        self.dog.look()
        return self.dog.stalled()


def test_a_partition_without_records_may_stand_still_for_ever() -> None:
    bed = Bed()
    assert [bed.after(1000) for _ in range(3)] == [None] * 3
    assert bed.ended == []


def test_a_partition_with_records_that_does_not_move_makes_the_worker_not_ready_and_then_end() -> None:
    bed = Bed()
    bed.after(1)
    bed.end = 5
    assert bed.after(1) is None
    assert bed.after(10) == "fraud partition 0 has records and has not moved for 11 s"
    assert bed.ended == []
    bed.after(10)
    assert [type(error) for error in bed.ended] == [Stalled]


def test_what_is_processed_and_never_becomes_durable_is_a_stall_too() -> None:
    bed = Bed()
    bed.after(1)
    bed.opened.next_offset = 3
    bed.after(1)
    assert bed.after(10) is not None


def test_every_step_starts_the_wait_anew() -> None:
    bed = Bed()
    bed.end = 100
    for _ in range(20):
        bed.opened.next_offset = bed.opened.durable = bed.opened.next_offset + 1
        assert bed.after(9) is None
    assert bed.ended == []


def test_time_in_which_the_broker_is_away_does_not_count() -> None:
    bed = Bed()
    bed.end = 5
    bed.after(1)
    bed.waiting = "Kafka has not answered"
    assert bed.after(500) is None
    bed.waiting = None
    assert bed.after(1) is None
    assert bed.after(9) is None
    assert bed.ended == []
