"""What is read back before the sources go on, from a log that the test holds in its hand."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.functions.rules import RuleAdmission
from agents.testing import HarnessRecord
from app.recovery import Progress, replay_source
from models.errors import LogError
from tables.log import Record, Slice, TopicPartition

TP = TopicPartition("fraud-rules", 0)


class Topic:
    """A reader of one partition that begins at ``start``; offsets without a record are never delivered."""

    def __init__(self, start: int, end: int, records: Iterable[Record] = ()) -> None:
        self.start_at, self.end, self.records = start, end, list(records)
        self.position = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def start_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, self.start_at)

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, self.end)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        (self.position,) = positions.values()

    async def poll(self, timeout: float) -> list[Slice]:
        if self.position >= self.end:
            raise AssertionError("it reads on behind the end")
        found = [record for record in self.records if record.offset >= self.position]
        self.position = self.end
        return [Slice(TP, found, self.end)]


class Remembering(RuleAdmission):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def replay(self, event: Record) -> None:
        self.seen.append(event.offset)


def _lane(next_offset: int) -> tuple[Any, Remembering]:
    function = Remembering()
    task = SimpleNamespace(function=function, next_offset=next_offset)
    spec = SimpleNamespace(uid="rules", source=SimpleNamespace(topic=TP.topic))
    return SimpleNamespace(spec=spec, partitions={0: SimpleNamespace(task=task)}), function


def _record(offset: int) -> Record:
    return HarnessRecord(offset, 0, b"k", b"v")


async def test_a_fold_is_given_what_it_read_before_and_no_more() -> None:
    lane, function = _lane(3)
    await replay_source(lane, 0, cast(Any, Topic(0, 5, [_record(0), _record(2), _record(3), _record(4)])))
    assert function.seen == [0, 2]


async def test_a_fold_whose_last_records_are_gone_goes_on_behind_them() -> None:
    lane, function = _lane(9)
    await replay_source(lane, 0, cast(Any, Topic(0, 9, [_record(1)])))
    assert function.seen == [1]


async def test_a_fold_over_a_topic_made_anew_ends_with_the_way_out_instead_of_waiting_for_ever() -> None:
    lane, _ = _lane(9)
    with pytest.raises(
        LogError, match=r"fraud-rules\[0\] ends at 4, but operator 'rules' has read it up to 9.*new FAMULUS_APP_ID"
    ):
        await replay_source(lane, 0, cast(Any, Topic(0, 4, [_record(1)])))


async def test_a_topic_whose_beginning_was_deleted_is_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    lane, function = _lane(9)
    await replay_source(lane, 0, cast(Any, Topic(7, 9, [_record(7), _record(8)])))
    assert function.seen == [7, 8]
    assert "begins at 7 only" in caplog.text


def test_how_long_it_takes_is_told_at_the_rate_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    one, two = TopicPartition("changelog", 0), TopicPartition("changelog", 1)
    progress = Progress(clock, {one: 10, two: 0}, {one: 10, two: 0}, {one: 110, two: 300})
    assert progress.seconds_left is None
    assert progress.text() == "reading state back: 0 of 400 changelog records (0 %)"
    clock, progress.position[two] = 110.0, 100
    assert progress.seconds_left == 30.0
    assert progress.text() == "reading state back: 100 of 400 changelog records (25 %), about 30 s left"
    progress.position = {one: 110, two: 300}
    assert progress.seconds_left == 0.0
    assert progress.text() is None
